"""Which network tells jets of a boosted particle from QCD jets by their image? CVN and B-CNN against plain CNNs.

Study 4.3 (UCSD): H → bb against QCD; the CVN of NOvA and the bilinear CNN, and the Optuna search of it that the paper
wished for (`bcnn_search`). The published protocol has two parts, since the networks were trained differently:
`published` is that of B-CNN, `published_cvn` that of CVN. Each needs its own storage: `--storage runs/cvn`. What they
follow, and what not: `--preset NAME --dry-run`.

`cvn_ucsd` is CVN as the study built it, `cvn` the one of GoogLeNet's widths. The study's pixels are fractions of the
image's p_T (`input_transform="fraction"`), with which that CVN never leaves a loss of ln 2; in GeV it learns.
B-CNN pools each stream before the outer product, as the study says (`pooling="streams"`), or multiplies first, as Lin
et al. do (`"products"`). At 30 × 30 pixels VGG16 leaves one place, and both are the same network.

`published_both` trains the two networks in one search. Confirmed against each other they stand in one report, whose
figure `accuracy_by_threshold` has the accuracy of both:

    python searches/jet_images.py --preset published_both
    hep-ray confirm jet_images --top 1 --baseline model=cvn_ucsd
    hep-ray report jet_images --figures figures/

The study balances its classes by leaving events out: `hep-ray data convert DIR --reader parquet --balance --out …`.
Its accuracy of B-CNN is of a test set that is not balanced, of which a guess of background gets 0.86 right.
`laptop` tunes the small `cnn` alone, whose epoch costs a fourth of CVN's; `networks` compares four networks.
"""

from hep_ray import Choice, LogUniform, Mapped, Preset, Published, Search, Space, StudyTable, Uniform, main

space = Space(
    model=Choice("cnn", "deep_cnn", "coordconv", "cvn"),
    input_transform="log1p",
    loss="cross_entropy",
    optimizer=Choice("adam", "adamw"),
    weight_decay=LogUniform(1e-6, 1e-2),
    learning_rate=LogUniform(2e-4, 5e-3),
    schedule="cosine",
    phi_flip=Choice(False, True),
    eta_flip=Choice(False, True),
    batch_size=64,
)
laptop = Space(
    model="cnn",
    input_transform="log1p",
    dropout=Uniform(0.2, 0.7),
    loss="cross_entropy",
    optimizer="adamw",
    weight_decay=LogUniform(1e-3, 1e-1),
    learning_rate=LogUniform(3e-4, 2e-3),
    schedule="cosine",
    swa_start=Choice(0.5, 1.0),
    phi_flip=Choice(False, True),
    batch_size=64,
)
networks = Space(
    model=Choice("cvn", "cvn_ucsd", "bilinear_cnn", "cnn"),
    input_transform="log1p",
    loss="cross_entropy",
    optimizer="adam",
    learning_rate=0.001,
    batch_size=32,
)
bcnn = Space(
    model="bilinear_cnn",
    pooling=Choice("streams", "products"),
    input_transform="fraction",
    loss="cross_entropy",
    optimizer="adam",
    weight_decay=1e-5,
    decay_norms_and_biases=True,
    learning_rate=1e-4,
    batch_size=32,
    patience=10,
    patience_metric="val_loss",
)
bcnn_search = Space(
    model="bilinear_cnn",
    pooling="streams",
    input_transform=Choice("fraction", "none", "log1p"),
    loss="cross_entropy",
    optimizer=Choice("adam", "adamw", "sgd"),
    weight_decay=LogUniform(1e-6, 1e-2),
    learning_rate=LogUniform(1e-5, 3e-3),
    schedule=Choice("none", "cosine"),
    phi_flip=Choice(False, True),
    eta_flip=Choice(False, True),
    batch_size=Choice(32, 64, 128),
)
cvn = Space(
    model=Choice("cvn_ucsd", "cvn"),
    input_transform=Choice("fraction", "none"),
    loss="cross_entropy",
    optimizer="sgd",
    momentum=0.9,
    learning_rate=5e-4,
    batch_size=32,
)
both = Space(
    model=Choice("cvn_ucsd", "bilinear_cnn"),
    pooling=Choice("streams").when(model="bilinear_cnn"),
    input_transform="fraction",
    loss="cross_entropy",
    optimizer=Choice("sgd", "adam"),
    momentum=Choice(0.9).when(optimizer="sgd"),
    weight_decay=Choice(1e-5).when(optimizer="adam"),
    decay_norms_and_biases=True,
    learning_rate=Mapped("optimizer", {"sgd": 5e-4, "adam": 1e-4}),
    batch_size=32,
    patience=10,
    patience_metric="val_loss",
)
table_bcnn = bcnn.replace(pooling="streams", input_transform="fraction")
STUDY = "UCSD study of H → bb jet images"
EVENTS = (
    "images of 30 × 30 pixels, not 224 × 224 over ±0.8; simulated ones over ±1.0, of a parametrised detector",
    "the classes are as the dataset has them: equal where simulated; `--balance` of `data convert` makes them so",
)
B_CNN = Published(
    f"{STUDY}, B-CNN",
    follows=(
        "VGG16-BN shared by both streams, each pooled over the image, their outer product, signed root, unit length",
        "Adam at 1e-4, weight decay 1e-5 on every parameter, at most 100 epochs, patience 10",
        "pixels are fractions of the image's p_T, one channel repeated to three",
    ),
    ours=EVENTS,
    silent=(
        "batches: 32; what the patience waits for: the validation loss",
        "the first weights of VGG16: random; `weights` takes those of ImageNet",
    ),
)
CVN = Published(
    f"{STUDY}, CVN",
    follows=(
        "one branch of NOvA's CVN with three inceptions of 256 channels: 535,890 parameters",
        "no activation after convolutions, response normalisation with k = 2",
        "SGD at 5e-4, momentum 0.9, batches of 32, negative log-likelihood, 20 epochs",
        "pixels are fractions of the image's p_T",
    ),
    ours=(
        *EVENTS,
        "beside it the CVN of GoogLeNet's widths (1,496,938 parameters), and pixels in GeV for both",
    ),
    silent=(
        "where the second pooling stands among the inceptions: before the last",
        "initial weights: torch's",
    ),
)
BOTH = Published(
    f"{STUDY}, B-CNN and CVN in one comparison",
    follows=(*B_CNN.follows, *CVN.follows[:2], "SGD at 5e-4, momentum 0.9, batches of 32, for CVN"),
    ours=(
        *EVENTS,
        "CVN may train for as long as B-CNN, with its patience, not for 20 epochs",
        "each network also with the other's optimizer",
        "the published accuracy of B-CNN is of an unbalanced test set, of which background alone is 0.86",
    ),
    silent=B_CNN.silent,
)
search = Search(
    name="jet_images",
    task="jet_images",
    title="Networks for jet images: H → bb against QCD.",
    space=space,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=1, space=networks),
        "laptop": Preset(trials=12, epochs=12, space=laptop),
        "networks": Preset(trials=12, epochs=10),
        "bcnn_search": Preset(trials=20, epochs=20, space=bcnn_search),
        "table": Preset(
            sampler="grid",
            scheduler="none",
            epochs=2,
            space=table_bcnn,
            published=B_CNN.with_ours("2 epochs and one seed, the study's pooling alone"),
        ),
        "table_cvn": Preset(
            sampler="grid",
            scheduler="none",
            epochs=8,
            space=cvn,
            published=CVN.with_ours("8 epochs and one seed"),
        ),
        "published": Preset(
            sampler="grid",
            scheduler="none",
            epochs=100,
            seeds=3,
            space=bcnn,
            published=B_CNN.with_ours(
                "beside it the order of Lin et al., product first, the same at 30 × 30", "three seeds"
            ),
        ),
        "published_both": Preset(
            sampler="grid",
            scheduler="none",
            epochs=100,
            seeds=3,
            space=both,
            published=BOTH.with_ours("three seeds"),
        ),
        "table_both": Preset(
            sampler="grid",
            scheduler="none",
            epochs=2,
            space=both,
            published=BOTH.with_ours("2 epochs and one seed"),
        ),
        "published_cvn": Preset(
            sampler="grid",
            scheduler="none",
            epochs=20,
            seeds=3,
            space=cvn,
            published=CVN.with_ours("three seeds"),
        ),
    },
    metric="val_auc",
    baseline={"model": "cvn"},
    tables=(
        StudyTable(
            title="Network and pixels, each trial at its best epoch",
            rows=("model", "pooling", "input_transform"),
            metrics=("val_auc", "val_accuracy", "val_loss", "parameters", "val_background_rejection_at_50"),
            published={
                "model=cvn_ucsd, input_transform=fraction": "AUC 0.55",
                "model=bilinear_cnn, pooling=streams, input_transform=fraction": "AUC 0.86, accuracy 0.8739 (of an "
                "unbalanced test set: background alone is 0.86)",
            },
            published_on="jets of the UCSD study at 224 × 224; accuracy of a test set whose background is 0.86",
            published_task="jet_images",
            published_classes=2,
            published_inputs="images of a jet's p_T",
            inputs="images of a jet's p_T",
            names={
                "model=cvn_ucsd, input_transform=fraction": "CVN, p_T fractions",
                "model=cvn_ucsd, input_transform=none": "CVN, GeV",
                "model=cvn, input_transform=fraction": "CVN of GoogLeNet's widths, p_T fractions",
                "model=cvn, input_transform=none": "CVN of GoogLeNet's widths, GeV",
                "model=bilinear_cnn, pooling=streams, input_transform=fraction": "B-CNN, streams pooled",
                "model=bilinear_cnn, pooling=products, input_transform=fraction": "B-CNN of Lin et al.",
            },
        ),
    ),
)

if __name__ == "__main__":
    main(search)
