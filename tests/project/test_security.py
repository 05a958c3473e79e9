"""What SECURITY.md says of the code, held to it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MODULES = sorted((REPOSITORY / "hep_ray").rglob("*.py"))
FORBIDDEN = {
    "eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system",
    "tempfile.mktemp", "shutil.unpack_archive", "joblib.load", "marshal.loads",
}  # fmt: skip
UNPACKS = {"extractall", "extract"}
OURS = {("loading/stream.py", "pickle.loads"), ("sources.py", "exec")}
"""What a task of our own has pickled, in a column whose name no dataset can have; and the user's own script, as it lies
here with the recorded hash, as their own driver sends it to its trials, or as a model brings it that they trust."""
SHELLS = sorted((REPOSITORY / "clusters").rglob("*.sh")) + sorted((REPOSITORY / "clusters").rglob("*.sbatch"))


def calls(module: Path) -> list[tuple[str, dict[str, ast.expr]]]:
    """Dotted name and keywords of every call."""
    return [
        (ast.unparse(node.func), {word.arg or "**": word.value for word in node.keywords})
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]


def true(word: ast.expr | None) -> bool:
    return isinstance(word, ast.Constant) and word.value is True


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_nothing_read_is_run_and_no_archive_is_unpacked(module: Path) -> None:
    for name, words in calls(module):
        where = (module.relative_to(REPOSITORY / "hep_ray").as_posix(), name)
        assert name not in FORBIDDEN or where in OURS, where
        assert name.rpartition(".")[2] not in UNPACKS, name
        if name == "torch.load":
            assert true(words.get("weights_only")), "torch.load unpickles anything unless weights_only=True"
        if name in {"np.load", "numpy.load"}:
            assert not true(words.get("allow_pickle")), "numpy unpickles objects with allow_pickle"
        assert not true(words.get("shell")), f"{name} with a shell"


def test_servers_listen_on_this_machine_alone() -> None:
    for path in [*MODULES, *SHELLS]:
        assert "0.0.0.0" not in path.read_text(encoding="utf-8"), path
    for path in (REPOSITORY / "clusters").glob("*.yaml"):
        text = path.read_text(encoding="utf-8")
        if "kuberay" not in path.name:  # a pod has an address of its own, and Ray asks for a token
            assert "0.0.0.0" not in text
            assert "--dashboard-host=127.0.0.1" in text, path
        else:
            assert "authOptions" in text, path


def test_no_password_of_a_uri_stands_in_an_error_on_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    from hep_ray.console import run_app
    from hep_ray.errors import TrackingUnavailable

    app = typer.Typer()

    @app.command()
    def fail() -> None:
        raise TrackingUnavailable("MLflow at postgresql://ana:s3cret@db/mlflow does not answer")

    monkeypatch.setattr("sys.argv", ["hep-ray"])
    with pytest.raises(SystemExit):
        run_app(app, "hep-ray")
    told = capsys.readouterr().err
    assert "ana:***@db" in told
    assert "s3cret" not in told


def test_the_recorded_command_holds_no_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from hep_ray.tracking.provenance import provenance

    words = ["search.py", "--tracking-uri", "https://ana:s3cret@mlflow.example/?token=s3cret"]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setenv("SECRET_OF_MINE", "s3cret")
    facts = provenance(tmp_path / "search.py")
    assert "s3cret" not in str(facts)
    assert "--tracking-uri" in facts["command"]
