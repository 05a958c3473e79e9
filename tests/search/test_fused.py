"""Which trainings are stacked, whom a scheduler leaves of a stack, and what becomes of one whose process fails."""

import dataclasses
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from hep_ray.dataset.schema import Column, EventSchema
from hep_ray.errors import CannotConfirm, InvalidConfig
from hep_ray.loading.batches import Events
from hep_ray.loading.stream import RESIDENT
from hep_ray.search import fused
from hep_ray.search.definition import Preset, Search
from hep_ray.search.fused import (
    MOST,
    Begun,
    FusedProcess,
    StackTrainer,
    check_fuse,
    chosen_fuse,
    stacks_of,
)
from hep_ray.search.options import SearchOptions
from hep_ray.search.plan import Draft
from hep_ray.search.recorder import Recorder
from hep_ray.search.resources import ResourcePlan
from hep_ray.search.space import Space
from hep_ray.search.state import SearchState
from hep_ray.search.trial import METRICS, TrialJob, TrialRun
from hep_ray.tracking.journal import Journal, read_records
from hep_ray.tracking.records import TrialFinished, TrialStarted
from tests.facts import raises

MLP = {"model": "mlp", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 16}
WIDE = {**MLP, "hidden_features": 300}
FITTED = {"model": "logistic_regression"}
TWO_CORES = ResourcePlan(trials=12, concurrent=2, cpus_per_trial=1, gpus_per_trial=0, cpus=2, gpus=0)


def runs(*configurations, seeds=3):
    planned = [(params, seed) for seed in range(seeds) for params in configurations]
    return [
        TrialStarted(time=0, trial_id=f"r{number}", number=number, params=params, seed=seed)
        for number, (params, seed) in enumerate(planned)
    ]


def names(stacks):
    return sorted(sorted(run.trial_id for run in stack) for stack in stacks)


def test_trainings_of_one_architecture_are_shared_out_to_the_workers():
    faster = {**MLP, "learning_rate": 1e-2, "dropout": 0.2, "loss": "root_softmax", "root_index": 3}
    found = stacks_of(runs(MLP, faster, WIDE, FITTED), SearchState(), TWO_CORES, {}, "auto")

    # Twelve trainings on two workers: six each; fitted ones have no stack.
    assert names(found) == [["r0", "r1", "r4", "r5", "r8", "r9"], ["r10", "r2", "r6"]]


def test_a_number_bounds_a_stack_and_what_is_left_over_is_trained_alone():
    assert names(stacks_of(runs(MLP), SearchState(), TWO_CORES, {}, "2")) == [["r0", "r2"]]
    assert [len(stack) for stack in stacks_of(runs(MLP, seeds=40), SearchState(), TWO_CORES, {}, "auto")] == [
        14,
        13,
        13,
    ]
    assert MOST == 16


def test_what_has_ended_is_left_out():
    planned = runs(MLP)
    state = SearchState.fold([*planned, TrialFinished(time=1, trial_id="r1", status="completed")])

    assert names(stacks_of(planned, state, TWO_CORES, {}, "auto")) == [["r0"]] * 0
    assert names(stacks_of(planned, state, TWO_CORES, {}, "5")) == [["r0", "r2"]]


@pytest.mark.parametrize(
    "change",
    [
        {"concurrent": 3},
        {"workers_per_trial": 2},
        {"gpus_per_trial": 0.5},
        {"ingest": dataclasses.replace(RESIDENT, cache="streaming")},
    ],
)
def test_nothing_is_stacked_where_each_has_a_core_or_other_resources(change):
    assert stacks_of(runs(MLP), SearchState(), dataclasses.replace(TWO_CORES, **change), {}, "auto") == []
    assert stacks_of(runs(MLP), SearchState(), TWO_CORES, {}, "off") == []


CNN = {"model": "cnn", "loss": "cross_entropy", "optimizer": "adam", "learning_rate": 1e-3, "batch_size": 16}


@pytest.mark.parametrize(
    ("configurations", "change", "facts"),
    [
        ((CNN, FITTED), {}, ["--fuse 4", "'cnn'", "'logistic_regression'", "mlp", "--fuse off"]),
        (({**MLP, "precision": "bfloat16"},), {}, ["bfloat16"]),
        ((MLP,), {"workers_per_trial": 2}, ["2 workers"]),
        ((MLP,), {"gpus_per_trial": 0.5}, ["0.5 GPU"]),
        ((MLP,), {"ingest": dataclasses.replace(RESIDENT, cache="streaming")}, ["--cache streaming"]),
    ],
)
def test_a_number_is_refused_where_nothing_can_be_stacked(configurations, change, facts):
    resources = dataclasses.replace(TWO_CORES, **change)

    with raises(CannotConfirm, *facts):
        check_fuse(runs(*configurations), resources, {}, "4")
    for either in ("auto", "off"):
        check_fuse(runs(*configurations), resources, {}, either)
    check_fuse(runs(CNN, MLP), TWO_CORES, {}, "4")  # some can
    with raises(CannotConfirm, "no two", "one architecture"):
        check_fuse(runs(MLP, WIDE, seeds=1), TWO_CORES, {}, "4")


class Toy:
    """Events that a process of a stack trains on."""

    def __init__(self):
        random, labels = np.random.default_rng(0), np.arange(128) % 2
        x = random.normal(size=(128, 3)) + labels[:, None]
        self.known = Events.from_arrays({"x": x.astype(np.float32)}, labels)

    def events(self, split):
        return self.known


def job(tmp_path):
    columns = (Column(name="x", shape=(3,), unit="GeV"),)
    schema = EventSchema(task="toy", columns=columns, classes=("background", "signal"))
    return TrialJob(str(tmp_path / "trials"), schema, Toy(), 1, "val_loss", "min", 1, gpu=False)


def test_a_stack_whose_gain_cannot_be_measured_is_left_alone_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(
        fused, "begin_log", lambda folder, trial_id: folder.mkdir(parents=True, exist_ok=True)
    )
    process, stack = FusedProcess(job(tmp_path)), tuple(runs(MLP, seeds=2))
    assert process.begin(stack, measure=True).gain > 0

    def fault(make):
        raise ValueError("no gain\nand a traceback")

    monkeypatch.setattr(fused, "measured_gain", fault)
    begun = process.begin(stack, measure=True)
    assert (begun.gain, begun.fused) == (None, False)
    assert begun.unmeasured.endswith("ValueError: no gain")
    assert process.begin(stack, measure=False) == Begun(None, fused=True)
    assert {name: result["done"] for name, result in process.epoch([]).items()} == {"r0": True, "r1": True}


def go_on(trial_id):
    return "go on"


class OneProcess:
    """What a stack's driver uses of Ray, with room for one actor, whose calls run where their answers are fetched."""

    def __init__(self):
        self.alive = []

    def remote(self, **resources):
        return lambda kind: SimpleNamespace(remote=lambda *given: self.actor(kind(*given)))

    def actor(self, process):
        assert not self.alive, "the former actor holds the core"
        calls = {
            name: SimpleNamespace(remote=partial(partial, getattr(process, name)))
            for name in ("begin", "epoch")
        }
        self.alive.append(SimpleNamespace(**calls))
        return self.alive[0]

    def wait(self, answers):
        return answers[:1], answers[1:]

    def get(self, answer):
        try:
            return answer()
        except (ValueError, RuntimeError) as exc:
            fault = RayTaskError("epoch", "traceback", exc, proctitle="process", pid=1, ip="0.0.0.0")
            raise fault.as_instanceof_cause() from None

    def kill(self, actor):
        self.alive = [one for one in self.alive if one is not actor]


class Faulty:
    """A process that raises where it begins with r0, and in the epoch of r1."""

    def __init__(self, given):
        self.names = []

    def begin(self, stack, *, measure):
        self.names = [run.trial_id for run in stack]
        if "r0" in self.names:
            raise ValueError("a fault of the beginning")
        return Begun(None, fused=True)

    def epoch(self, ended):
        assert not ended
        if "r1" in self.names:
            raise RuntimeError("a fault of an epoch")
        return {
            name: {METRICS: (("epoch", 1), ("val_loss", 0.5), ("epoch_seconds", 1)), "epoch": 1, "done": True}
            for name in self.names
        }


def test_a_fault_of_a_stack_leaves_its_trainings_to_be_trained_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(fused, "ray", OneProcess())
    monkeypatch.setattr(fused, "FusedProcess", Faulty)
    planned = runs(MLP, seeds=6)
    said = []
    with Journal(tmp_path) as journal:
        recorder = Recorder(journal, "val_loss", "min", 1, tmp_path / "trials")
        one_core = dataclasses.replace(TWO_CORES, concurrent=1)
        trainer = StackTrainer(job(tmp_path), one_core, recorder, go_on, fuse="2", say=said.append)
        trainer.train(planned)
        trials = recorder.state.trials

    assert {name for name, one in trials.items() if one.status == "completed"} == {"r2", "r5"}
    assert {name for name, one in trials.items() if one.finished is None} == {"r0", "r1", "r3", "r4"}
    causes = {one.trial_id: one.cause for one in read_records(tmp_path) if one.kind == "trial_lost"}
    assert causes.keys() == {"r0", "r1", "r3", "r4"}
    for name, one in causes.items():
        assert one.startswith("ProcessLost: it was ended after ")
        assert one.endswith(
            "ValueError: a fault of the beginning"
            if name in {"r0", "r3"}
            else "RuntimeError: a fault of an epoch"
        )
    assert len(said) == 2
    assert all("one by one" in one for one in said)


def alone(given, run):
    """Reports of a training by itself."""
    config = {"trial_id": run.trial_id, "params": run.params, "seed": run.seed}
    made = TrialRun(given, config, "cpu")
    return [dict(made.report()[METRICS]) for _ in range(given.epochs)]


def three_epochs(tmp_path, monkeypatch):
    """What trains six networks of one architecture and learning rates of their own in two stacks, on one core."""
    monkeypatch.setattr(fused, "ray", OneProcess())
    monkeypatch.setattr(
        fused, "begin_log", lambda folder, trial_id: folder.mkdir(parents=True, exist_ok=True)
    )
    rates = [{**MLP, "learning_rate": rate} for rate in (1e-3, 2e-3, 3e-3)]
    given = dataclasses.replace(job(tmp_path), epochs=3)
    return given, runs(*rates, seeds=2), dataclasses.replace(TWO_CORES, concurrent=1)


def test_survivors_of_stacks_are_stacked_again_and_each_has_the_numbers_that_it_has_alone(
    tmp_path, monkeypatch
):
    given, planned, one_core = three_epochs(tmp_path, monkeypatch)
    asked = []

    def decide(trial_id):  # two of each stack end at the first rung
        asked.append(trial_id)
        return "stop" if trial_id in {"r0", "r1", "r2", "r3"} else "go on"

    with Journal(tmp_path) as journal:
        recorder = Recorder(journal, "val_loss", "min", 3, tmp_path / "trials")
        trainer = StackTrainer(given, one_core, recorder, decide, fuse="3", say=print)
        assert trainer.train(planned) == {run.trial_id for run in planned}
        trials = recorder.state.trials

    stacked = [one.trial_ids for one in read_records(tmp_path) if one.kind == "trials_fused"]
    assert stacked == [("r0", "r2", "r4"), ("r1", "r3", "r5"), ("r4", "r5")]
    ends = {name: (one.status, len(one.history)) for name, one in trials.items()}
    assert ends == {
        **dict.fromkeys(["r0", "r1", "r2", "r3"], ("stopped", 1)),
        **dict.fromkeys(["r4", "r5"], ("completed", 3)),
    }
    assert sorted(set(asked)) == sorted(trials)
    elsewhere = dataclasses.replace(given, trials_folder=str(tmp_path / "alone"))
    for run in planned:
        found = trials[run.trial_id].history
        for one, expected in zip(found, alone(elsewhere, run), strict=False):
            same = {key: value for key, value in one.items() if key not in ("epoch_seconds", "train_loss")}
            assert same == {key: expected[key] for key in same}
            assert one["train_loss"] == pytest.approx(expected["train_loss"], rel=0, abs=1e-6)


def test_where_the_time_is_over_stacks_stop_after_their_epoch_and_no_other_begins(tmp_path, monkeypatch):
    given, planned, one_core = three_epochs(tmp_path, monkeypatch)
    with Journal(tmp_path) as journal:
        recorder = Recorder(journal, "val_loss", "min", 3, tmp_path / "trials", time_budget=3600)

        def decide(trial_id):  # the clock runs out in the first epoch
            recorder.budget._deadline = 0
            return "go on"

        trainer = StackTrainer(given, one_core, recorder, decide, fuse="3", say=print)
        assert trainer.train(planned) == {run.trial_id for run in planned}

    assert recorder.budget.stopped == {"r0", "r2", "r4"} == recorder.state.trials.keys()
    assert all(one.finished is None and len(one.history) == 1 for one in recorder.state.trials.values())


class Late(Faulty):
    """A process whose answer to `begin` comes when the time is over: that it does not pay, or that it was lost."""

    recorder, lost = None, False
    begun = ()

    def begin(self, stack, *, measure):
        Late.begun += (tuple(run.trial_id for run in stack),)
        self.recorder.budget._deadline = 0
        if self.lost:
            raise RuntimeError("a fault of the beginning")
        return Begun(1.0, fused=False)


@pytest.mark.parametrize("lost", [False, True])
def test_a_stack_that_waits_is_not_begun_in_place_of_one_that_is_left_alone_after_the_time(
    tmp_path, monkeypatch, lost
):
    given, planned, one_core = three_epochs(tmp_path, monkeypatch)
    monkeypatch.setattr(fused, "FusedProcess", Late)
    monkeypatch.setattr(Late, "lost", lost)
    monkeypatch.setattr(Late, "begun", ())
    with Journal(tmp_path) as journal:
        recorder = Recorder(journal, "val_loss", "min", 3, tmp_path / "trials", time_budget=3600)
        monkeypatch.setattr(Late, "recorder", recorder)
        trainer = StackTrainer(given, one_core, recorder, go_on, fuse="2", say=print)
        assert trainer.train(planned) == {run.trial_id for run in planned}

        assert Late.begun == (("r0", "r3"),)
        assert recorder.state.trials.keys() == {"r0", "r3"}
        assert not recorder.budget.stopped

        again = StackTrainer(given, one_core, recorder, go_on, fuse="2", say=print)
        again.train(planned)  # the time is over before the first
        assert len(Late.begun) == 1


def test_survivors_that_wait_when_the_time_is_over_are_told_as_stopped(tmp_path, monkeypatch):
    given, planned, one_core = three_epochs(tmp_path, monkeypatch)
    heard = []
    with Journal(tmp_path) as journal:
        recorder = Recorder(journal, "val_loss", "min", 3, tmp_path / "trials", time_budget=3600)

        def decide(trial_id):  # r4 is left of the first stack; in the second's first epoch the clock runs out
            heard.append(trial_id)
            if trial_id == "r1":
                recorder.budget._deadline = 0
            return "stop" if trial_id in {"r0", "r2", "r1"} else "go on"

        StackTrainer(given, one_core, recorder, decide, fuse="3", say=print).train(planned)
        trials = recorder.state.trials

    assert sorted(heard) == ["r0", "r1", "r2", "r3", "r4", "r5"]
    assert {name for name, one in trials.items() if one.finished is None} == recorder.budget.stopped
    assert {"r3", "r4", "r5"} <= recorder.budget.stopped
    assert trials["r0"].status == trials["r2"].status == "stopped"


@pytest.mark.parametrize("fuse", ["auto", "4"])
def test_a_search_stacks_what_it_knows_beforehand(fuse):
    assert chosen_fuse(fuse, "", [CNN, MLP], TWO_CORES) == fuse
    assert chosen_fuse("off", "", [MLP], TWO_CORES) == "off"
    reasons = ("sampler tpe draws by how", "'cnn'", "2 workers")
    cases = (("sampler tpe draws by how …", MLP, {}), ("", CNN, {}), ("", MLP, {"workers_per_trial": 2}))
    for fact, (why, params, change) in zip(reasons, cases, strict=True):
        resources = dataclasses.replace(TWO_CORES, **change)
        if fuse == "auto":
            assert chosen_fuse(fuse, why, [params], resources) == "off"
        else:
            with raises(InvalidConfig, "--fuse 4", fact, "--fuse off"):
                chosen_fuse(fuse, why, [params], resources)


@pytest.mark.parametrize("cost", ["epoch_seconds", "cpu_seconds", "gpu_seconds"])
def test_trials_whose_seconds_are_an_objective_are_not_stacked(cost):
    """A stack tells its seconds in equal parts, so a slow configuration would cost as little as a fast one."""
    search = Search("toy", "toy", "Toy.", Space(**MLP), {}, second_objective=cost)
    draft = Draft(
        search,
        Preset(epochs=2, trials=9, sampler="random", scheduler="none"),
        SearchOptions(data=Path(), preset="smoke"),
    )
    assert chosen_fuse("auto", draft.why_alone, [MLP], TWO_CORES) == "off"
    with raises(InvalidConfig, "--fuse 4", f"{cost}, is of time", "--fuse off"):
        chosen_fuse("4", draft.why_alone, [MLP], TWO_CORES)
    cheap = dataclasses.replace(draft, search=dataclasses.replace(search, second_objective="flops"))
    assert chosen_fuse("4", cheap.why_alone, [MLP], TWO_CORES) == "4"


def test_a_search_whose_trials_have_a_core_each_stacks_none_by_itself():
    each = dataclasses.replace(TWO_CORES, trials=2)
    assert chosen_fuse("auto", "", [MLP], each) == "off"
    assert chosen_fuse("2", "", [MLP], each) == "2"
