"""Does a ResNet that has learnt ImageNet tell black holes from sphalerons better than an untrained one?

Study 4.1, table 6.3 of the HVL thesis: ResNet34 and ResNet50 with ImageNet weights and an added layer, against the same
networks untrained. `frozen` trains the added layer alone; the thesis meant to, but its listing freezes nothing, so
that its numbers are those of fine-tuning. An untrained, frozen network is the control: a layer on random features.
The preset `published` has, each with its source: root 3 of the softmax, three runs, with and without ImageNet weights
(table 6.3), 40 epochs, Adam at 0.01 (chapter 5), batches of 100 (the authors' final sweeps; table 5.1 says 50), StepLR
with γ = 0.9 every 5 epochs (their sweeps from May 2023 on; 10 is their single run's default), energies as they are.
Its events: `hep-ray data simulate mbh_sph --events 30000 --split 75/25/0`; the thesis reads its 25 % after every epoch.

`weights="imagenet"` is torchvision's file in torch's cache (`TORCH_HOME` names another one); put the file's path in its
place to take it from elsewhere. Where there is none, `laptop` and `published` are refused before anything starts, and
the refusal says which file to put where. `smoke` goes without: it trains the untrained network, frozen and not.
"""

from hep_ray import Choice, Preset, Published, Search, Space, StudyTable, main

IMAGENET = "imagenet"  # or the path of torchvision's file, of one network then

space = Space(
    model="pretrained_resnet34",
    weights=Choice(IMAGENET, "random"),
    frozen=Choice(True, False),
    input_scale=100.0,
    input_transform="log1p",
    loss="root_softmax",
    root_index=1,
    optimizer="adam",
    learning_rate=0.001,
    schedule="cosine",
    batch_size=100,
)
published = Space(
    model=Choice("pretrained_resnet34", "pretrained_resnet50"),
    weights=Choice(IMAGENET, "random"),
    frozen=Choice(True, False),
    loss="root_softmax",
    root_index=Choice(1, 3),
    optimizer="adam",
    learning_rate=0.01,
    schedule="step",
    step_size=5,
    gamma=0.9,
    batch_size=100,
)
PROTOCOL = Published(
    "HVL thesis, table 6.3",
    follows=(
        "ResNets with ImageNet weights and an added layer against the same networks untrained, root 3, 40 epochs",
        "Adam at 0.01, falling by 0.9, energies as they are",
    ),
    ours=(
        "events of `mbh_sph` are made by Pythia and a parametrised detector, not by BlackMax, Herwig and Delphes",
        "accuracy is of the validation split; with `--split 75/25/0` that is the thesis' 25 %",
        "frozen means frozen: the thesis' listing freezes nothing, so that its numbers are those of fine-tuning",
        "ResNet50, cross-entropy, and a frozen untrained network stand beside; three seeds",
    ),
    silent=(
        "the step of table 6.3's schedule: 5 epochs, as in the authors' sweeps; their single run's default is 10",
        "batches: 100 in the final sweeps, 50 in table 5.1",
    ),
)
search = Search(
    name="pretrained",
    task="mbh_sph",
    title="ResNets with ImageNet weights, frozen and fine-tuned, against untrained ones.",
    space=space,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=1, space=space.replace(weights="random")),
        "laptop": Preset(sampler="grid", scheduler="none", epochs=3),
        "published": Preset(
            sampler="grid", scheduler="none", epochs=40, seeds=3, space=published, published=PROTOCOL
        ),
    },
    baseline={"weights": "random", "frozen": False},
    tables=(
        StudyTable(
            title="Validation accuracy, pretrained or not (Table 6.3 of the HVL thesis, ResNet34 with root 3)",
            rows=("model", "weights", "frozen", "root_index"),
            epochs=(10, 20, 40),
            published={
                "model=pretrained_resnet34, weights=imagenet, frozen=False, root_index=3": "90, 87, 91",
                "model=pretrained_resnet34, weights=random, frozen=False, root_index=3": "91, 91, 92",
            },
            published_on="accuracy in % of runs 1, 2, 3; the listing freezes nothing; BlackMax and Herwig events in "
            "the ATLAS card of Delphes",
            published_task="mbh_sph",
            published_classes=2,
            published_inputs="images of calorimeter towers and tracks",
            inputs="images of calorimeter towers and tracks",
        ),
        StudyTable(
            title="Validation accuracy, each trial at its best epoch",
            rows=("model", "weights", "frozen"),
            metrics=("val_accuracy", "val_auc"),
        ),
    ),
)

if __name__ == "__main__":
    main(search)
