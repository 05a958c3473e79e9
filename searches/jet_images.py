"""Which network tells jets of a boosted particle from QCD jets by their image? CVN and B-CNN against plain CNNs.

Study 4.3 (UCSD): H → bb against QCD; the CVN of NOvA and the bilinear CNN, and the Optuna search that the paper
wished for. Pixels are p_T in GeV and enter as log1p(p_T / 1 GeV).
The published protocol has two parts, since the networks were trained differently: `published` is that of B-CNN (Adam,
learning rate 1e-4, weight decay 1e-5 on every parameter, at most 100 epochs, patience 10), `published_cvn` that of CVN
(SGD, learning rate 5e-4, momentum 0.9, batches of 32, 20 epochs). Each needs its own storage: `--storage runs/cvn`.
`laptop` tunes the small `cnn` alone, whose epoch costs a fourth of CVN's; `networks` compares four networks.
B-CNN starts untrained; `weights="imagenet"` in its space takes VGG16-BN from torch's cache.
"""

from hep_ray import Choice, LogUniform, Preset, Search, Space, StudyTable, Uniform, main

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
    model=Choice("cvn", "bilinear_cnn", "cnn"),
    input_transform="log1p",
    loss="cross_entropy",
    optimizer="adam",
    learning_rate=0.001,
    batch_size=32,
)
bcnn = Space(
    model="bilinear_cnn",
    loss="cross_entropy",
    optimizer="adam",
    weight_decay=1e-5,
    decay_norms_and_biases=True,
    learning_rate=1e-4,
    batch_size=32,
    patience=10,
    patience_metric="val_loss",
)
cvn = Space(
    model="cvn",
    loss="cross_entropy",
    optimizer="sgd",
    momentum=0.9,
    learning_rate=5e-4,
    batch_size=32,
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
        "published": Preset(sampler="grid", scheduler="none", epochs=100, seeds=3, space=bcnn),
        "published_cvn": Preset(sampler="grid", scheduler="none", epochs=20, seeds=3, space=cvn),
    },
    metric="val_auc",
    baseline={"model": "cvn"},
    tables=(
        StudyTable(
            title="Network, each trial at its best epoch",
            rows=("model",),
            metrics=("val_auc", "val_accuracy", "val_background_rejection_at_50"),
            published={"model=cvn": "AUC 0.55", "model=bilinear_cnn": "AUC 0.86, accuracy 0.8739"},
            published_on="H → bb and QCD jets of the UCSD study",
            published_task="jet_images",
            published_classes=2,
            published_inputs="images of 224 x 224 over +-0.8",
            inputs="images of 30 x 30",
        ),
    ),
)

if __name__ == "__main__":
    main(search)
