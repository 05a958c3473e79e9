"""Do wide minima carry over to another part of the detector? Adam, SWA, Entropy-SGD and replicated SGD.

Study 4.2, figures 4.1 and 4.2 of the UdeM thesis: electron candidates of |η| < 0.65 are learnt from, and those beyond
are the test split, which no search reads: how each optimizer does there is for the confirmation to tell. The dataset
is made from that of `electron_id`:

    hep-ray data convert data/electron_id --reader parquet --task electron_central --train-where "abs(eta) < 0.65" \
        --out data/electron_central

`published` has the thesis' best model and its optimizers, and replicated SGD, which its outlook names; their rates,
epochs and batch size are ours. SWA is Adam whose weights are averaged over the last quarter of the epochs.
"""

from hep_ray import Choice, LogUniform, Mapped, Preset, Search, Space, StudyTable, main

OPTIMIZERS = ("adam", "entropy_sgd", "replicated_sgd")

published = Space(
    model="electron_id",
    scalar_scaling="quantile_normal",
    sequence_scaling="log1p",
    image_scaling="log1p",
    loss="cross_entropy",
    optimizer=Choice(*OPTIMIZERS),
    swa_start=Choice(1.0, 0.75).when(optimizer="adam"),
    learning_rate=Mapped("optimizer", {"adam": 0.001, "entropy_sgd": 0.05, "replicated_sgd": 0.05}),
    inner_steps=Choice(5).when(optimizer="entropy_sgd"),
    weight_decay=1e-7,
    decay_norms_and_biases=True,
    batch_size=500,
)
grid = published.replace(batch_size=100)
space = grid.replace(
    learning_rate=LogUniform(5e-4, 5e-2),
    inner_steps=Choice(5, 20).when(optimizer="entropy_sgd"),
    manifold_mixup=Choice(0.0, 1.0),
)
search = Search(
    name="flat_minima",
    task="electron_central",
    title="Optimizers that look for wide minima, on electron candidates of |eta| < 0.65.",
    space=space,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=2, space=grid),
        "laptop": Preset(trials=12, epochs=8),
        "published": Preset(sampler="grid", scheduler="none", epochs=50, seeds=3, space=published),
    },
    baseline={"optimizer": "adam", "swa_start": 1.0},
    tables=(
        StudyTable(
            title="Optimizer, each trial at its best epoch (figures 4.1 and 4.2 of the UdeM thesis, "
            "which give no numbers to put beside)",
            rows=("optimizer", "swa_start"),
            metrics=("val_accuracy", "val_auc", "val_loss"),
        ),
    ),
)

if __name__ == "__main__":
    main(search)
