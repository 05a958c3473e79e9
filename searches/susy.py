"""How large a network do chargino pairs need? AUC and a network's cost as two objectives, with their Pareto front.

Study 4.4: 8 low-level and 10 high-level features of charginos against WW (Baldi et al., arXiv:1402.4735; the UoL
report's smaller networks). The cost is a network's FLOPs of one event, the same whatever else the machine does; no
preset stops a trial early, for a search with a cost compares trials that were trained in full. Gradient boosting and
logistic regression are fitted once in every preset.
`inputs="low_level"` would read the low-level features alone.
`published` is the report's protocol over depth and width: RMSprop, dropout 0.025, batches of 512, 20 epochs.
`published_baldi` is Baldi's 5 × 300 tanh (learning rate 0.05, weight decay 1e-5); it needs a storage of its own.
"""

from hep_ray import Choice, Integer, LogUniform, Preset, Search, Space, StudyTable, Uniform, main

INPUTS = "low_level+high_level"

space = Space(
    model="mlp",
    inputs=INPUTS,
    scalar_scaling=Choice("standardize", "quantile_normal"),
    hidden_layers=Integer(1, 5),
    hidden_features=Choice(16, 32, 64, 128, 256, 512),
    activation=Choice("relu", "tanh", "selu"),
    dropout=Uniform(0.0, 0.4),
    loss="cross_entropy",
    optimizer=Choice("rmsprop", "adam"),
    weight_decay=LogUniform(1e-7, 1e-3),
    learning_rate=LogUniform(2e-4, 5e-3),
    schedule="cosine",
    batch_size=128,
)
laptop = space.replace(
    hidden_layers=Integer(1, 3),
    hidden_features=Choice(16, 32, 64, 128, 256),
    activation="relu",
    dropout=Uniform(0.0, 0.5),
)
published = Space(
    model="mlp",
    inputs=INPUTS,
    scalar_scaling="standardize",
    hidden_layers=Choice(1, 2, 3, 4, 5),
    hidden_features=Choice(16, 32, 64, 128, 256, 512),
    dropout=0.025,
    loss="cross_entropy",
    optimizer="rmsprop",
    alpha=0.9,  # Keras' default, as is the learning rate
    learning_rate=0.001,
    batch_size=512,
)
baldi = Space(
    model="mlp",
    inputs=INPUTS,
    scalar_scaling="standardize",
    hidden_layers=5,
    hidden_features=300,
    activation="tanh",
    loss="cross_entropy",
    optimizer="sgd",
    momentum=0.9,
    weight_decay=1e-5,  # on weights alone, as Pylearn2 adds it
    learning_rate=0.05,
    schedule="exponential",
    gamma=0.99,
    batch_size=100,
)
search = Search(
    name="susy",
    task="susy",
    title="Size, cost and AUC of fully connected networks on chargino pairs against WW.",
    space=space,
    presets={
        "smoke": Preset(trials=4, epochs=2, scheduler="none"),
        "laptop": Preset(trials=20, epochs=20, scheduler="none", space=laptop),
        "published": Preset(sampler="grid", scheduler="none", epochs=20, seeds=3, space=published),
        "published_baldi": Preset(sampler="grid", scheduler="none", epochs=200, seeds=3, space=baldi),
    },
    metric="val_auc",
    second_objective="flops",
    baseline={"hidden_layers": 2, "hidden_features": 16},
    points_to_evaluate=(
        {"model": "gradient_boosting", "inputs": INPUTS},
        {"model": "logistic_regression", "inputs": INPUTS},
    ),
    tables=(
        StudyTable(
            title="Networks by depth and width, each trial at its best epoch",
            rows=("model", "hidden_layers", "hidden_features"),
            metrics=("val_auc", "val_accuracy", "parameters", "flops"),
            published={
                "model=mlp, hidden_layers=3, hidden_features=128": "AUC 0.8746, accuracy 0.8016",
                "model=mlp, hidden_layers=5, hidden_features=300": "AUC about 0.88",
            },
            published_on="UCI SUSY, 5 million events",
            published_task="susy",
            published_classes=2,
            published_inputs="8 low-level features",
            inputs="18 low- and high-level features",
        ),
    ),
)

if __name__ == "__main__":
    main(search)
