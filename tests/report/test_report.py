"""The page of a report: what it says, what it refuses, that it needs nothing beside it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
import typer
from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import create_trial
from typer.testing import CliRunner

from hep_ray.confirm.confirmation import SplitUse, record_use
from hep_ray.errors import NothingCompleted, StorageError, TrackingUnavailable, UnknownName, UnreadableInput
from hep_ray.report.cli import report as command
from hep_ray.report.figures import FIGURES, Drawn
from hep_ray.report.figures.parameters import importances
from hep_ray.report.page import Shown, page, save, write_report
from hep_ray.report.report_data import gather
from hep_ray.report.tables import leaderboard
from hep_ray.search.published import StudyTable
from hep_ray.training.checkpoint import save_checkpoint
from tests.facts import raises, tells


class Page(HTMLParser):
    """Checks that tags are closed, and collects pictures, titles and words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.pictures: list[str] = []
        self.figures: list[str] = []
        self.words = ""
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "img":
            assert named["alt"]
            self.pictures.append(str(named["src"]))
        elif tag not in {"meta", "link"}:
            self.open.append(tag)
        if tag == "figure":
            self.figures.append(str(named["id"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


FIRST = "accuracy_by_epoch"
"""The figure beside the answer: the metric that ranks."""
EVERYWHERE = [
    "roc", "rejection", "confusion", "scores", "calibration", "loss_by_epoch", "overfitting",
    "bars_at_epochs", "root_softmax", "parallel_coordinates", "slices", "stopping",
]  # fmt: skip


def test_before_a_confirmation_the_page_is_of_the_validation_split_and_says_so(
    workplace: Callable[..., Any],
) -> None:
    place = workplace()
    place.write_journal()
    place.write_model()
    report = write_report(place.search, place.storage)
    assert report.path == place.folder / "report.html"
    found = Page(report.path)
    with_model = [*EVERYWHERE[:2], "accuracy_by_threshold", *EVERYWHERE[2:]]
    place_of_inputs = with_model.index("calibration") + 1
    with_model[place_of_inputs:place_of_inputs] = ["inputs", "integrated_gradients"]
    assert found.figures == [FIRST, *with_model]
    assert all(one.startswith("data:image/png;base64,") for one in found.pictures)
    assert not re.search(r"https?://|<script|<link|url\(|src=\"(?!data:)|@import", found.text)
    assert len(found.text) < 5e6
    for words in (
        "Which root <index> & why?",  # as written by the search, so escaped
        "p_T < 10 GeV",
        place.fingerprint,
        "Validation split: a biased pick; type hep-ray confirm toy_search",
        "Not confirmed yet: t0003 leads with validation accuracy 0.900 ± 0.020",
        "The best with the baseline's parameters: root_index=1, with 0.850 ± 0.071 over 2 trials: ahead by 0.05",
        "5 trials of up to 3 epochs: 4 completed, 1 failed. 13 epochs were trained in 19.5 seconds",
        "t0003 (root_index=3)",
        "validation accuracy 0.900 ± 0.020 after epoch 2; its 2 seeds give 0.9",  # the last of three equals
        "NonFiniteLoss: <inf>",
        "mean ± s.d. over 2 seeds",
        "python <s>.py",
        "git checkout c0ffee",
        "0.5500 ± 0.0707 (2)",  # root 1 after epoch 1: 0.5 and 0.6
    ):
        assert words in found.words, words
    assert "Still running" not in found.words
    assert [path.name for path in place.folder.iterdir() if path.name.startswith(".")] == []


def test_before_a_confirmation_the_rows_of_a_study_stand_beside_each_other(
    workplace: Callable[..., Any],
) -> None:
    """By the study's names, over the seeds whose models are kept; t0001, another seed of root 3, has lost its own."""
    place = workplace()
    place.write_journal()
    for seed, trial in enumerate(("t0000", "t0002", "t0003")):
        place.write_model(trial, seed)
    names = {"root_index=1": "cross-entropy", "root_index=3": "root 3"}
    search = replace(place.search, tables=(StudyTable("Accuracy by root", ("root_index",), names=names),))
    scores = gather(search, place.storage).scores
    assert scores is not None
    rows = [(one.name, one.baseline, len(one.runs)) for one in scores.contenders]
    assert rows == [("root 3", False, 1), ("cross-entropy", True, 2)]
    assert "by which epochs and rows were chosen" in scores.where
    assert "mean over 2 seeds, of some one training" in scores.where
    first, second = (run.auc for run in scores.contenders[1].runs)
    assert first != second


def test_after_a_confirmation_the_page_is_of_its_test_scores(workplace: Callable[..., Any]) -> None:
    place = workplace(("e", "mu", "tau", "gamma", "b", "light"))
    place.write_journal()
    place.write_confirmation()
    found = Page(write_report(place.search, place.storage).path)
    assert found.figures == [FIRST, "confirmed", *EVERYWHERE]
    assert "biased pick; type" not in found.words
    assert "The importance of inputs is left out: no model of the trials in" in found.words
    assert "test split: 120 events; mean over 2 seeds" in found.words
    assert "t0001 beats the baseline: test accuracy +0.062 ± 0.010." in found.words
    assert "Paired difference +0.062 ± 0.010, 95% interval [+0.040, +0.080]; test accuracy" in found.words
    assert (
        "Yes, at the 5% level: p = 0.03, after Holm's correction for 1 finalist, 2 seeds each" in found.words
    )
    assert f"hep-ray promote toy_search --dry-run --storage {place.storage}" in found.words
    # This confirmation says nothing of events: it is one of before they were counted.
    assert "Paired by seed" in found.words
    assert "hep-ray confirm toy" in found.words
    table = found.words[found.words.index("Each class against the rest") :]
    assert all(table.count(name) >= 2 for name in place.classes)  # of the finalist and of the baseline


@pytest.mark.parametrize("model", ["", "of_a_plugin_that_is_gone"])
def test_a_model_that_cannot_be_read_back_costs_the_calibrated_curve_alone(
    workplace: Callable[..., Any], model: str
) -> None:
    place = workplace()
    place.write_journal()
    place.write_confirmation()
    best = place.folder / "confirm" / "t0001-0" / "best.pt"
    best.write_bytes(b"torn")
    if model:
        params = {"model": model, "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 0.1}
        save_checkpoint(best, {"params": params, "model": {}, "metrics": {}})
    data = gather(place.search, place.storage)
    assert data.scores is not None
    assert data.scores.confirmed
    assert data.scores.calibrated is None
    (told,) = [note for note in data.notes if "scores" in note]
    assert told.startswith("Calibrated scores are left out: ")
    assert (model or str(best)) in told


RUNNING = (
    ({}, 0, [0.5, 0.8, 0.7], "completed"),
    ({"root_index": 3}, 0, [0.6], "stopped"),
    ({"root_index": 3}, 7, [0.6], "running"),
)


@pytest.mark.slow
@pytest.mark.ci
def test_one_trial_of_one_epoch_is_enough(workplace: Callable[..., Any]) -> None:
    place = workplace(table=False)
    place.write_journal([({}, 0, [0.5], "completed")])
    place.write_model("t0000")
    found = Page(write_report(place.search, place.storage).path)
    assert "roc" in found.figures
    assert "parallel_coordinates" not in found.figures
    assert tells(found.words, "Slices", "two trials")


def test_two_objectives_have_a_front_and_many_trials_an_importance(workplace: Callable[..., Any]) -> None:
    place = workplace(table=False, cost=True)
    accuracies = [0.5 + 0.04 * number for number in range(10)]
    drawn = [
        {"learning_rate": 0.0001 * 1.5**number, "root_index": 1 + 2 * (number % 2)} for number in range(10)
    ]
    place.write_journal(
        [(params, 0, [accuracy] * 3, "completed") for params, accuracy in zip(drawn, accuracies, strict=True)]
    )
    database = f"sqlite:///{place.folder / 'optuna.db'}"
    study = optuna.create_study(
        storage=database, study_name="toy_search", directions=["maximize", "minimize"]
    )
    ranges = {
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "root_index": CategoricalDistribution((1, 3)),
    }
    for params, accuracy in zip(drawn, accuracies, strict=True):
        study.add_trial(create_trial(params=params, distributions=ranges, values=[accuracy, 4.5]))
    data = gather(place.search, place.storage)
    shares = importances(data)
    assert sum(shares.values()) == pytest.approx(1)
    assert (
        shares["learning_rate"] > shares["root_index"]
    )  # accuracy rises with the one, and not with the other
    importance, front = (FIGURES[name].draw(data) for name in ("importance", "pareto"))
    assert isinstance(importance, Drawn)
    assert isinstance(front, Drawn)
    assert "1 of 10 trials" in front.caption  # all cost the same, and one is the most accurate


def test_a_reference_adds_no_column_to_what_was_drawn(workplace: Callable[..., Any]) -> None:
    place = workplace(table=False)
    drawn = [({"learning_rate": rate}, 0, [0.5, 0.6], "completed") for rate in (0.001, 0.003)]
    reference = {"model": "gradient_boosting", "depth": 3}
    place.write_journal([(reference, 0, [0.7], "completed"), *drawn], references=[reference])
    data = gather(place.search, place.storage)
    assert data.varied == ("learning_rate",)
    board = leaderboard(data)
    assert board.head[:4] == ["trial", "accuracy", "learning rate", "epochs"]
    assert {row[0]: row[2] for row in board.rows} == {
        "t0000: model=gradient_boosting, depth=3": "0.001",
        "t0001": "0.001",
        "t0002": "0.003",
    }
    assert all("optimizer" not in group.name for group in data.groups.members)


def test_a_figure_is_written_as_png_and_pdf(tmp_path: Path) -> None:
    drawing = Figure()
    drawing.subplots().plot([1, 2])
    png, pdf = save(Shown("line", "search", "A line", Drawn(drawing, "")), tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert save(Shown("none", "search", "None", "cannot be drawn"), tmp_path) == []


def test_a_dataset_that_is_gone_is_noted(workplace: Callable[..., Any], tmp_path: Path) -> None:
    place = workplace()
    place.write_journal()
    place.write_model()
    place.data.rename(tmp_path / "moved")
    data = gather(place.search, place.storage)
    text = page(data, [], place.storage)
    assert "for want of the dataset" in text
    assert "The classifier" not in text
    scores = gather(place.search, place.storage, tmp_path / "moved").scores
    assert scores is not None
    assert not scores.confirmed


def test_folds_that_are_gone_are_noted(workplace: Callable[..., Any]) -> None:
    place = workplace()
    place.write_journal(folds=3)
    report = gather(place.search, place.storage)
    assert report.scores is None
    (note,) = [note for note in report.notes if note.startswith("Figures of scores are left out")]
    assert tells(note, place.folder / "folds")
    assert "Figures of scores are left out" in page(report, [], place.storage)
    with raises(UnknownName, "nothing"):
        gather(place.search, place.storage, against=["nothing"])


def test_a_search_by_folds_tells_the_fold_of_a_trial_in_place_of_its_seed(
    workplace: Callable[..., Any],
) -> None:
    place = workplace()
    for folds, heading in ((3, "fold"), (None, "seed")):
        place.write_journal(folds=folds)
        table = leaderboard(gather(place.search, place.storage))
        assert (heading in table.head, {"fold", "seed"} & set(table.head)) == (True, {heading})
        column = table.head.index(heading)
        cells = {row[0].split(":")[0]: row[column] for row in table.rows}
        assert cells["t0002"] == ("2" if folds else "1")  # of seed 1
        (place.folder / "journal.jsonl").unlink()


def test_a_confirmation_of_another_search_is_left_out(workplace: Callable[..., Any]) -> None:
    place = workplace()
    place.write_journal()
    place.write_confirmation(search_id="another")
    text = page(gather(place.search, place.storage), [], place.storage)
    assert "another search (another)" in text
    assert "Not confirmed yet" in text


def test_earlier_looks_at_the_test_split_are_told(workplace: Callable[..., Any]) -> None:
    place = workplace()
    place.write_journal()
    place.write_confirmation()
    assert not any("looked at" in note for note in gather(place.search, place.storage).notes)
    look = SplitUse(
        time=1e9,
        purpose="confirm",
        dataset_fingerprint=place.fingerprint,
        contenders=("x",),
        confirmation_id="first",
    )
    record_use(place.folder, look)
    (place.storage / "another_search").mkdir()
    record_use(place.storage / "another_search", look)
    text = page(gather(place.search, place.storage), [], place.storage)
    assert "1 time for this search" in text
    assert "another_search (1 time)" in text


def test_the_importance_of_inputs_is_printed_alone(workplace: Callable[..., Any], tmp_path: Path) -> None:
    place = workplace()
    place.write_journal()
    place.write_model()
    app = typer.Typer()
    app.command()(command)
    words = [str(place.folder), "--storage", str(place.storage), "--importance"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "trial t0003: validation accuracy" in " ".join(result.output.split())
    assert not (place.folder / "report.html").exists()


def test_refusals(workplace: Callable[..., Any], tmp_path: Path) -> None:
    place = workplace()
    with raises(StorageError, place.folder):
        write_report(place.search, place.storage)
    place.write_journal([({}, 0, [0.1], "failed"), ({}, 0, [0.1], "running")], finished=False)
    with raises(NothingCompleted, "1 failed", "1 running"):
        write_report(place.search, place.storage)
    with raises(StorageError, tmp_path / "absent"):
        write_report(place.search, place.storage, out=tmp_path / "absent" / "page.html")
    assert not (place.folder / "report.html").exists()


def test_another_dataset_is_refused(workplace: Callable[..., Any], make_dataset: Callable[..., Path]) -> None:
    place = workplace()
    place.write_journal(RUNNING)
    with raises(UnreadableInput, "dataset"):
        write_report(place.search, place.storage, data=make_dataset(60))


SCRIPT = """
from hep_ray import Preset, Search, Space
space = Space(model="mlp", loss="cross_entropy", optimizer="adam", learning_rate=0.1)
search = Search("toy_search", "toy", "t", space, {"smoke": Preset(1, 1)})
"""


def test_a_running_search_is_reported_even_where_mlflow_is_not_there(
    workplace: Callable[..., Any], tmp_path: Path
) -> None:
    place = workplace()
    place.write_journal(RUNNING, finished=False)
    (tmp_path / "toy_search.py").write_text(SCRIPT)
    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(tmp_path / "toy_search.py"), "--storage", str(place.storage)])
    assert isinstance(result.exception, TrackingUnavailable)
    assert "wrote" in result.output
    found = Page(place.folder / "report.html")
    for words in (found.words, result.output):
        assert "Still running, or interrupted: t0002 not ended" in words
    # its best model is not there: the figures of scores are left out, and the page says so
    assert "Figures of scores are left out" in found.words
    assert "roc" not in found.figures
    assert {"accuracy_by_epoch", "stopping"} <= set(found.figures)


def test_an_unknown_search_is_refused() -> None:
    app = typer.Typer()
    app.command()(command)
    assert isinstance(CliRunner().invoke(app, ["nothing"]).exception, UnknownName)
