"""Which network tells black holes from sphalerons? The thesis' CNN and ResNet34, 50 and 101.

Study 4.1: 50×50×3 η–φ histograms of towers and tracks. `thesis` trains each network with cross-entropy and with the
roots 3 and 5 by the protocol of `cnn_loss`. The thesis' tables 6.1 and 6.2 hold the CNN and ResNet34; of ResNet50 and
ResNet101 it gives no numbers to put beside.
"""

from hep_ray import Choice, LogUniform, Preset, Published, Search, Space, StudyTable, main

NETWORKS = ("cnn", "resnet34", "resnet50", "resnet101")
NAMES = {
    f"model={model}, root_index={root}": f"{called}, {'cross-entropy' if root == 1 else f'root {root}'}"
    for model, called in zip(NETWORKS, ("CNN", "ResNet34", "ResNet50", "ResNet101"), strict=True)
    for root in (1, 3, 5)
}
"""What the thesis calls a row."""

space = Space(
    model=Choice(*NETWORKS),
    dropout=Choice(0.0).when(model="cnn"),
    input_scale=100.0,
    input_transform="log1p",
    loss="root_softmax",
    root_index=Choice(1, 3, 5),
    optimizer="adam",
    learning_rate=LogUniform(2e-4, 2e-3),
    schedule="cosine",
    batch_size=100,
    precision="bfloat16",
)
thesis = Space(
    model=Choice(*NETWORKS),
    dropout=Choice(0.0).when(model="cnn"),
    loss="root_softmax",
    root_index=Choice(1, 3, 5),
    optimizer="adam",
    learning_rate=0.01,
    schedule="step",
    step_size=5,
    gamma=0.9,
    batch_size=100,
)
once = space.replace(root_index=1, learning_rate=1e-3)
PROTOCOL = Published(
    "HVL thesis, tables 6.1 and 6.2",
    follows=(
        "the CNN and ResNet34, 50 and 101 of its listings, three runs each, 40 epochs",
        "Adam at 0.01, 0.9 times that every 5 epochs, batches of 100, energies as they are",
    ),
    ours=(
        "events of `mbh_sph` are made by Pythia and a parametrised detector, not by BlackMax, Herwig and Delphes",
        "cross-entropy and the roots 3 and 5 alone, of the thesis' eight losses",
    ),
    silent=("results of ResNet50 and ResNet101", "first weights and order of events: torch's, by the seed"),
)
search = Search(
    name="architectures",
    task="mbh_sph",
    title="The thesis' CNN, ResNet34, ResNet50 and ResNet101 side by side.",
    space=space,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=1, space=once),
        "laptop": Preset(sampler="grid", scheduler="none", epochs=4, space=once),
        "thesis": Preset(
            sampler="grid", scheduler="none", epochs=40, seeds=3, space=thesis, published=PROTOCOL
        ),
    },
    metric="val_auc",
    baseline={"model": "cnn", "root_index": 1},
    tables=(
        StudyTable(
            title="Validation accuracy by network and loss (Tables 6.1 and 6.2 of the HVL thesis)",
            rows=("model", "root_index"),
            names=NAMES,
            epochs=(10, 20, 40),
            published={
                "model=cnn, root_index=1": "84.2 / 87.6 / 86.7; 82.8 / 86.9 / 88.7; 85.2 / 85.0 / 87.7",
                "model=cnn, root_index=3": "85.4 / 87.0 / 86.6; 86.5 / 87.0 / 87.4; 86.1 / 87.4 / 88.1",
                "model=cnn, root_index=5": "90.0 / 89.1 / 89.3; 88.3 / 89.2 / 90.5; 89.9 / 89.2 / 89.1",
                "model=resnet34, root_index=1": "91.5 / 89.3 / 91.0; 92.5 / 91.5 / 88.8; 92.0 / 90.5 / 91.1",
                "model=resnet34, root_index=3": "91.7 / 91.3 / 91.9; 91.4 / 89.4 / 91.0; 90.0 / 91.1 / 91.3",
                "model=resnet34, root_index=5": "89.4 / 89.7 / 84.0; 82.5 / 89.5 / 92.0; 89.3 / 89.4 / 89.0",
            },
            published_on="test accuracy in % after epochs 10 / 20 / 40 of runs 1; 2; 3; BlackMax and Herwig events in "
            "the ATLAS card of Delphes",
            published_task="mbh_sph",
            published_classes=2,
            published_inputs="images of calorimeter towers and tracks",
            inputs="images of calorimeter towers and tracks",
        ),
        StudyTable(
            title="Each network at its best epoch",
            rows=("model",),
            metrics=("val_accuracy", "val_auc"),
        ),
    ),
)

if __name__ == "__main__":
    main(search)
