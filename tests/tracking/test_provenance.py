import os
import subprocess

import pytest

from hep_ray.tracking import provenance as module
from hep_ray.tracking.provenance import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A clean checkout that holds the package, as on a laptop."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = tmp_path / "hep_ray"
    for name in ("hep_ray/code.py", "searches/mine.py", "tests/test.py"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True, env=os.environ)
    monkeypatch.setattr(module, "PACKAGE", folder / "hep_ray")
    return folder


def state(source):
    facts = provenance(source)
    return len(facts["git_commit"]), facts["git_dirty"]


def test_a_search_of_the_checkout(checkout):
    assert state(checkout / "searches/mine.py") == (40, "false")
    (checkout / "hep_ray/code.py").write_text("changed")
    assert state(checkout / "searches/mine.py") == (40, "true")


def test_a_node_holds_only_what_decides_a_result(checkout):
    (checkout / "tests/test.py").unlink()
    (checkout / "hep_ray/__pycache__").mkdir()
    (checkout / "hep_ray/__pycache__/code.pyc").write_text("no .gitignore says that it does not count")
    assert state(checkout / "searches/mine.py") == (40, "false")
    (checkout / "hep_ray/new.py").write_text("not committed")
    assert state(checkout / "searches/mine.py") == (40, "true")


def test_a_script_that_ray_submit_copied_out_of_its_checkout(checkout, tmp_path):
    copied = tmp_path / "mine.py"
    copied.write_text("searches/mine.py")
    assert state(copied) == (40, "false")
    copied.write_text("changed before it was submitted")
    assert state(copied) == (40, "true")
    copied.rename(tmp_path / "nowhere.py")
    assert state(tmp_path / "nowhere.py") == (40, "true")


def test_without_a_checkout_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    facts = provenance(tmp_path / "mine.py")

    assert facts["git_commit"].startswith("unknown")
    assert facts["git_dirty"] == "unknown"
