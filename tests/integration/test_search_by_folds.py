"""A search by folds on real Ray: each training is judged by its own fold, it goes on, and its report reads so."""

from __future__ import annotations

import pytest
from rich.console import Console

from hep_ray.conversion.folds import open_fold
from hep_ray.dataset.dataset import Dataset
from hep_ray.errors import CannotResume
from hep_ray.loading.batches import BatchRequest
from hep_ray.loading.shards import RowGroups, ShardStream, class_sums
from hep_ray.report.report_data import gather
from hep_ray.search.definition import Preset, Search
from hep_ray.search.execute import run_search
from hep_ray.search.parameters import LogUniform
from hep_ray.search.plan import planned
from hep_ray.search.space import Space
from hep_ray.training.checkpoint import BEST, restore_model
from hep_ray.training.evaluation import evaluate
from tests.facts import raises

pytestmark = pytest.mark.ray

FOLDS = 3
SEARCH = Search(
    name="toy_folds",
    task="toy",
    title="A toy.",
    space=Space(
        model="cnn",
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=LogUniform(1e-4, 1e-2),
        batch_size=16,
    ),
    presets={"smoke": Preset(trials=5, epochs=2, sampler="random", scheduler="none")},
    metric="val_loss",
)


def test_trainings_are_judged_by_their_fold_and_the_winner_by_all(ray_session, make_dataset, tmp_path):
    data, storage = make_dataset(events=96, size=28), tmp_path / "runs"
    given = {"data": data, "storage": storage, "preset": "smoke", "seed": 3, "folds": FOLDS}
    plan = planned(SEARCH, given)
    assert "in 3 parts that take turns to validate" in dict(plan.rows())["data"]
    assert not (plan.folder / "folds").exists()
    result = run_search(plan, console=Console(quiet=True))
    state, dataset = result.state, Dataset.open(data)
    best = state.ranked("val_loss", "min")[0]
    assert sorted(one.started.fold for one in state.seeds_of(best)) == [1, 2, 3]
    judged = 0
    for trial in state.drawn():
        path = plan.folder / "trials" / trial.trial_id / BEST
        if not path.is_file():
            continue
        judged += 1
        fold = open_fold(dataset, trial.started.fold, FOLDS, plan.folder, weights=False)
        trained, columns = restore_model(path, fold.schema), [one.name for one in fold.schema.inputs]
        stream = ShardStream(fold.schema, RowGroups.of(fold, "val"), columns, class_sums(fold, "val"))
        found = evaluate(trained.model, trained.loss, stream.head(1000).batches(BatchRequest(32)))
        assert found.losses.mean() == pytest.approx(trial.best("val_loss", "min")["val_loss"], rel=1e-5)
    assert judged >= FOLDS

    report = gather(SEARCH, storage)
    assert report.scores is not None
    assert any(f"in fold {report.best.started.fold} of 3" in note for note in report.notes)
    assert "over 3 folds" in str(report.groups.words(report.groups.ranked[:1]))

    with raises(CannotResume, "folds", 3, 4):
        run_search(planned(SEARCH, {"storage": storage, "folds": 4}, resume=True), resume=True)
    more = planned(SEARCH, {"storage": storage, "trials": 6}, resume=True)
    assert more.folds == FOLDS
    assert len(run_search(more, resume=True, console=Console(quiet=True)).state.trials) == 6
