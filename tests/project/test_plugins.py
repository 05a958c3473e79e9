"""Components of a user's own file: found, brought to other processes, compared, trusted."""

from __future__ import annotations

import hashlib
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hep_ray import Search, SearchOptions, Space, plugins, prepare, sources
from hep_ray.cli import app
from hep_ray.errors import (
    DuplicateName,
    HepRayError,
    InvalidConfig,
    InvalidSpace,
    PluginFailed,
    UnknownName,
    UntrustedCode,
)
from hep_ray.losses import LOSSES
from hep_ray.metrics import METRICS
from hep_ray.plugins import (
    Plugin,
    differences,
    import_named,
    import_source,
    importing,
    load,
    places,
    registered,
    restore,
    summary,
    trust,
    vouched,
)
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
    places, named, texts = list(sys.path), dict(plugins._NAMED), dict(sources._TEXTS)
    yield
    sys.path[:] = places
    plugins._NAMED, sources._TEXTS = named, texts
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


@pytest.mark.slow
@pytest.mark.ci
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


FILES = {
    "of_a_test_pkg/__init__.py": "from .nets import Mine\n",
    "of_a_test_pkg/nets.py": LOSS.format(name="of_a_test", words="Of a package.")
    + "\nfrom .blocks import WIDTH\nimport of_a_test_helper\n",
    "of_a_test_pkg/blocks.py": "WIDTH = 3\n",
    "of_a_test_pkg/later.py": "LATER = 1\n",
    "of_a_test_helper.py": "HELP = 1\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package of several files that registers a loss, and a module that this imports."""
    folder = tmp_path / "there"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    return folder


def own(name: str) -> tuple[Plugin, ...]:
    """What this process registered, and what that imports, of one package."""
    return tuple(one for one in registered() if one.package == name or one.module == "of_a_test_helper")


def forget_modules() -> None:
    for name in [name for name in sys.modules if name.startswith("of_a_test")]:
        del sys.modules[name]
    LOSSES._entries.pop("of_a_test")
    OWN_CODE.clear()


def test_all_files_of_a_package_and_what_they_import_from_beside_it_travel(package: Path) -> None:
    import_named(["of_a_test_pkg.nets"])
    sent = own("of_a_test_pkg")
    assert {one.module: one.source for one in sent} == {_module(name): text for name, text in FILES.items()}
    assert [one.registers for one in sent] == [("loss 'of_a_test'",), (), (), (), ()]
    assert list(places(sent)) == [package / "of_a_test_pkg", package / "of_a_test_helper.py"]
    assert tells(" ".join(summary(sent)), "loss 'of_a_test'", "with 4 more files", "of_a_test_helper")

    forget_modules()
    for name in FILES:
        (package / name).unlink()  # another node has no such files
    load(sent)
    assert LOSSES["of_a_test"].build.__doc__ == "Of a package."
    assert sys.modules["of_a_test_pkg.blocks"].WIDTH == 3
    assert __import__("of_a_test_pkg.later").later.LATER == 1


def test_a_package_whose_files_import_one_another_is_listed_once(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []
    whole = Path.rglob

    def counted(folder: Path, pattern: str) -> Iterator[Path]:
        listed.append(folder)
        return whole(folder, pattern)

    for number in range(9):  # by its full name, as files beside one another do
        text = f"import of_a_test_helper\nfrom of_a_test_pkg import nets\nNUMBER = {number}\n"
        (package / f"of_a_test_pkg/more_{number}.py").write_text(text)
    import_named(["of_a_test_pkg.nets"])
    monkeypatch.setattr(Path, "rglob", counted)
    assert len(own("of_a_test_pkg")) == len(FILES) + 9
    assert listed == [package / "of_a_test_pkg"]


def _module(name: str) -> str:
    return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_a_package_that_was_moved_is_found_again_and_one_changed_file_of_it_is_named(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_named(["of_a_test_pkg.nets"])
    recorded = [one.recorded for one in own("of_a_test_pkg")]
    forget_modules()
    package.rename(tmp_path / "elsewhere")
    with raises(PluginFailed, "'of_a_test'", "--plugin"):
        restore(recorded)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert all(one.source for one in restore(recorded))
    assert LOSSES["of_a_test"].build.__doc__ == "Of a package."

    forget_modules()
    blocks = tmp_path / "elsewhere/of_a_test_pkg/blocks.py"
    blocks.write_text("WIDTH = 4\n")
    with raises(PluginFailed, "of_a_test_pkg/blocks.py", "changed"):
        restore(recorded)


def test_a_process_kept_warm_takes_a_changed_file_of_a_package_and_what_imported_it(package: Path) -> None:
    import_named(["of_a_test_pkg.nets"])
    before = own("of_a_test_pkg")
    source = "WIDTH = 5\n"
    after = tuple(
        one.model_copy(update={"source": source, "sha256": hashlib.sha256(source.encode()).hexdigest()})
        if one.module.endswith("blocks")
        else one
        for one in before
    )
    load(after)
    assert sys.modules["of_a_test_pkg.nets"].WIDTH == 5
    assert differences(before, after)[0].startswith(str(package / "of_a_test_pkg/blocks.py"))


def test_a_new_file_that_registers_nothing_is_no_change(package: Path) -> None:
    one = Plugin(module="one", path="/x/one.py", sha256="a" * 64, registers=("loss 'one'",))
    helper = Plugin(module="helper", path="/x/helper.py", sha256="b" * 64)
    assert differences([one], [one, helper]) == []
    (gone,) = differences([one, helper], [one])
    assert tells(gone, "/x/helper.py", "was imported", "not loaded")
    (changed,) = differences([helper], [helper.model_copy(update={"sha256": "c" * 64})])
    assert tells(changed, "/x/helper.py", "bbbbbbbbbbbb", "cccccccccccc")


def test_a_file_is_named_by_its_path(package: Path) -> None:
    plugin_of(package / "of_a_test_file.py")
    import_named([str(package / "of_a_test_file.py")])
    assert "of_a_test" in LOSSES
    assert [one.path for one in own("of_a_test_file")] == [str(package / "of_a_test_file.py")]


def test_a_search_imports_what_is_named_before_its_trials_are_checked(package: Path) -> None:
    file = package / "of_a_test_metric.py"
    file.write_text(
        "from hep_ray.metrics import metric\n"
        "@metric('of_a_test', larger_is_better=False)\n"
        "def of_a_test(scores): return float(scores.mean())\n"
    )
    search = Search(
        name="named", task="t", title="T.", space=Space(model="mlp"), presets={}, metric="val_of_a_test"
    )
    try:
        with raises(UnknownName, "preset"):
            prepare(search, SearchOptions(data=package, plugin=[str(file)]))
        assert (search.mode, search.with_direction().mode) == ("max", "min")
        assert Search(**{**vars_of(search), "plugins": ("of_a_test_metric",)}).mode == "min"
    finally:
        METRICS._entries.pop("of_a_test")


def vars_of(search: Search) -> dict[str, Any]:
    return {name: getattr(search, name) for name in ("name", "task", "title", "space", "presets", "metric")}


def test_a_script_without_a_guard_that_is_named_does_not_run_its_search(package: Path) -> None:
    plugin = plugin_of(package / "of_a_test_file.py")
    search = "Search(name='x', task='t', title='T.', space=Space(model='cnn'), presets={})"
    text = f"{plugin.source}\nfrom hep_ray import Search, Space\nmain({search})\n"
    (package / "of_a_test_file.py").write_text(text)
    import_named([str(package / "of_a_test_file.py")])
    assert "of_a_test" in LOSSES
    assert not importing()


def test_the_keys_of_a_file_of_ones_own_are_listed(package: Path) -> None:
    plugin_of(package / "of_a_test_file.py")
    done = CliRunner().invoke(
        app, ["components", "loss", "of_a_test", "--plugin", str(package / "of_a_test_file.py")]
    )
    assert done.exit_code == 0, done.output
    assert tells(done.output, "loss of_a_test: A loss.")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("no_such.py", ("no plug-in no_such.py",)),
        ("no_such_module", ("cannot import no_such_module", "ModuleNotFoundError")),
        ("of_a_test_helper", ("registers no component",)),
        ("a b", ("no plug-in",)),
        ("{folder}/json.py", ("cannot be imported as 'json'", "another name")),
    ],
)
def test_a_plug_in_that_cannot_be_named_so(package: Path, word: str, words: tuple[str, ...]) -> None:
    (package / "json.py").write_text("")
    with pytest.raises(PluginFailed) as caught:
        import_named([word.format(folder=package)])
    assert tells(str(caught.value), *words)


def test_a_component_behind_the_guard_of_a_script_is_missed_before_any_trial(tmp_path: Path) -> None:
    plugin = plugin_of(tmp_path / "nets.py")
    source = "import sys\nif 'of_a_test_absent' in sys.modules:" + plugin.source.replace("\n", "\n    ")
    digest = hashlib.sha256(source.encode()).hexdigest()
    with raises(PluginFailed, "'of_a_test'", "__name__"):
        load([plugin.model_copy(update={"source": source, "sha256": digest})])


def test_the_line_of_a_package_that_cannot_be_imported_is_that_of_the_file_within(package: Path) -> None:
    (package / "of_a_test_pkg/blocks.py").write_text("x = 1\nWIDTH = 1 / 0\n")
    with raises(PluginFailed, f"{package}/of_a_test_pkg/blocks.py, line 2: ZeroDivisionError"):
        import_named(["of_a_test_pkg.nets"])


def test_a_user_who_has_the_same_file_vouches_for_the_code_of_a_model(package: Path) -> None:
    plugin = plugin_of(package / "of_a_test_file.py", module="_search_of_a_test_file")
    (package / "of_a_test_file.py").rename(package / "of_a_test_copy.py")
    assert not vouched([plugin])
    (package / "of_a_test_copy.py").rename(package / "of_a_test_file.py")
    import_named([str(package / "of_a_test_file.py")])
    assert vouched([plugin])
    assert not vouched([plugin.model_copy(update={"sha256": "0" * 64})])
    trust([plugin], trust_code=False)


SCRIPT = """
from hep_ray import Choice, Preset, Search, Space, main

search = Search(
    name="of_a_test",
    task="susy",
    title="A script with a fault.",
    space=Space(
        model="mlp",
        hidden_features=Choice(16, 32),
    ),
    presets={"smoke": Preset(trials=2, epochs=2)},
)

if __name__ == "__main__":
    main(search)
"""
FAULTS = [
    (("Choice(16, 32)", "Choice(16, 16)"), (10, "(16, 16)"), InvalidSpace),
    (("epochs=2", "epochs=0"), (12, "epochs must be at least 1; got 0"), InvalidConfig),
    (('"of_a_test"', '"of a test"'), (4, "'of a test'"), InvalidConfig),
]


@pytest.mark.parametrize(("change", "facts", "error"), FAULTS)
def test_a_named_error_while_a_script_states_its_search_begins_with_the_users_own_line(
    tmp_path: Path,
    change: tuple[str, str],
    facts: tuple[int, str],
    error: type[HepRayError],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = tmp_path / "of_a_test_search.py"
    script.write_text(SCRIPT.replace(*change))
    line, words = facts
    monkeypatch.setattr(
        sys.modules["__main__"], "__file__", str(script), raising=False
    )  # a process of xdist has none
    # As `hep-ray report of_a_test_search.py` reads it …
    with raises(error, words) as caught:
        load_search(str(script))
    assert str(caught.value).startswith(f"{script}, line {line}: ")
    # … and as `python of_a_test_search.py` runs it: what nobody catches goes to this hook.
    with pytest.raises(error) as caught:
        runpy.run_path(str(script), run_name="__main__")
    with pytest.raises(SystemExit) as ended:
        sys.excepthook(error, caught.value, caught.tb)
    told = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert len(told) == 1
    assert told[0].startswith(f"error: {script}, line {line}: ")
    assert told[0].endswith(str(caught.value))


@pytest.mark.slow
@pytest.mark.ci
def test_a_script_with_a_fault_ends_as_any_other_command_with_one_line(tmp_path: Path) -> None:
    script = tmp_path / "of_a_test_search.py"
    script.write_text(SCRIPT.replace("Choice(16, 32)", "Choice(16, 16)"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: {script}, line 10: hidden_features=Choice\(16, 16\): .*\n", done.stderr)
    script.write_text(SCRIPT.replace("Choice(16, 32)", "1 / 0"))  # no named error: Python's own words
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


@pytest.mark.slow
@pytest.mark.ci
def test_a_fault_of_a_component_is_one_line_though_its_file_is_imported_before_the_search(
    tmp_path: Path,
) -> None:
    (tmp_path / "of_a_test_nets.py").write_text(
        "from torch import nn\nfrom hep_ray.models import model\n\n\n@model('of_a_test_net')\n"
        "class Mine(nn.Module):\n    def __init__(self, schema, hidden=3): ...\n"
    )
    script = tmp_path / "of_a_test_search.py"
    script.write_text("import of_a_test_nets\n" + SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: \S*of_a_test_nets.py, line 7: .* write hidden: int = 3.*\n", done.stderr)


def test_a_line_of_ones_own_is_told_once(package: Path) -> None:
    (package / "of_a_test_keys.py").write_text(
        "from torch import nn\nfrom hep_ray.models import model\n\n\n@model('of_a_test_keys')\n"
        "class Mine(nn.Module):\n    def __init__(self, schema, hidden=3): ...\n"
    )
    with raises(InvalidConfig, "hidden: int = 3") as caught:
        import_named([str(package / "of_a_test_keys.py")])
    assert str(caught.value).count("of_a_test_keys.py, line") == 1
