"""The search of docs/comparison.md in plain Ray Tune: python with_tune.py data/susy."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from sklearn.metrics import roc_auc_score
from torch import nn

TRIALS, EPOCHS, BATCH = 12, 10, 128
SPACE = {
    "hidden_layers": tune.randint(1, 4),
    "hidden_features": tune.choice([16, 32, 64, 128]),
    "dropout": tune.uniform(0.0, 0.4),
    "learning_rate": tune.loguniform(2e-4, 1e-2),
}


def read(folder, split):
    table = pq.read_table(sorted(Path(folder).glob(f"{split}-*.parquet")))
    columns = [np.stack(table[name].to_numpy(zero_copy_only=False)) for name in ("low_level", "high_level")]
    return torch.from_numpy(np.hstack(columns)).float(), torch.from_numpy(table["label"].to_numpy()).long()


def network(config, features):
    layers, width = [], features
    for _ in range(config["hidden_layers"]):
        layers += [nn.Linear(width, config["hidden_features"]), nn.ReLU(), nn.Dropout(config["dropout"])]
        width = config["hidden_features"]
    return nn.Sequential(*layers, nn.Linear(width, 2))


def train(config, events):
    torch.manual_seed(0)
    (x, y), (x_val, y_val) = events["train"], events["val"]
    mean, sd = x.mean(0), x.std(0)
    x, x_val = (x - mean) / sd, (x_val - mean) / sd
    model = network(config, x.shape[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=config["learning_rate"])
    for epoch in range(EPOCHS):
        model.train()
        for rows in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            scores = model(x_val).softmax(1)[:, 1]
        tune.report({"val_auc": roc_auc_score(y_val, scores), "epoch": epoch + 1})


if __name__ == "__main__":
    events = {split: read(sys.argv[1], split) for split in ("train", "val")}
    tuner = tune.Tuner(
        tune.with_parameters(train, events=events),
        param_space=SPACE,
        tune_config=tune.TuneConfig(
            metric="val_auc",
            mode="max",
            num_samples=TRIALS,
            search_alg=ConcurrencyLimiter(OptunaSearch(seed=0), max_concurrent=2),
            scheduler=ASHAScheduler(max_t=EPOCHS, grace_period=3, reduction_factor=3),
        ),
    )
    best = tuner.fit().get_best_result(scope="all")
    print(best.config, best.metrics_dataframe["val_auc"].max())  # best.metrics is of the last epoch
