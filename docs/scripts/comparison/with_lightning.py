"""The search of docs/comparison.md in Optuna and Lightning: python with_lightning.py data/susy."""

import sys
from pathlib import Path

import lightning
import numpy as np
import optuna
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

TRIALS, EPOCHS, BATCH = 12, 10, 128


def read(folder, split):
    table = pq.read_table(sorted(Path(folder).glob(f"{split}-*.parquet")))
    columns = [np.stack(table[name].to_numpy(zero_copy_only=False)) for name in ("low_level", "high_level")]
    return torch.from_numpy(np.hstack(columns)).float(), torch.from_numpy(table["label"].to_numpy()).long()


class Classifier(lightning.LightningModule):
    def __init__(self, features, hidden_layers, hidden_features, dropout, learning_rate):
        super().__init__()
        layers, width = [], features
        for _ in range(hidden_layers):
            layers += [nn.Linear(width, hidden_features), nn.ReLU(), nn.Dropout(dropout)]
            width = hidden_features
        self.layers = nn.Sequential(*layers, nn.Linear(width, 2))
        self.learning_rate, self.outputs = learning_rate, []

    def training_step(self, batch, _):
        return nn.functional.cross_entropy(self.layers(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.outputs.append((self.layers(batch[0]).softmax(1)[:, 1], batch[1]))

    def on_validation_epoch_end(self):
        scores, labels = (torch.cat(parts) for parts in zip(*self.outputs, strict=True))
        self.outputs.clear()
        self.log("val_auc", float(roc_auc_score(labels, scores)))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)


class Pruning(lightning.Callback):
    def __init__(self, trial):
        self.trial, self.best = trial, 0.0

    def on_validation_end(self, trainer, module):
        value = float(trainer.callback_metrics["val_auc"])
        self.best = max(self.best, value)
        self.trial.report(value, trainer.current_epoch + 1)
        if self.trial.should_prune():
            raise optuna.TrialPruned


def objective(trial, events):
    lightning.seed_everything(0, verbose=False)
    (x, y), (x_val, y_val) = events["train"], events["val"]
    mean, sd = x.mean(0), x.std(0)
    training = DataLoader(TensorDataset((x - mean) / sd, y), batch_size=BATCH, shuffle=True)
    validation = DataLoader(TensorDataset((x_val - mean) / sd, y_val), batch_size=1000)
    model = Classifier(
        features=x.shape[1],
        hidden_layers=trial.suggest_int("hidden_layers", 1, 3),
        hidden_features=trial.suggest_categorical("hidden_features", [16, 32, 64, 128]),
        dropout=trial.suggest_float("dropout", 0.0, 0.4),
        learning_rate=trial.suggest_float("learning_rate", 2e-4, 1e-2, log=True),
    )
    pruning = Pruning(trial)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[pruning],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(model, training, validation)
    return pruning.best


if __name__ == "__main__":
    events = {split: read(sys.argv[1], split) for split in ("train", "val")}
    study = optuna.create_study(
        study_name="comparison",
        storage="sqlite:///comparison.db",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=3, reduction_factor=3),
    )
    left = TRIALS - sum(trial.state.is_finished() for trial in study.trials)
    study.optimize(lambda trial: objective(trial, events), n_trials=left)
    print(study.best_params, study.best_value)
