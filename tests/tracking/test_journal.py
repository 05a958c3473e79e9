from hypothesis import given
from hypothesis import strategies as st

from hep_ray.errors import StorageError, StorageHeld
from hep_ray.tracking.journal import FILE_NAME, Journal, read_records
from hep_ray.tracking.records import EpochFinished, TrialFinished, TrialStarted, TrialTested
from tests.facts import raises

RECORDS = [
    TrialStarted(
        time=1.0, trial_id="t0000", number=0, params={"learning_rate": 0.1, "loss": "hinge"}, seed=3
    ),
    EpochFinished(time=2.0, trial_id="t0000", metrics={"epoch": 1, "val_accuracy": 0.1 + 0.2}),
    TrialFinished(time=3.0, trial_id="t0000", status="failed", cause='it said "no"\nand stopped'),
    TrialTested(time=4.0, trial_id="t0000", epoch=1, metrics={"test_auc": 2 / 3}),
]


def filled(folder):
    with Journal(folder) as journal:
        for record in RECORDS:
            journal.append(record)
    return folder / FILE_NAME


def test_records_come_back_as_they_were(tmp_path):
    filled(tmp_path)

    with Journal(tmp_path) as journal:
        assert list(journal) == RECORDS
    assert read_records(tmp_path) == RECORDS


@given(st.data())
def test_killed_at_any_byte_the_journal_keeps_every_whole_record(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("journal")
    path = filled(folder)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    survivors = RECORDS[: whole[:cut].count(b"\n")]

    with Journal(folder) as journal:
        assert list(journal) == survivors
        journal.append(RECORDS[0])
    assert read_records(folder) == [*survivors, RECORDS[0]]


def test_one_process_at_a_time(tmp_path):
    with Journal(tmp_path), raises(StorageHeld, tmp_path / FILE_NAME):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_a_damaged_line_is_named_and_nothing_is_cut(tmp_path):
    path = filled(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{}\n", lines[2]]))
    before = path.read_bytes()

    with raises(StorageError, path, "line 2"):
        Journal(tmp_path)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()

    with raises(StorageError, tmp_path / "file" / "search", "Not a directory"):
        Journal(tmp_path / "file" / "search")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_looking_at_a_folder_without_a_journal_is_a_storage_error(tmp_path):
    with raises(StorageError, tmp_path, FILE_NAME):
        read_records(tmp_path)


def test_a_last_line_that_lost_its_start_is_cut_off(tmp_path):
    """Power was lost in a write: the second page is on the disk, the first reads as zeros."""
    path = filled(tmp_path)
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + b"\0" * 40 + last[40:])

    assert read_records(tmp_path) == RECORDS[:-1]
    with Journal(tmp_path) as journal:
        assert list(journal) == RECORDS[:-1]
        journal.append(RECORDS[-1])
    assert read_records(tmp_path) == RECORDS


@given(st.data())
def test_a_whole_record_behind_what_is_left_of_another_is_read(tmp_path_factory, data):
    """A full disk took a part of a record and could not remove it; the next record came behind it."""
    folder = tmp_path_factory.mktemp("journal")
    path = filled(folder)
    lines = path.read_bytes().splitlines(keepends=True)
    place = data.draw(st.integers(0, len(lines) - 1))
    left = lines[0][: data.draw(st.integers(1, len(lines[0]) - 1))]
    path.write_bytes(b"".join([*lines[:place], left, *lines[place:]]))

    assert read_records(folder) == RECORDS


def test_a_digit_that_a_disk_changed_in_the_last_line_is_still_noticed(tmp_path):
    path = filled(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"0.6666", b"0.7666"))
    with raises(StorageError, path, "line 4"):
        read_records(tmp_path)
