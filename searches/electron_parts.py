"""What does each part of an electron candidate tell on its own, and what is missed without it?

Study 4.2, table 3.2 of the UdeM thesis: the network of `electron_id` with streams taken out, signal electrons against
all others (`electron_id.py` says how that dataset is made). The thesis keeps one part at a time; `laptop` and
`published` also leave out one at a time, which says what a part adds to the others. `published` has the settings of the
thesis' best model, and `table` is table 3.2 for minutes on two cores; what they follow: `--preset NAME --dry-run`.
"""

from hep_ray import Choice, Preset, Published, Search, Space, StudyTable, main

PARTS = ("fine_image", "layer_images", "tracks", "scalars")
ALL = "+".join(PARTS)
WITHOUT = tuple("+".join(part for part in PARTS if part != left_out) for left_out in PARTS)
CALLED = {
    "fine_image": "56 × 11 image",
    "layer_images": "7 × 11 images",
    "tracks": "tracks",
    "scalars": "scalars",
}

published = Space(
    model="electron_id",
    parts=Choice(ALL, *PARTS, *WITHOUT),
    track_form="image",
    conv_layers=3,
    conv_features=32,
    kernel_size=3,
    padding=1,
    stride=1,
    dense_layers=3,
    dense_features=100,
    dropout=0.1,
    conv_dropout=True,
    scalar_scaling="quantile_normal",
    sequence_scaling="per_channel",
    plane_scaling="log1p",
    image_scaling="log1p",
    loss="cross_entropy",
    optimizer="adam",
    weight_decay=1e-7,
    decay_norms_and_biases=True,
    learning_rate=0.001,
    batch_size=500,
)
space = published.replace(schedule="cosine", batch_size=100)
table = published.replace(parts=Choice(ALL, *PARTS), batch_size=100)
PROTOCOL = Published(
    "UdeM thesis, table 3.2",
    follows=(
        "binary: signal electrons against all others, two of six origins being 98.3 % of the candidates",
        "one part at a time, with the network of the best model",
        "dropout 0.1 after every ReLU, tracks as a 15 × 5 image of one channel",
        "Adam at 1e-3, L2 of 1e-7, scalars made normal by their quantiles",
    ),
    ours=("events: Pythia and a parametrised detector, thousands of candidates, not millions of ATLAS",),
    silent=(
        "batches of 500 and 50 epochs; pooling of the 56 × 11 image after each convolution",
        "scaling of images (log1p of GeV) and of tracks (mean 0, deviation 1 of each quantity)",
    ),
)
search = Search(
    name="electron_parts",
    task="electron_id_binary",
    title="Which parts of an electron candidate a network needs.",
    space=space,
    presets={
        "smoke": Preset(
            sampler="grid", scheduler="none", epochs=1, space=space.replace(parts=Choice(ALL, *PARTS))
        ),
        "laptop": Preset(sampler="grid", scheduler="none", epochs=6),
        "table": Preset(
            sampler="grid",
            scheduler="none",
            epochs=3,
            space=table,
            published=PROTOCOL.with_ours("3 epochs, batches of 100, one seed"),
        ),
        "published": Preset(
            sampler="grid",
            scheduler="none",
            epochs=50,
            seeds=3,
            space=published,
            published=PROTOCOL.with_ours("rows without one part each; three seeds"),
        ),
    },
    baseline={"parts": ALL},
    tables=(
        StudyTable(
            title="Accuracy by parts of the candidate, each trial at its best epoch (table 3.2 of the UdeM thesis)",
            rows=("parts",),
            metrics=("val_accuracy", "val_auc"),
            published={
                f"parts={ALL}": "accuracy 0.9805",
                "parts=scalars": "accuracy 0.972",
                "parts=layer_images": "accuracy 0.964",
                "parts=fine_image": "accuracy 0.952",
                "parts=tracks": "accuracy 0.911",
            },
            published_on="candidates simulated by ATLAS",
            published_task="electron_id_binary",
            published_classes=2,
            published_inputs="the parts of a candidate that the row names",
            inputs="the parts of a candidate that the row names",
            names={
                f"parts={ALL}": "all parts",
                **{f"parts={part}": name for part, name in CALLED.items()},
                **{
                    f"parts={kept}": f"without {CALLED[part]}"
                    for part, kept in zip(PARTS, WITHOUT, strict=True)
                },
            },
        ),
    ),
)

if __name__ == "__main__":
    main(search)
