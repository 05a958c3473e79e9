"""Which loss suits the thesis' CNN? Root-softmax against cross-entropy, black holes against sphalerons.

Study 4.1: 50×50×3 η–φ histograms; root index 1 is cross-entropy. Energies enter as log1p(E / 100 GeV).
The preset `thesis` is the published protocol: Adam, lr 0.01 falling by 0.9 every 10 epochs, 40 epochs, 3 seeds.
The preset `hour` is the same grid shortened for two cores and 6,000 events: lr 0.001 along half a cosine.
"""

from hep_ray import Choice, LogUniform, Preset, Search, Space, StudyTable, Uniform, main

space = Space(
    model="cnn",
    input_scale=100.0,
    input_transform="log1p",
    dropout=Uniform(0.0, 0.6),
    loss="root_softmax",
    root_index=Choice(1, 3, 4, 5, 6, 7, 8, 9),
    optimizer=Choice("adam", "adamw", "rmsprop"),
    learning_rate=LogUniform(1e-4, 2e-3),
    batch_size=100,
)
thesis = Space(
    model="cnn",
    loss="root_softmax",
    root_index=Choice(1, 3, 4, 5, 6, 7, 8, 9),
    optimizer="adam",
    learning_rate=0.01,
    schedule="step",
    step_size=10,
    gamma=0.9,
    batch_size=100,
)
hour = Space(
    model="cnn",
    input_scale=100.0,
    input_transform="log1p",
    loss="root_softmax",
    root_index=Choice(1, 3, 4, 5, 6, 7, 8, 9),
    optimizer="adam",
    learning_rate=0.001,
    schedule="cosine",
    batch_size=100,
)
search = Search(
    name="cnn_loss",
    task="mbh_sph",
    title="Loss, optimizer and learning rate of the thesis' CNN on black holes against sphalerons.",
    space=space,
    presets={
        "smoke": Preset(trials=4, epochs=2),
        "laptop": Preset(trials=12, epochs=8),
        "hour": Preset(sampler="grid", scheduler="none", epochs=6, seeds=3, space=hour),
        "thesis": Preset(sampler="grid", scheduler="none", epochs=40, seeds=3, space=thesis),
    },
    baseline={"root_index": 1},
    tables=(
        StudyTable(
            title="Validation accuracy by loss and epoch (Table 6.1 of the HVL thesis; root index 1 is cross-entropy)",
            rows=("root_index",),
            epochs=(10, 20, 40),
            published={"root_index=1": "0.867–0.887", "root_index=5": "0.891–0.905"},
            published_on="epoch 40; BlackMax and Herwig events in the ATLAS card of Delphes",
            published_task="mbh_sph",
            published_classes=2,
            published_inputs="images of calorimeter towers and tracks",
            inputs="images of reconstructed objects",
        ),
        StudyTable(
            title="Validation accuracy by loss, each trial at its best epoch",
            rows=("root_index",),
            metrics=("val_accuracy", "val_auc"),
        ),
    ),
)

if __name__ == "__main__":
    main(search)
