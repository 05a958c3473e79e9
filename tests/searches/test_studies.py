"""Lines of the studies' tables, and the part of the results' page that is written from them."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hep_ray.conversion.shards import ShardWriter
from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.dataset.splits import SplitRule
from hep_ray.report.groups import groups_of
from hep_ray.search.find import load_search
from hep_ray.search.state import SearchState
from hep_ray.tracking.journal import Journal
from hep_ray.tracking.records import EpochFinished, SearchStarted, TrialFinished, TrialStarted

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def studies() -> ModuleType:
    spec = importlib.util.spec_from_file_location("studies_script", ROOT / "docs/scripts/studies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # which its dataclasses look up
    spec.loader.exec_module(module)
    return module


def state_of(
    task: str, metric: str, trials: list[tuple[dict[str, Any], dict[str, float]]], folder: Path
) -> SearchState:
    """A search of one epoch each."""
    state = SearchState()
    state.apply(
        SearchStarted(
            time=0.0,
            search="s",
            search_id="s",
            dataset_fingerprint="",
            task=task,
            metric=metric,
            mode="max",
            epochs=1,
            sampler="grid",
            scheduler="none",
            seed=0,
            options={"data": str(folder)},
            provenance={},
        )
    )
    for number, (params, metrics) in enumerate(trials):
        trial = f"t{number:04d}"
        state.apply(TrialStarted(time=0.0, trial_id=trial, number=number, seed=number, params=params))
        state.apply(EpochFinished(time=0.0, trial_id=trial, metrics={"epoch": 1.0, **metrics}))
        state.apply(TrialFinished(time=0.0, trial_id=trial, status="completed"))
    return state


def test_a_line_holds_ours_the_published_number_and_what_differs(studies: ModuleType, tmp_path: Path) -> None:
    table = next(one for one in studies.TABLES if (one.search, one.preset) == ("susy", "table"))
    search = load_search(str(ROOT / "searches/susy.py"))
    space = search.presets[table.preset].space
    assert space is not None
    low = next(one for one in space.grid() if (one["inputs"], one["hidden_layers"]) == ("low_level", 2))
    trials = [
        ({**low, "seed": seed}, {"val_auc": auc, "val_accuracy": 0.75, "parameters": 433.0})
        for seed, auc in ((1, 0.81), (2, 0.83))
    ]
    made = list(studies.lines(table, search, state_of("susy", "val_auc", trials, tmp_path)))
    assert [line["metric"] for line in made] == ["accuracy", "auc"]
    auc = made[1]
    assert (auc["row"], auc["parameters"], auc["seeds"]) == ("baseline 16-16", 433, 2)
    assert auc["ours"] == pytest.approx(0.82)
    assert auc["error"] == pytest.approx(0.0141)
    assert (made[0]["published"], auc["published"]) == (0.7951, 0.868)
    assert any("GeV" in text for text in auc["deviations"])


def test_another_task_has_no_published_number(studies: ModuleType, tmp_path: Path) -> None:
    """CMS jets are top quarks against QCD, and the study's are Higgs bosons."""
    table = next(one for one in studies.TABLES if one.name == "jet_images-table_cvn-cms_jet_images")
    search = load_search(str(ROOT / "searches/jet_images.py"))
    space = search.presets[table.preset].space
    assert space is not None
    params = next(one for one in space.grid() if one["model"] == "cvn_ucsd")
    metrics = {
        "val_auc": 0.5,
        "val_auc_error": 0.02,
        "val_accuracy": 0.5,
        "val_loss": 0.6931,
        "parameters": 535890.0,
    }
    for task, published in (("cms_jet_images", None), ("jet_images", 0.55)):
        state = state_of(task, "val_auc", [(params, metrics)], tmp_path)
        line = next(one for one in studies.lines(table, search, state) if one["metric"] == "auc")
        assert (line["row"], line["published"], line["error"]) == ("CVN, p_T fractions", published, 0.02)


def test_gains_are_ratios_of_rejections(studies: ModuleType, tmp_path: Path) -> None:
    search = load_search(str(ROOT / "searches/electron_id.py"))
    table = next(one for one in studies.TABLES if one.search == "electron_id" and one.preset == "table")
    assert search.tables[table.place].published_gains
    space = search.presets[table.preset].space
    assert space is not None
    network = next(iter(space.grid()))

    def measured(rejection: float) -> dict[str, float]:
        points = {f"val_background_rejection_at_{point}": rejection for point in (93, 88, 80)}
        return {"val_accuracy": 0.9, "val_auc": 0.95, **points}

    def gains(of_likelihood: float, of_network: float) -> list[tuple[float, float, float]]:
        """Two seeds at 1/ε_b of 40 and 60, each with an error, beside 10 with its own."""
        trials = [({**search.points_to_evaluate[0]}, measured(10.0) | errors(of_likelihood))]
        for seed, value in ((1, 40.0), (2, 60.0)):
            trials.append(({**network, "seed": seed}, measured(value) | errors(of_network)))
        state = state_of("electron_id_binary", "val_accuracy", trials, tmp_path)
        made = [line for line in studies.lines(table, search, state) if line["metric"] == "factor gained"]
        return [(line["ours"], line["error"], line["published"]) for line in made]

    def errors(size: float) -> dict[str, float]:
        return {f"val_background_rejection_at_{point}_error": size for point in (93, 88, 80)}

    assert gains(0.0, 0.0) == [(5.0, 1.41, 8.0), (5.0, 1.41, 12.0), (5.0, 1.41, 18.0)]
    # Of the likelihood a tenth, 0.5 of 5: √(1.414² + 0.5²). Of the network 20 of 50, 2 of 5, which the spread is not.
    assert {error for _, error, _ in gains(1.0, 0.0)} == {1.5}
    assert {error for _, error, _ in gains(1.0, 20.0)} == {2.06}


def test_lines_that_are_taken_replace_their_table_in_the_scripts_order(studies: ModuleType) -> None:
    def line(table: Any, row: str, title: str = "") -> dict[str, str]:
        preset = f"{table.search} --preset {table.preset}"
        return {"study": table.study, "table": title or table.title, "row": row, "preset": preset}

    by_name = {table.name: table for table in studies.TABLES}
    small, large = (by_name[f"flat_minima-table-electron_{half}"] for half in ("central", "forward"))
    susy, uci = by_name["susy-table-susy"], by_name["susy-table_uci-susy_uci"]
    old = [
        line(small, "former", "one half"),
        line(susy, "old"),
        line(uci, "stays"),
        line(uci, "last", "former"),
    ]
    new = [line(susy, "new"), line(large, "b"), line(small, "a")]
    assert [one["row"] for one in studies.taken(old, new)] == ["a", "b", "new", "stays", "last"]


def test_lines_that_come_twice_or_of_a_smoke_run_are_not_taken(studies: ModuleType, tmp_path: Path) -> None:
    line = {"study": "susy", "table": "t", "row": "r", "metric": "auc", "preset": "susy --preset table"}
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file, one in zip(files, (line, line, line | {"smoke": True, "row": "s"}), strict=True):
        file.write_text(json.dumps(one))
    assert studies.fresh(files[:1]) == [line]
    with pytest.raises(SystemExit, match="once more"):
        studies.fresh(files[:2])
    with pytest.raises(SystemExit, match="smoke run"):
        studies.fresh(files[::2])


def test_the_results_are_what_the_lines_say(studies: ModuleType) -> None:
    text = studies.RESULTS.read_text(encoding="utf-8")
    assert studies.BEGIN in text
    assert studies.written(text, studies.read_lines()) == text, "run: python docs/scripts/studies.py --write"


def test_every_line_says_what_the_issue_asks_for(studies: ModuleType) -> None:
    wanted = {"study", "table", "row", "task", "inputs", "parameters", "seeds", "metric"}
    wanted |= {"ours", "error", "published", "deviations"}
    for line in studies.read_lines():
        assert wanted <= set(line), json.dumps(line)
        assert line["published"] is None or line["deviations"]


def test_bars_and_legends_call_rows_as_the_study_does(tmp_path: Path) -> None:
    """Trials that stand alone are no t0000, where the study has a name for each; else they are."""
    search = load_search(str(ROOT / "searches/electron_parts.py"))
    space = search.presets["table"].space
    assert space is not None
    params = [one for one in space.grid() if "+" not in str(one["parts"])]
    metrics = {"val_accuracy": 0.9, "val_auc": 0.9}
    state = state_of("electron_id_binary", "val_accuracy", [(one, metrics) for one in params], tmp_path)
    names = [group.name for group in groups_of(search, state).members]
    assert names == ["56 × 11 image", "7 × 11 images", "tracks", "scalars"]
    unknown = [{**params[0], "parts": "tracks+scalars"}, params[1]]
    state = state_of("electron_id_binary", "val_accuracy", [(one, metrics) for one in unknown], tmp_path)
    assert all(group.name.startswith("t000") for group in groups_of(search, state).members)


@pytest.mark.slow
@pytest.mark.ci
def test_losses_are_compared_after_each_epoch_and_tested_against_cross_entropy(
    studies: ModuleType, tmp_path: Path
) -> None:
    table = next(one for one in studies.TABLES if one.losses and one.search == "cnn_loss")
    search = load_search(str(ROOT / "searches/cnn_loss.py"))
    space = search.presets[table.preset].space
    assert space is not None
    by_root = {one["root_index"]: one for one in space.grid()}
    state = state_of("mbh_sph", "val_auc", [], tmp_path)
    # Accuracy after 10, 20 and 40 epochs by root and seed: root 5 gains .03, .04 and .05, root 3 loses or gains .01.
    last = {1: (0.80, 0.82, 0.84), 5: (0.83, 0.86, 0.89), 3: (0.81, 0.81, 0.84)}
    number = 0
    used = 3600.0 / 40  # seconds of an epoch: an hour for a training
    for root, values in last.items():
        for seed, value in enumerate(values):
            trial, number = f"t{number:04d}", number + 1
            params = {**by_root[root], "seed": seed, "precision": "bfloat16"}
            state.apply(TrialStarted(time=0.0, trial_id=trial, number=number, seed=seed, params=params))
            for epoch in range(1, 41):
                metrics = {
                    "epoch": float(epoch),
                    "val_accuracy": value - (40 - epoch) / 1000,
                    "parameters": 9.0,
                }
                state.apply(EpochFinished(time=0.0, trial_id=trial, metrics=metrics, cpu_seconds=used))
            state.apply(TrialFinished(time=0.0, trial_id=trial, status="completed"))
    # A tenth training is under way: it counts in hours alone.
    state.apply(TrialStarted(time=0.0, trial_id="t0009", number=9, seed=0, params=by_root[9]))
    half = {"epoch": 1.0, "val_accuracy": 0.5}
    state.apply(EpochFinished(time=0.0, trial_id="t0009", metrics=half, cpu_seconds=1800.0))
    made = {(line["row"], line["metric"]): line for line in studies.lines(table, search, state)}
    assert {row for row, _ in made} == {"cross-entropy", "root 5", "root 3"}
    first = made["root 5", "accuracy after 10 epochs"]
    assert (first["ours"], first["error"], first["seeds"]) == (0.83, 0.03, 3)
    assert first["published"] == pytest.approx((0.900 + 0.883 + 0.899) / 3, abs=1e-4)
    gained = made["root 5", "difference, epoch 40"]
    assert (gained["ours"], gained["error"]) == (0.04, 0.01)
    assert gained["published"] == pytest.approx((89.3 + 90.5 + 89.1 - 86.7 - 88.7 - 87.7) / 300, abs=1e-4)
    # t = 0.04 / (0.01 / √3) = 6.93 with two degrees of freedom: p = 1 − t / √(2 + t²) = 0.0202, twice that by Holm.
    t = 0.04 / (0.01 / 3**0.5)
    p_value = made["root 5", "p corrected, epoch 40"]
    assert p_value["ours"] == pytest.approx(2 * (1 - t / (2 + t * t) ** 0.5), abs=1e-4)
    assert any("bfloat16" in text for text in p_value["deviations"])
    assert "9 of 24 trainings of 1 epochs, 9.5 CPU hours" in p_value["deviations"]
    # Every run stands beside that of table 6.1, in %.
    runs = "80.0 / 81.0 / 83.0 | 90.0 / 89.1 / 89.3 | 83.0 / 84.0 / 86.0 | 88.3 / 89.2 / 90.5"
    page = studies.page(list(made.values()))
    assert f"| root 5 | {runs} |" in page
    assert (
        "After 40 epochs what differs from cross-entropy is root 5 (+0.040, p = 0.04) at a level of 0.05"
        in page
    )
    clearer = [
        {**line, "ours": 0.06} if line["metric"] == "p corrected, epoch 40" else line
        for line in made.values()
    ]
    assert "no loss differs from cross-entropy at a level of 0.05" in studies.page(clearer)


def test_lines_of_a_run_that_goes_on_are_those_of_its_completed_trainings(
    studies: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cross-entropy is done, root 3 is not: one row, no test, nothing started."""
    data = tmp_path / "data"
    schema = EventSchema(
        task="mbh_sph", columns=(Column(name="x", shape=(2,), unit="GeV"),), classes=("a", "b")
    )
    with ShardWriter(data, schema, SplitRule(train=0.75, val=0.25, test=0.0)) as writer:
        values = np.zeros((80, 2), dtype=np.float32)
        writer.write({"event_id": [f"e{row}" for row in range(80)], "label": np.arange(80) % 2, "x": values})
    params = {"model": "mlp", "loss": "root_softmax", "optimizer": "adam", "learning_rate": 0.01}
    name = "cnn_loss-thesis-mbh_sph_thesis"
    with Journal(tmp_path / name / "cnn_loss") as journal:
        started = state_of("mbh_sph", "val_auc", [], data).started
        assert started is not None
        journal.append(started.model_copy(update={"epochs": 40}))
        for number, root in enumerate((1, 3)):
            trial = f"t{number:04d}"
            own = {**params, "root_index": root}
            journal.append(TrialStarted(time=0.0, trial_id=trial, number=number, seed=0, params=own))
            for epoch in range(1, 41 if root == 1 else 11):
                metrics = {"epoch": float(epoch), "val_accuracy": 0.8}
                journal.append(EpochFinished(time=0.0, trial_id=trial, metrics=metrics))
        journal.append(TrialFinished(time=0.0, trial_id="t0000", status="completed"))
    monkeypatch.setattr(sys, "argv", ["studies.py", "--so-far", "--out", str(tmp_path), name])
    studies.main()
    made = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {(one["row"], one["metric"]) for one in made} == {
        ("cross-entropy", f"accuracy after {epoch} epochs") for epoch in (10, 20, 40)
    }
    assert {one["seeds"] for one in made} == {1}
    events = next(
        text for text in made[0]["deviations"] if text.endswith("to validate, not 22,500 and 7,500")
    )
    train, val = (int(word) for word in events.split() if word.isdigit())
    assert (train + val, train > val > 0) == (80, True)
    assert "1 of 24 trainings of 40 epochs, 0.0 CPU hours" in made[0]["deviations"]
    assert not (tmp_path / "lines.jsonl").exists()


def test_what_has_run_so_far_says_how_much_that_is(studies: ModuleType, tmp_path: Path) -> None:
    table = next(one for one in studies.TABLES if one.preset == "table_scaling_law")
    search = load_search(str(ROOT / "searches/electron_id.py"))
    space = search.presets[table.preset].space
    assert space is not None
    with Journal(tmp_path / table.name / table.search) as journal:
        started = state_of("electron_id_binary", "val_accuracy", [], tmp_path).started
        assert started is not None
        journal.append(started)
        for number, params in enumerate(space.grid()[:2]):
            name = f"t{number:04d}"
            journal.append(TrialStarted(time=0.0, trial_id=name, number=number, seed=0, params=params))
            metrics = {"epoch": 1.0, "val_accuracy": 0.9, "val_auc": 0.95}
            journal.append(EpochFinished(time=0.0, trial_id=name, metrics=metrics))
        journal.append(TrialFinished(time=0.0, trial_id="t0000", status="completed"))
    made = studies.so_far(table, tmp_path)
    # Five sizes, and three fitted classifiers.
    assert {line["deviations"][-1] for line in made} == {"1 of 8 trainings had ended"}
    assert {(line["row"], line["published"]) for line in made} == {("network, 250 candidates", None)}
