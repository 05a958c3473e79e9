"""Components of a user's own file: found, brought to other processes, compared, trusted."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from hep_ray.errors import DuplicateName, PluginFailed, UnknownName, UntrustedCode
from hep_ray.losses import LOSSES
from hep_ray.plugins import Plugin, differences, import_source, importing, load, restore, trust
from hep_ray.registry import OWN_CODE
from hep_ray.search.find import load_search
from tests.facts import raises, tells

LOSS = '''
import torch
from hep_ray import main
from hep_ray.config import Config
from hep_ray.losses import Loss, loss


class Empty(Config):
    """No keys."""


@loss("{name}", Empty)
class Mine(Loss):
    """{words}"""

    def __init__(self, config):
        super().__init__()

    def forward(self, logits, target):
        return torch.nn.functional.cross_entropy(logits, target, reduction="none")

    def probabilities(self, logits):
        return logits.softmax(dim=1)
'''


@pytest.fixture(autouse=True)
def forget():
    """What a test registered is gone after it."""
    LOSSES._discover()
    modules, entries, own = set(sys.modules), dict(LOSSES._entries), dict(OWN_CODE)
    yield
    for name in set(sys.modules) - modules:
        if not name.startswith(("hep_ray", "torch")):
            sys.modules.pop(name)
    LOSSES._entries = entries
    OWN_CODE.clear()
    OWN_CODE.update(own)


def plugin_of(
    path: Path, module: str = "of_a_test_nets", name: str = "of_a_test", words: str = "A loss."
) -> Plugin:
    source = LOSS.format(name=name, words=words)
    path.write_text(source)
    digest = hashlib.sha256(source.encode()).hexdigest()
    return Plugin(module=module, path=str(path), sha256=digest, registers=(f"loss '{name}'",), source=source)


def test_a_process_tells_what_its_own_files_registered(tmp_path: Path) -> None:
    plugin = plugin_of(tmp_path / "nets.py", module="nets")
    code = "import nets; from hep_ray.plugins import registered; print(registered()[0].model_dump_json())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert Plugin.model_validate_json(done.stdout) == plugin


def test_another_process_has_the_component_once_the_plugin_is_loaded(tmp_path: Path) -> None:
    plugin = plugin_of(tmp_path / "nets.py")
    with pytest.raises(UnknownName):
        LOSSES["of_a_test"]
    (tmp_path / "nets.py").unlink()  # another node has no such file
    load([plugin])
    first = LOSSES["of_a_test"]
    load([plugin])
    assert LOSSES["of_a_test"] is first


def test_another_version_of_the_file_replaces_what_it_registered_in_a_process_kept_warm(
    tmp_path: Path,
) -> None:
    before = plugin_of(tmp_path / "nets.py", words="Before.")
    after = plugin_of(tmp_path / "nets.py", words="After.")
    load([before])
    load([after])
    assert LOSSES["of_a_test"].build.__doc__ == "After."


def test_a_name_that_two_files_claim_is_refused_with_both(tmp_path: Path) -> None:
    one, two = (plugin_of(tmp_path / f"{name}.py", module=f"of_a_test_{name}") for name in ("one", "two"))
    load([one])
    with pytest.raises(DuplicateName) as caught:
        load([two])
    assert str(tmp_path / "one.py") in str(caught.value)
    assert str(tmp_path / "two.py") in str(caught.value)
    assert LOSSES["of_a_test"].build.__module__ == "of_a_test_one"


def test_a_name_of_hep_rays_own_cannot_be_taken(tmp_path: Path) -> None:
    path = tmp_path / "nets.py"
    source = LOSS.format(name="hinge", words="Another hinge.")
    with raises(DuplicateName, "'hinge'", path):
        import_source("of_a_test_nets", path, source)
    assert LOSSES["hinge"].build.__module__ == "hep_ray.losses.simple"


@pytest.mark.parametrize(
    ("source", "line", "cause"),
    [
        ("x = 1\nimport no_such_package\n", 2, "ModuleNotFoundError"),
        ("x = 1\n\ny = 1 / 0\n", 3, "ZeroDivisionError"),
        ("x = (\n", 1, "SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_imported_is_named_with_its_line(
    tmp_path: Path, source: str, line: int, cause: str
) -> None:
    path = tmp_path / "nets.py"
    with pytest.raises(PluginFailed) as caught:
        import_source("of_a_test_nets", path, source)
    assert f"{path}, line {line}: {cause}" in str(caught.value)
    assert "of_a_test_nets" not in sys.modules


def test_a_script_without_a_guard_does_not_run_its_search_when_it_is_imported(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from hep_ray import Preset, Search, Space, main\n"
        "search = Search(name='unguarded', task='t', title='T.', space=Space(model='cnn'),\n"
        "                presets={'smoke': Preset(trials=1, epochs=1)})\n"
        "main(search)\n"
    )
    assert load_search(str(script)).name == "unguarded"
    assert not importing()


def test_a_search_finds_its_file_again_and_refuses_one_that_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "there" / "nets.py"
    path.parent.mkdir()
    recorded = plugin_of(path).recorded
    assert recorded.source == ""
    restored = restore([recorded])
    assert "of_a_test" in LOSSES
    assert restored[0].source == path.read_text()

    path.write_text(path.read_text() + "\n# another line\n")
    with pytest.raises(PluginFailed) as caught:
        restore([recorded])
    assert str(path) in str(caught.value)
    assert recorded.sha256[:12] in str(caught.value)

    monkeypatch.chdir(tmp_path)
    path.unlink()
    with raises(PluginFailed, path, "'of_a_test'"):
        restore([recorded])
    plugin_of(tmp_path / "nets.py")  # the same text, moved into the working directory
    assert restore([recorded])[0].path == str(tmp_path / "nets.py")


def test_differences_name_what_changed_came_and_went(tmp_path: Path) -> None:
    one = Plugin(module="one", path="/x/one.py", sha256="a" * 64, registers=("loss 'one'",))
    two = Plugin(module="two", path="/x/two.py", sha256="b" * 64, registers=("model 'two'",))
    assert differences([one, two], [two, one]) == []
    (changed,) = differences([one], [one.model_copy(update={"sha256": "c" * 64})])
    assert "/x/one.py" in changed
    assert "aaaaaaaaaaaa" in changed
    assert "cccccccccccc" in changed
    gone, came = differences([one], [two])
    assert tells(gone, "/x/one.py", "loss 'one'", "not loaded")
    assert tells(came, "/x/two.py", "model 'two'", "before")


def test_code_that_came_with_a_model_is_run_only_when_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = plugin_of(tmp_path / "nets.py")
    monkeypatch.delenv("HEP_RAY_TRUST_CODE", raising=False)
    with raises(UntrustedCode, "'of_a_test'", "--trust-code"):
        trust([plugin], trust_code=False)
    assert "of_a_test" not in LOSSES
    trust([plugin], trust_code=True)
    assert "of_a_test" in LOSSES
    trust([plugin], trust_code=False)  # what is imported already needs no more trust


def test_the_environment_trusts_where_no_argument_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = plugin_of(tmp_path / "nets.py")
    monkeypatch.setenv("HEP_RAY_TRUST_CODE", "1")
    trust([plugin], trust_code=False)
    assert "of_a_test" in LOSSES


def test_a_thread_that_asks_while_another_still_imports_the_folder_waits_for_it() -> None:
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from hep_ray.losses import LOSSES\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    print(len(set(pool.map(lambda _: len(LOSSES), range(8)))), len(LOSSES) > 3)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "True"]
