"""Is an electron candidate an electron, by all that is measured of it?

Study 4.2 (UdeM thesis): streams for calorimeter images, tracks and scalars, joined in one network, against the
likelihood method of ATLAS, which is fitted once in every preset to the fifteen scalars; so are gradient boosting and
logistic regression. The task is binary, as in the thesis (section 1.4); its dataset is made from that of six origins:

    hep-ray data simulate electron_id --events 12000 --seed 1 --out data/electron_id
    hep-ray data convert data/electron_id --reader parquet --classes "background=others,electron" \
        --task electron_id_binary --out data/electron_id_binary

With `--data data/electron_id` any preset tells six origins apart, which the thesis has as its outlook (section 3.4.4);
no published number stands beside that.
`published` is the thesis' best model; `architectures` tries its other networks on the six images of 7 × 11, beside the
plain CNN of those images that they are compared with; `table` is the best model for minutes on two cores, and
`published_scaling_law` and, for minutes, `table_scaling_law` give it more and more of them, to which the report's
figure `scaling_law` fits a power law. What they follow, and what not: `--preset NAME --dry-run`.
"""

from hep_ray import (
    Choice,
    Integer,
    LogUniform,
    Mapped,
    Preset,
    Published,
    Search,
    Space,
    StudyTable,
    Uniform,
    main,
)

ARCHITECTURES = {
    "resnet18": "ResNet18",
    "wide_resnet": "wide ResNet",
    "densenet": "DenseNet",
    "coordconv": "CoordConv",
    "cnn_rnn": "CNN-RNN",
    "conv_lstm": "convolutional LSTM",
    "conv3d": "3-D convolutions",
    "vision_transformer": "vision transformer",
}
PLAIN = "electron_id"
SCALARS = {"inputs": "scalars"}
LIKELIHOOD: dict[str, str | int | float] = {
    "model": "likelihood",
    "kernel": "adaptive",
    "bins": 500,
    "prior": "equal",
    **SCALARS,
}

space = Space(
    model="electron_id",
    track_form=Choice("image", "sequence"),
    conv_layers=Integer(1, 3),
    conv_features=Choice(16, 32, 64),
    kernel_size=Choice(3, 1, 5),
    padding=Mapped("kernel_size", {1: 0, 3: 1, 5: 2}),
    stride=Choice(1, 2),
    dense_layers=Integer(1, 4),
    dense_features=Choice(50, 100, 200),
    dropout=Uniform(0.0, 0.3),
    conv_dropout=Choice(True, False),
    scalar_scaling=Choice("quantile_normal", "standardize"),
    sequence_scaling=Choice("per_channel", "log1p"),
    plane_scaling="log1p",
    image_scaling="log1p",
    class_weights=Choice("none", "balanced"),
    loss="cross_entropy",
    optimizer=Choice("adam", "adamw", "sgd"),
    momentum=Choice(0.9, 0.0).when(optimizer="sgd"),
    weight_decay=LogUniform(1e-8, 1e-3),
    learning_rate=LogUniform(2e-4, 5e-3),
    schedule="cosine",
    batch_size=100,
)
published = Space(
    model="electron_id",
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
table = published.replace(batch_size=100)
SIZES = (250, 500, 1000, 2000, 5000)
scaling_law = published.replace(batch_size=100, train_events=Choice(*SIZES, 0))
architectures = Space(
    model=Choice(*ARCHITECTURES, PLAIN),
    parts=Choice("layer_images").when(model=PLAIN),
    conv_dropout=Choice(True).when(model=PLAIN),
    image_scaling="log1p",
    loss="cross_entropy",
    optimizer="adam",
    weight_decay=1e-7,
    decay_norms_and_biases=True,
    learning_rate=0.001,
    batch_size=500,
)
EVENTS = "events: Pythia and a parametrised detector, thousands of candidates, not 14.7 million of ATLAS"
SETTINGS = (
    "binary: signal electrons against all others, two of six origins being 98.3 % of the candidates",
    "Adam at 1e-3, L2 of 1e-7, scalars made normal by their quantiles",
)
OPEN = (
    "batches of 500 and 50 epochs; pooling of the 56 × 11 image after each convolution",
    "scaling of images (log1p of GeV) and of tracks (mean 0, deviation 1 of each quantity)",
)
BEST = Published(
    "UdeM thesis, best model (section 3.4)",
    follows=(
        *SETTINGS,
        "three 3 × 3 convolutions of 32 features, padding and stride 1; three layers of 100 neurons",
        "dropout 0.1 after every ReLU, of the convolutions too",
        "tracks as a 15 × 5 image of one channel under 1 × 1 kernels: 2,400 features",
        "likelihood of two densities by adaptive kernels, transformed discriminant, Loose, Medium, Tight",
    ),
    ours=(EVENTS, "the likelihood reads the fifteen scalars and is not binned in |η| and E_T", "three seeds"),
    silent=OPEN,
)
SCALING = Published(
    "UdeM thesis, section 3.4.2",
    ("the best model, trained with more and more candidates", *SETTINGS),
    (EVENTS, "the power law of figure `scaling_law`, fitted to one minus the accuracy"),
    OPEN,
)
search = Search(
    name="electron_id",
    task="electron_id_binary",
    title="Network, regularisation and learning rate for electron candidates.",
    space=space,
    presets={
        "smoke": Preset(trials=2, epochs=1),
        "laptop": Preset(trials=10, epochs=8),
        "table": Preset(
            sampler="grid",
            scheduler="none",
            epochs=3,
            seeds=3,
            space=table,
            published=BEST.with_ours("3 epochs, batches of 100"),
        ),
        "published": Preset(
            sampler="grid", scheduler="none", epochs=50, seeds=3, space=published, published=BEST
        ),
        "published_scaling_law": Preset(
            sampler="grid",
            scheduler="none",
            epochs=20,
            seeds=3,
            space=scaling_law,
            published=SCALING.with_ours(
                "250 to 5,000 candidates and all; 20 epochs, batches of 100; three seeds"
            ),
        ),
        "table_scaling_law": Preset(
            sampler="grid",
            scheduler="none",
            epochs=8,
            space=scaling_law.replace(train_events=Choice(*SIZES[:-1], 0)),
            published=SCALING.with_ours(
                "250 to 2,000 candidates and all; 8 epochs, batches of 100; one seed"
            ),
        ),
        "architectures": Preset(
            sampler="grid",
            scheduler="none",
            epochs=50,
            seeds=3,
            space=architectures,
            published=Published(
                "UdeM thesis, architecture trials",
                (*SETTINGS[:1], "its list of networks, and the plain CNN that they are compared with"),
                (EVENTS, "all on the six 7 × 11 images alone", "sizes of the networks; three seeds"),
                (*OPEN, "settings of each network"),
            ),
        ),
    },
    baseline={"model": "likelihood"},
    points_to_evaluate=(
        LIKELIHOOD,
        {"model": "gradient_boosting", **SCALARS},
        {"model": "logistic_regression", **SCALARS},
    ),
    tables=(
        StudyTable(
            title="Classifier, each trial at its best epoch, and 1/ε_b at the signal efficiencies of Loose, Medium and "
            "Tight (figure 3.2; published gains over the likelihood method: factors 8, 12 and 18)",
            rows=("model", "parts"),
            metrics=("val_accuracy", "val_auc", *(f"val_background_rejection_at_{n}" for n in (93, 88, 80))),
            published={"model=electron_id": "accuracy 0.9805"},
            published_on="14.7 million candidates simulated by ATLAS",
            published_task="electron_id_binary",
            published_classes=2,
            published_inputs="images, tracks and scalars of a candidate",
            inputs="images, tracks and scalars of a candidate",
            published_gains={"Loose": (93, 8.0), "Medium": (88, 12.0), "Tight": (80, 18.0)},
            names={
                "model=electron_id": "network",
                "model=likelihood": "likelihood",
                "model=gradient_boosting": "gradient boosting",
                "model=logistic_regression": "logistic regression",
                f"model={PLAIN}, parts=layer_images": "plain CNN",
                **{f"model={model}": name for model, name in ARCHITECTURES.items()},
            },
        ),
        StudyTable(
            title="Accuracy by the candidates that were learnt from (section 3.4.2; 0 is all)",
            rows=("model", "train_events"),
            metrics=("val_accuracy", "val_auc"),
            names={
                "model=electron_id, train_events=0": "network, all candidates",
                **{
                    f"model=electron_id, train_events={size}": f"network, {size:,} candidates"
                    for size in SIZES
                },
                "model=likelihood": "likelihood, all",
                "model=gradient_boosting": "gradient boosting, all",
                "model=logistic_regression": "logistic regression, all",
            },
        ),
    ),
)

if __name__ == "__main__":
    main(search)
