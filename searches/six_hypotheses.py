"""Of which kind is a black hole? Sphalerons and five kinds of black holes, by ResNet18 on their images.

The follow-up of the HVL thesis (Grefsrud et al., arXiv:2310.15227): six classes after the preselection of five objects
above 70 GeV and S_T of 7 TeV, ResNet18 trained five times, XGBoost beside it. Here XGBoost reads the six event
variables, with default options, and is fitted once in every preset. Energies enter the networks as log1p(E / 100 GeV).
`published` has the network, the classes and the five seeds of the paper; its optimizer, learning rate, epochs and batch
size are those of the thesis.
"""

from hep_ray import Choice, LogUniform, Preset, Published, Search, Space, StudyTable, main

space = Space(
    model=Choice("resnet18", "deep_cnn", "cnn"),
    input_scale=100.0,
    input_transform="log1p",
    loss="cross_entropy",
    label_smoothing=Choice(0.0, 0.1),
    optimizer=Choice("adam", "adamw"),
    weight_decay=LogUniform(1e-6, 1e-2),
    learning_rate=LogUniform(2e-4, 5e-3),
    schedule="cosine",
    phi_rotation=Choice(False, True),
    batch_size=100,
)
published = Space(
    model="resnet18",
    input_scale=100.0,
    input_transform="log1p",
    loss="cross_entropy",
    optimizer="adam",
    learning_rate=0.01,
    schedule="step",
    step_size=5,
    gamma=0.9,
    batch_size=100,
)
smoke = published.replace(model=Choice("resnet18", "deep_cnn", "cnn"))
PROTOCOL = Published(
    "Grefsrud et al., arXiv:2310.15227",
    follows=(
        "ResNet18 on six classes after the preselection of five objects above 70 GeV and S_T of 7 TeV",
        "five independent trainings, a boosted classifier of event variables beside",
    ),
    ours=(
        "events are made by Pythia and a parametrised detector, not by BlackMax, Herwig and Delphes",
        "optimizer, learning rate, epochs and batch size are those of the thesis; energies enter as log1p(E / 100 GeV)",
        "XGBoost has 100 trees of at most 31 leaves, shrinkage 0.1, and is fitted once",
    ),
    silent=("first weights and order of events: torch's, by the seed",),
)
search = Search(
    name="six_hypotheses",
    task="six_hypotheses",
    title="Sphalerons and five kinds of black holes, by their images.",
    space=space,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=1, space=smoke),
        "laptop": Preset(trials=8, epochs=6),
        "published": Preset(
            sampler="grid", scheduler="none", epochs=40, seeds=5, space=published, published=PROTOCOL
        ),
    },
    baseline={"model": "xgboost"},
    points_to_evaluate=({"model": "xgboost"},),
    tables=(
        StudyTable(
            title="Validation accuracy over six classes, each trial at its best epoch",
            rows=("model",),
            metrics=("val_accuracy", "val_auc"),
            published={
                "model=resnet18": "accuracy 0.5792 ± 0.0037, five trainings",
                "model=xgboost": "accuracy 0.4891 ± 0.0005, XGBoost",
            },
            published_on="BlackMax and Herwig events in the ATLAS card of Delphes",
            published_task="six_hypotheses",
            published_classes=6,
            published_inputs="images of calorimeter towers and tracks",
            inputs="images of calorimeter towers and tracks",
        ),
    ),
)

if __name__ == "__main__":
    main(search)
