"""Which particle left this track? Electron, pion, kaon or proton by momentum, energy loss and clusters.

Real tracks of ALICE collisions of 2010 (schema `alice_pid`): 11 quantities each, the specific energy loss in the ITS
and in the TPC among them. The question is ours and no published protocol: how much does a fully connected network add
to gradient boosting, which is fitted once in every preset?
`full` is a grid over depth and width with three seeds and none stopped.
"""

from hep_ray import Choice, Integer, LogUniform, Preset, Search, Space, StudyTable, Uniform, main

space = Space(
    model="mlp",
    scalar_scaling=Choice("standardize", "quantile_normal"),
    hidden_layers=Integer(2, 3),
    hidden_features=Choice(32, 64, 128),
    dropout=Uniform(0.0, 0.1),
    loss="cross_entropy",
    optimizer="adamw",
    learning_rate=LogUniform(1e-3, 1e-2),
    schedule="cosine",
    batch_size=Choice(1024, 2048),
)
full = Space(
    model="mlp",
    scalar_scaling="standardize",
    hidden_layers=Choice(2, 3, 4, 5),
    hidden_features=Choice(64, 128, 256, 512),
    loss="cross_entropy",
    optimizer="adamw",
    learning_rate=0.003,
    schedule="cosine",
    batch_size=2048,
)
search = Search(
    name="particle_id",
    task="alice_pid",
    title="Fully connected networks on identified tracks: electron, pion, kaon, proton.",
    space=space,
    presets={
        "smoke": Preset(trials=2, epochs=1),
        "laptop": Preset(trials=10, epochs=10),
        "full": Preset(sampler="grid", scheduler="none", epochs=60, seeds=3, space=full),
    },
    baseline={"model": "gradient_boosting"},
    points_to_evaluate=({"model": "gradient_boosting"},),
    tables=(
        StudyTable(
            title="Networks by depth and width, each trial at its best epoch",
            rows=("model", "hidden_layers", "hidden_features"),
            metrics=("val_accuracy", "val_auc"),
        ),
    ),
)

if __name__ == "__main__":
    main(search)
