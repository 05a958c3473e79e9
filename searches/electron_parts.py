"""What does each part of an electron candidate tell on its own, and what is missed without it?

Study 4.2, table 3.2 of the UdeM thesis: the network of `electron_id` with streams taken out. The thesis keeps one part
at a time; `laptop` and `published` also leave out one at a time, which says what a part adds to the others.
`published` has the settings of the thesis' best model; epochs and batch size are ours.
"""

from hep_ray import Choice, Preset, Search, Space, StudyTable, main

PARTS = ("fine_image", "layer_images", "tracks", "scalars")
ALL = "+".join(PARTS)
WITHOUT = tuple("+".join(part for part in PARTS if part != left_out) for left_out in PARTS)

published = Space(
    model="electron_id",
    parts=Choice(ALL, *PARTS, *WITHOUT),
    conv_layers=3,
    conv_features=32,
    dense_layers=3,
    dense_features=100,
    dropout=0.1,
    scalar_scaling="quantile_normal",
    sequence_scaling="log1p",
    image_scaling="log1p",
    loss="cross_entropy",
    optimizer="adam",
    weight_decay=1e-7,
    decay_norms_and_biases=True,
    learning_rate=0.001,
    batch_size=500,
)
space = published.replace(schedule="cosine", batch_size=100)
search = Search(
    name="electron_parts",
    task="electron_id",
    title="Which parts of an electron candidate a network needs.",
    space=space,
    presets={
        "smoke": Preset(
            sampler="grid", scheduler="none", epochs=1, space=space.replace(parts=Choice(ALL, *PARTS))
        ),
        "laptop": Preset(sampler="grid", scheduler="none", epochs=6),
        "published": Preset(sampler="grid", scheduler="none", epochs=50, seeds=3, space=published),
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
            published_task="electron_id",
            published_classes=2,
            published_inputs="the parts of a candidate that the row names",
            inputs="the parts of a candidate that the row names",
        ),
    ),
)

if __name__ == "__main__":
    main(search)
