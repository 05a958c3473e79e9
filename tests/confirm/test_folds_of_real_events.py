"""Five folds of UCI SUSY: no event is scored by a model that saw it, and the error is that of all events."""

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from hep_ray.confirm.folds import dataset_of_fold, put_together
from hep_ray.conversion.convert import convert
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.schema import EVENT_ID
from hep_ray.dataset.splits import SplitRule
from hep_ray.loading.shards import RowGroups, ShardStream
from hep_ray.metrics import classification_metrics
from hep_ray.training.checkpoint import save_checkpoint
from hep_ray.training.config import TrialConfig
from hep_ray.training.loop import start_trial
from hep_ray.training.testing import SCORES, evaluate_once, read_scores

FOLDS, EPOCHS, EVENTS = 5, 5, 5000
PARAMS = {
    "model": "mlp",
    "hidden_features": 32,
    "scalar_scaling": "standardize",
    "loss": "cross_entropy",
    "optimizer": "adam",
    "learning_rate": 0.003,
    "batch_size": 128,
}


def of_split(dataset, split, purpose=None):
    columns = [column.name for column in dataset.schema.inputs]
    return ShardStream(dataset.schema, RowGroups.of(dataset, split, purpose), columns, {}).head(EVENTS)


def ids_of(dataset, *splits):
    return {
        one
        for split in splits
        for one in dataset.values(EVENT_ID, split, purpose="confirm" if split == "test" else None).to_pylist()
    }


def test_five_folds_score_each_event_by_a_model_that_never_saw_it(real_data, tmp_path):
    convert([real_data / "susy_uci/X_train_5000.txt"], None, None, tmp_path / "d", schema="uci_susy_text")
    dataset = Dataset.open(tmp_path / "d")
    files, seen, errors = [], [], []
    for number in range(FOLDS):
        rule = SplitRule.of_fold(number, FOLDS, dataset.manifest.split_rule.salt)
        fold = dataset_of_fold(dataset, rule, tmp_path / "folds", weights=False)
        config, folder = TrialConfig.from_params(PARAMS), tmp_path / f"fold_{number}"
        trial = start_trial(
            config, fold.schema, of_split(fold, "train"), of_split(fold, "val"), epochs=EPOCHS, seed=1
        )
        metrics = [trial.run_epoch() for _ in range(EPOCHS)][-1]
        state = {"model": trial.kept.state_dict(), "params": config.resolved(), "metrics": metrics}
        save_checkpoint(folder / "best.pt", state)
        ids = fold.values(EVENT_ID, "test", purpose="confirm").combine_chunks()
        tested = evaluate_once(folder, fold.schema, of_split(fold, "test", "confirm"), ids)
        errors.append(tested.metrics["test_auc_error"])
        files.append(folder / SCORES)
        seen.append(ids_of(fold, "train", "val"))
    ids = put_together(files, tmp_path / "scores.parquet", dataset.schema)

    table = pq.read_table(tmp_path / "scores.parquet").to_pandas()
    assert len(table) == len(set(table["event_id"])) == EVENTS
    assert set(table["event_id"]) == ids_of(dataset, "train", "val", "test")
    assert not [row for row in table.itertuples() if row.event_id in seen[row.fold - 1]]
    found = read_scores(tmp_path / "scores.parquet", dataset.schema)
    whole = found.metrics(dataset.schema)["test_auc_error"]
    assert np.mean(errors) / whole == pytest.approx(FOLDS**0.5, rel=0.1)
    tested = dataset.values(EVENT_ID, "test", purpose="confirm").combine_chunks()
    held_out = pc.is_in(ids, tested).to_numpy(zero_copy_only=False)
    schema = dataset.schema
    quarter = classification_metrics(
        found.probabilities[held_out],
        found.labels[held_out],
        schema.classes,
        schema.signal,
        found.log_odds[held_out],
    )
    assert quarter["auc_error"] / whole == pytest.approx((EVENTS / held_out.sum()) ** 0.5, rel=0.1)
    assert found.metrics(schema)["test_auc"] > 0.84  # gradient boosting, three-fold: 0.856
