import base64
import hashlib
import json
import os
import subprocess

import pytest

from hep_ray.tracking import provenance as module
from hep_ray.tracking.provenance import REQUIRED, doubts, provenance


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


def analysis(folder, script="mine.py"):
    """Somebody's own repository with a search, committed."""
    folder.mkdir()
    (folder / script).write_text("a search")
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True, env=os.environ)
    return folder / script


def told(source, *plugins):
    """What the gate would refuse; the versions of packages apart, which are those of this machine."""
    return [doubt for doubt in doubts(provenance(source, plugins)) if "version_" not in doubt]


def test_an_uncommitted_model_in_hep_ray_is_seen_under_another_repository_s_commit(checkout, tmp_path):
    script = analysis(tmp_path / "analysis")
    assert told(script) == []
    (checkout / "hep_ray/models.py").write_text("a model that nobody has")

    facts = provenance(script)

    assert (facts["git_dirty"], facts["script_dirty"], facts["hep_ray_dirty"]) == ("false", "false", "true")
    assert facts["hep_ray_commit"] != facts["script_commit"] == facts["git_commit"]
    assert [doubt.partition(":")[0] for doubt in told(script)] == ["hep_ray_dirty is 'true'"]


def test_a_changed_or_unknown_script_is_told_before_anything_is_spent(checkout, tmp_path):
    script = analysis(tmp_path / "analysis")
    script.write_text("another search")
    assert [doubt.partition(":")[0] for doubt in told(script)] == ["script_dirty is 'true'"]
    outside = tmp_path / "mine.py"
    outside.write_text("in no checkout")
    assert [doubt.partition("'")[0] for doubt in told(outside)] == ["script_commit is "]
    ignored = script.with_name("ignored.py")
    ignored.write_text("git does not know it")
    script.write_text("a search")
    script.with_name(".gitignore").write_text("*")
    assert "not in git" in told(ignored)[0]


def test_a_notebook_is_of_the_checkout_that_it_runs_in(checkout, tmp_path):
    script = analysis(tmp_path / "analysis")
    assert provenance(script.parent)["script"] == ""
    assert told(script.parent) == []
    assert "script_commit" in told(tmp_path)[0]


def test_plug_ins_are_told_by_themselves(checkout, tmp_path):
    script, plugin = analysis(tmp_path / "analysis"), analysis(tmp_path / "nets", "nets.py")
    (one,) = json.loads(provenance(script, [script, plugin])["plugins"])
    assert (one["path"], one["dirty"], len(one["commit"])) == (str(plugin), "false", 40)
    assert one["sha256"] == hashlib.sha256(b"a search").hexdigest()
    plugin.write_text("changed")
    assert "nets.py" in told(script, plugin)[0]


def test_an_installed_hep_ray_is_its_release_unless_a_file_was_changed(checkout, tmp_path, monkeypatch):
    """In a virtual environment within somebody's repository, which ignores it."""
    script = analysis(tmp_path / "analysis")
    place = script.parent / ".venv"
    (place / "hep_ray").mkdir(parents=True)
    code = place / "hep_ray/code.py"
    code.write_text("as released")
    info = place / "hep_ray-9.8.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hep-ray\nVersion: 9.8\n")
    # SHA-256 of "as released", URL-safe and without padding, as a wheel's RECORD has it.
    digest = base64.urlsafe_b64encode(hashlib.sha256(b"as released").digest()).decode().rstrip("=")
    (info / "RECORD").write_text(f"hep_ray/code.py,sha256={digest},11\nhep_ray-9.8.dist-info/RECORD,,\n")
    script.with_name(".gitignore").write_text(".venv\n.gitignore\n")
    monkeypatch.setattr(module, "PACKAGE", place / "hep_ray")
    monkeypatch.syspath_prepend(str(place))

    facts = provenance(script)
    assert (facts["hep_ray_commit"], facts["hep_ray_dirty"]) == ("release 9.8", "false")
    assert told(script) == []
    code.write_text("changed by hand")
    changed = provenance(script)
    assert changed["hep_ray_dirty"] == "true"
    assert changed["hep_ray_files"] != facts["hep_ray_files"]
    code.write_text("as released")
    code.with_name("new.py").write_text("not of the release")
    assert provenance(script)["hep_ray_dirty"] == "true"


def test_records_of_earlier_versions_are_judged_by_what_they_tell():
    old = dict.fromkeys(REQUIRED, "known") | {"git_commit": "c" * 40, "git_dirty": "false"}
    assert doubts(old) == []
    assert "git_dirty is 'true'" in doubts(old | {"git_dirty": "true"})[0]
    assert "git_commit is 'unknown'" in doubts(old | {"git_commit": "unknown"})[0]
