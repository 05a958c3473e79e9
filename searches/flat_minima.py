"""Do wide minima carry over to another part of the detector? Adam, SWA, Entropy-SGD and replicated SGD.

Study 4.2, figures 4.1 and 4.2 of the UdeM thesis: a network of the 56 × 11 image alone learns from electron candidates
of one half of |η|, and is judged after each epoch in its own half and, by `--watch`, in the other, which ranks nothing.
The halves are of equal size, so the border is the median of |η|: 1.15 of the simulated candidates:

    hep-ray data convert data/electron_id_binary --reader parquet --task electron_central \
        --select "abs(eta) < 1.15" --out data/electron_central
    hep-ray data convert data/electron_id_binary --reader parquet --task electron_forward \
        --select "abs(eta) >= 1.15" --out data/electron_forward
    python searches/flat_minima.py --preset published_60k --watch data/electron_forward

The other direction is `--data data/electron_forward --watch data/electron_central`, with a storage of its own. With
`--train-where "abs(eta) < 1.15"` instead, the other half is the test split, for a confirmation to open once.

SWA is Adam whose weights are averaged over the last half of the epochs; of fewer than three epochs it would average
one, which is Adam, and is refused. What `published` follows, and what not: `--preset published --dry-run`.
`published_60k` and `published_600k` train with the first 60,000 and 600,000 candidates, which the dataset must have in
train.
"""

from hep_ray import Choice, LogUniform, Mapped, Preset, Published, Search, Space, StudyTable, main

OPTIMIZERS = ("adam", "entropy_sgd", "replicated_sgd")

published = Space(
    model="electron_id",
    parts="fine_image",
    conv_dropout=True,
    plane_scaling="log1p",
    loss="cross_entropy",
    optimizer=Choice(*OPTIMIZERS),
    swa_start=Choice(1.0, 0.5).when(optimizer="adam"),
    learning_rate=Mapped("optimizer", {"adam": 0.001, "entropy_sgd": 0.05, "replicated_sgd": 0.05}),
    inner_steps=Choice(5).when(optimizer="entropy_sgd"),
    weight_decay=1e-7,
    decay_norms_and_biases=True,
    batch_size=500,
)
grid = published.replace(batch_size=100)
table = published.replace(batch_size=50)
smoke = grid.replace(swa_start=Choice(1.0, 0.0).when(optimizer="adam"))
space = grid.replace(
    learning_rate=LogUniform(5e-4, 5e-2),
    inner_steps=Choice(5, 20).when(optimizer="entropy_sgd"),
    manifold_mixup=Choice(0.0, 1.0),
)
PROTOCOL = Published(
    "UdeM thesis, figures 4.1 and 4.2",
    follows=(
        "the 56 × 11 image alone, learnt in one half of |η| and tested in the other, halves of equal size",
        "Adam, SWA and Entropy-SGD; the convolutions of the best model, dropout 0.1 after every ReLU, L2 of 1e-7",
    ),
    ours=(
        "events: Pythia and a parametrised detector, as many as the dataset has",
        "replicated SGD, which the thesis names in its outlook",
    ),
    silent=(
        "learning rates (1e-3 of Adam, 0.05 of the others), inner steps (5), epochs (50), batches (500)",
        "from where SWA averages: the last half of the epochs",
    ),
)
search = Search(
    name="flat_minima",
    task="electron_central",
    title="Optimizers that look for wide minima, on electron candidates of one half of |eta|.",
    space=space,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=2, space=smoke),
        "laptop": Preset(trials=12, epochs=8),
        "table": Preset(
            sampler="grid",
            scheduler="none",
            epochs=8,
            space=table,
            published=PROTOCOL.with_ours("8 epochs, batches of 50, one seed"),
        ),
        "published": Preset(
            sampler="grid",
            scheduler="none",
            epochs=50,
            seeds=3,
            space=published,
            published=PROTOCOL.with_ours("three seeds"),
        ),
        **{
            f"published_{thousands}k": Preset(
                sampler="grid",
                scheduler="none",
                epochs=50,
                seeds=3,
                space=published.replace(train_events=1000 * thousands),
                published=PROTOCOL.with_ours("three seeds"),
            )
            for thousands in (60, 600)
        },
    },
    baseline={"optimizer": "adam", "swa_start": 1.0},
    tables=(
        StudyTable(
            title="Optimizer, each trial at its best epoch (figures 4.1 and 4.2 of the UdeM thesis, "
            "which give no numbers to put beside)",
            rows=("optimizer", "swa_start"),
            metrics=("val_accuracy", "val_auc", "val_loss"),
            names={
                "optimizer=adam, swa_start=1.0": "Adam",
                **{f"optimizer=adam, swa_start={start}": "SWA" for start in (0.5, 0.0)},
                "optimizer=entropy_sgd": "Entropy-SGD",
                "optimizer=replicated_sgd": "replicated SGD",
            },
        ),
    ),
)

if __name__ == "__main__":
    main(search)
