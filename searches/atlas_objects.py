"""Electron, muon, tau or jet? Optimizer, loss and activation of a small CNN on two-channel calorimeter images.

Study 4.5 (Islam and Ramachandra): a CNN known from CIFAR-10, with RMSprop, SGD or Adam, cross-entropy or squared error,
ReLU or SELU. Two of its slides show a network each: 64 channels in the second convolution, or 128 in the fourth; and
two sets of dropout, 0.5 / 0.25 / 0.5 and 0.5 / 0.5 / 0.5. `published` is their grid for 200 epochs, `published_long`
for 500, `table` a corner of it for minutes on two cores; `--dry-run` tells what each follows. Energies enter as
log1p(E / 1 GeV).

The published numbers are the class probabilities that the network gave to single test slides. They are no accuracies
and no diagonal of a confusion matrix, so they do not stand beside ours.
"""

from hep_ray import Choice, LogUniform, Mapped, Preset, Published, Search, Space, StudyTable, Uniform, main

published = Space(
    model="object_cnn",
    second_features=Choice(64, 32),
    fourth_features=Mapped("second_features", {64: 64, 32: 128}),
    image_dropout=0.5,
    second_image_dropout=Choice(0.25, 0.5),
    dropout=0.5,
    activation=Choice("relu", "selu"),
    input_transform="log1p",
    loss=Choice("cross_entropy", "mse"),
    optimizer=Choice("rmsprop", "sgd", "adam"),
    alpha=Choice(0.9).when(optimizer="rmsprop"),
    epsilon=Choice(1e-7).when(optimizer="rmsprop"),
    momentum=Mapped("optimizer", {"rmsprop": 0.0, "sgd": 0.0}),
    learning_rate=Mapped("optimizer", {"rmsprop": 0.001, "sgd": 0.01, "adam": 0.001}),
    batch_size=32,
)
smoke = published.replace(
    second_features=64, fourth_features=64, second_image_dropout=0.25, activation="relu"
)
table = published.replace(second_image_dropout=0.25, activation="relu", loss="cross_entropy")
space = published.replace(
    image_dropout=Uniform(0.0, 0.5),
    second_image_dropout=Uniform(0.0, 0.5),
    dropout=Uniform(0.0, 0.6),
    learning_rate=LogUniform(2e-4, 2e-2),
    schedule=Choice("none", "inverse_time", "cosine"),
    decay_rate=LogUniform(1e-3, 1.0).when(schedule="inverse_time"),
    batch_size=Choice(32, 64, 128),
)
PROTOCOL = Published(
    "Islam and Ramachandra, CNN on simulated ATLAS objects (slides)",
    follows=(
        "two networks: 64 channels in the second convolution (226,596 parameters), or 128 in the fourth (366,916)",
        "a dense layer of 512, softmax",
        "dropout of the stages 0.5 / 0.25 / 0.5 or 0.5 / 0.5 / 0.5",
        "RMSprop, SGD and Adam; cross-entropy and squared error; ReLU and SELU; 200 and 500 epochs",
        "RMSprop with rho 0.9, SGD without momentum",
    ),
    ours=(
        "events: Pythia and a parametrised calorimeter, 16 × 16 pixels of 0.05 × π/64 in two channels",
        "jets of light QCD processes, not of the Z → ττ events",
        "validation is 15 % of the events, not 20 % of those that are trained with",
        "energies enter as log1p(E / 1 GeV)",
        "accuracies; published are probabilities of single slides: electron 0.985, jet 0.999, muon 0.952, tau 0.936",
    ),
    silent=(
        "learning rates and RMSprop's epsilon: Keras' defaults; no decay of the rate",
        "batches: 32; padding, and which dropout goes with which network: all with all",
        "number of events, window and pixel size of theirs",
    ),
)
search = Search(
    name="atlas_objects",
    task="atlas_objects",
    title="Optimizer, loss and activation of a CNN for electrons, muons, taus and jets.",
    space=space,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=1, space=smoke),
        "laptop": Preset(trials=16, epochs=10),
        "table": Preset(
            sampler="grid",
            scheduler="none",
            epochs=6,
            seeds=2,
            space=table,
            published=PROTOCOL.with_ours(
                "6 epochs and two seeds; ReLU, cross-entropy and dropout 0.5 / 0.25 / 0.5 alone"
            ),
        ),
        "published": Preset(
            sampler="grid",
            scheduler="none",
            epochs=200,
            seeds=3,
            space=published,
            published=PROTOCOL.with_ours("three seeds of each configuration"),
        ),
        "published_long": Preset(
            sampler="grid",
            scheduler="none",
            epochs=500,
            seeds=3,
            space=published,
            published=PROTOCOL.with_ours("three seeds of each configuration"),
        ),
    },
    baseline={"optimizer": "rmsprop", "loss": "cross_entropy", "activation": "relu"},
    tables=(
        StudyTable(
            title="Validation accuracy, each trial at its best epoch",
            rows=("optimizer", "loss", "activation"),
            metrics=("val_accuracy", "val_auc"),
            names={
                f"optimizer={optimizer}, loss={loss}, activation={activation}": f"{called}, {of_loss}, {of_activation}"
                for optimizer, called in (("rmsprop", "RMSprop"), ("sgd", "SGD"), ("adam", "Adam"))
                for loss, of_loss in (("cross_entropy", "cross-entropy"), ("mse", "squared error"))
                for activation, of_activation in (("relu", "ReLU"), ("selu", "SELU"))
            },
        ),
        StudyTable(
            title="Validation accuracy of each class (published are class probabilities of single test slides)",
            rows=("second_features", "fourth_features"),
            metrics=("parameters", *(f"val_accuracy_{name}" for name in ("electron", "jet", "muon", "tau"))),
            published={
                "second_features=64, fourth_features=64": "probabilities: electron 0.985, jet 0.999, muon 0.952, "
                "tau 0.936, of one of the two networks",
            },
            published_on="four test slides, of objects simulated by ATLAS",
            published_task="atlas_objects",
            published_classes=4,
            published_inputs="single test slides, as class probabilities",
            inputs="all events of the validation split, as accuracies",
            names={
                "second_features=64, fourth_features=64": "32 → 64",
                "second_features=32, fourth_features=128": "Conv128",
            },
        ),
    ),
)

if __name__ == "__main__":
    main(search)
