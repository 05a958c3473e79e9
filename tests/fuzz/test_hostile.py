"""Hostile input gives a result or a named error: a few hundred inputs here, `make fuzz` for as many as one has time."""

import shutil
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from mutate import inputs
from targets import TARGETS

from hep_ray.errors import CorruptCheckpoint, HepRayError, InvalidConfig, StorageError, UnreadableInput

FOUND = {
    "expressions": [
        b"'a' * 999999999 == x",
        b"'%999999999d' % 5 == x",
        b"((9 ** 64) ** 64) ** 64 > x",
        b"abs(x, n) > 1",
    ],
    "journals": [b"\xff\n", b'{"kind":"epoch_finished"}\n', b"[" * 2000 + b"\n"],
    "confirmations": [b"null", b"3", b'["a"]', b"[" * 100_000],
    "looks at the test split": [b"3\n", b"\xff\n", b"[" * 100_000 + b"\n"],
    "checkpoints": [b"", b"PK\x03\x04", b"\x80\x02}q\x00."],
    "spaces": [b'{"model": "mlp", "loss": ["choice", ["a"]]}'],
    "parameters": [b'{"model": 5}', b'{"model": ["mlp"]}', b'{"model": "mlp", "loss": {}}'],
    "names and paths": [b"a" * 5000, b"a" * 300 + b"/x", b"a" * 300 + b"/x.py"],
    "manifests": [b"[" * 100_000, b"[1]"],
}
"""Inputs that once gave another exception, a hang or a huge allocation."""


@pytest.mark.parametrize("name", list(TARGETS))
def test_any_input_gives_a_result_or_a_named_error(name, tmp_path):
    target, make = TARGETS[name]
    (tmp_path / "seeds").mkdir()
    seeds = list(make(tmp_path / "seeds"))
    folder = tmp_path / "input"

    def attack(content):
        folder.mkdir()
        try:
            target(folder, content)
        except HepRayError:
            pass
        finally:
            shutil.rmtree(folder)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy about values, and of parsers about what they were given
        for content in [*seeds, *FOUND.get(name, [])]:
            attack(content)
        settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))(
            given(inputs(name, seeds))(attack)
        )()


@given(data=st.data())
@settings(max_examples=40)
def test_a_flipped_byte_of_a_checkpoint_is_never_another_weight(tmp_path, data):
    _, make = TARGETS["checkpoints"]
    (whole,) = make(tmp_path)
    from hep_ray.training.checkpoint import load_checkpoint

    before = load_checkpoint(tmp_path / "best.pt")
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (tmp_path / "best.pt").write_bytes(changed)
    try:
        after = load_checkpoint(tmp_path / "best.pt")
    except CorruptCheckpoint:
        return
    assert after["params"] == before["params"]
    assert after["metrics"] == before["metrics"]
    assert all(bool((after["model"][key] == value).all()) for key, value in before["model"].items())


@pytest.mark.parametrize(
    ("name", "old", "new", "error"),
    [
        ("manifests", b'"file": "train', b'"file": "../train', UnreadableInput),
        ("manifests", b'"file": "train', b'"file": "/etc/train', UnreadableInput),
        ("confirmations", b'"trials/c0/best.pt"', b'"../../../best.pt"', StorageError),
        ("confirmations", b'"trials/c0/best.pt"', b'"/etc/passwd"', StorageError),
        ("confirmations", b'"trials/c0/test_scores.parquet"', b'"trials/../../x"', StorageError),
        ("journals", b'"trial_id":"t0000","number"', b'"trial_id":"../../t0000","number"', StorageError),
    ],
)
def test_no_file_leads_out_of_its_folder(tmp_path, name, old, new, error):
    target, make = TARGETS[name]
    (tmp_path / "seeds").mkdir()
    content = next(iter(make(tmp_path / "seeds")))
    assert old in content
    (tmp_path / "input").mkdir()
    with pytest.raises(error):
        target(tmp_path / "input", content.replace(old, new))


@pytest.mark.parametrize(
    "text", ["abs(x, n)", "hypot(x)", "'a' + 'b' == x", "x == 'a' * 3", "(2 ** 3) ** 64"]
)
def test_expressions_that_would_write_or_grow_are_refused(text):
    from hep_ray.dataset.expressions import Expression

    with pytest.raises(InvalidConfig):
        Expression(text)
