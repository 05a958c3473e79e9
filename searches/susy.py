"""How large a network do chargino pairs need? AUC and a network's cost as two objectives, with their Pareto front.

Study 4.4: 8 low-level and 10 high-level features of charginos against WW (Baldi et al., arXiv:1402.4735; the UoL
report's smaller networks). The cost is a network's FLOPs of one event, the same whatever else the machine does; no
preset stops a trial early, for a search with a cost compares trials that were trained in full. Gradient boosting and
logistic regression are fitted once in every preset, on all features.

The report's networks read the 8 low-level features alone, and end in one number (`single_output`). Its protocol is in
four presets, each with a storage of its own: `published_baseline` (16-16, and beside it the same with 18 features),
`published_regularisation` (L1, L2, both, dropout), `published` (depth and width) and `published_final` (3 × 128).
`published_baldi` is Baldi's 5 × 300; `table` and `table_regularisation` are for minutes on two cores, and so is
`table_uci`, on events of UCI SUSY as they are stored. What each follows, and what not: `--preset NAME --dry-run`.
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

INPUTS = "low_level+high_level"
LOW_LEVEL = "low_level"
DEPTHS, WIDTHS = (1, 2, 3, 4, 5), (16, 32, 64, 128, 256, 512)
REPORT = "UoL report on SUSY classification"
NETWORKS = "UCI SUSY, 5 million events"

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
baseline = Space(
    model="mlp",
    inputs=Choice(LOW_LEVEL, INPUTS),
    scalar_scaling="none",
    hidden_layers=2,
    hidden_features=16,
    single_output=True,
    loss="cross_entropy",
    optimizer="rmsprop",
    alpha=0.9,  # Keras' defaults, as is the learning rate
    epsilon=1e-7,
    learning_rate=0.001,
    batch_size=512,
    train_auc=True,
)
regularisation = baseline.replace(
    inputs=LOW_LEVEL,
    l1_penalty=Choice(0.0, 0.001),
    weight_decay=Choice(0.0, 0.002),  # λ w²/2 here, λ w² in Keras
    dropout=Choice(0.0, 0.1, 0.05, 0.025).when(l1_penalty=0.0, weight_decay=0.0),
)
published = baseline.replace(
    inputs=LOW_LEVEL,
    hidden_layers=Choice(*DEPTHS),
    hidden_features=Choice(*WIDTHS),
    dropout=0.025,
)
final = published.replace(hidden_layers=3, hidden_features=128)
table = Space(
    model="mlp",
    inputs=Choice(LOW_LEVEL, INPUTS),
    scalar_scaling="mean_one",
    hidden_layers=Choice(2, 3),
    hidden_features=Mapped("hidden_layers", {2: 16, 3: 128}),
    single_output=True,
    dropout=Mapped("hidden_layers", {2: 0.0, 3: 0.025}),
    loss="cross_entropy",
    optimizer="rmsprop",
    alpha=0.9,
    epsilon=1e-7,
    learning_rate=0.001,
    batch_size=64,
)
table_uci = table.replace(scalar_scaling="none")
table_regularisation = regularisation.replace(scalar_scaling="mean_one", batch_size=64)
baldi = Space(
    model="mlp",
    inputs=Choice(LOW_LEVEL, INPUTS),
    scalar_scaling="standardize",
    hidden_layers=5,
    hidden_features=300,
    activation="tanh",
    single_output=True,
    dropout=Choice(0.0, 0.5),
    dropout_layers="last",
    loss="cross_entropy",
    optimizer="sgd",
    momentum=0.9,
    weight_decay=1e-5,  # on weights alone, as Pylearn2 adds it
    learning_rate=0.05,
    schedule="exponential",
    gamma=0.99,
    batch_size=100,
)
EVENTS = (
    "events: those of the dataset, simulated and in GeV; UCI SUSY (`--data`) has features of order one",
    "split: 60/15/25 unless the dataset was converted with `--split 64/16/20`, the report's",
)
AS_STORED = "features as they are stored, batches of 512"
AT_LAPTOP_SIZE = (
    "thousands of events, not 5 million; batches of 64, not 512, and 12 epochs, so that there are steps enough",
    "each feature is divided by its mean magnitude, since simulated ones are in GeV",
    "18 features beside 8",
)
OPEN = (
    "RMSprop's rate, rho and epsilon, and the initial weights: Keras' 0.001, 0.9 and 1e-7; torch's weights",
)
NAMES = {
    f"model=mlp, inputs={inputs}, hidden_layers={depth}, hidden_features={width}": f"{depth} × {width}{of_inputs}"
    for inputs, of_inputs in ((LOW_LEVEL, ""), (INPUTS, ", 18 features"))
    for depth in DEPTHS
    for width in WIDTHS
} | {
    f"model=mlp, inputs={LOW_LEVEL}, hidden_layers=2, hidden_features=16": "baseline 16-16",
    f"model=mlp, inputs={INPUTS}, hidden_layers=2, hidden_features=16": "16-16, 18 features",
    f"model=mlp, inputs={LOW_LEVEL}, hidden_layers=3, hidden_features=128": "final 3 × 128",
    f"model=mlp, inputs={LOW_LEVEL}, hidden_layers=5, hidden_features=300": "5 × 300, 8 features",
    f"model=mlp, inputs={INPUTS}, hidden_layers=5, hidden_features=300": "5 × 300, 18 features",
    f"model=gradient_boosting, inputs={INPUTS}": "gradient boosting, 18 features",
    f"model=logistic_regression, inputs={INPUTS}": "logistic regression, 18 features",
}
"""What the report calls a row: baseline and final network, the others by depth × width."""


def of_report(*follows: str, ours: tuple[str, ...] = (), silent: tuple[str, ...] = ()) -> Published:
    """Return what the presets of the report have in common, and what one of them has beside."""
    common = (
        "inputs: the 8 low-level features, as they are stored",
        "RMSprop, batches of 512, one sigmoid output",
    )
    return Published(REPORT, (*common, *follows), (*EVENTS, *ours), (*OPEN, *silent))


search = Search(
    name="susy",
    task="susy",
    title="Size, cost and AUC of fully connected networks on chargino pairs against WW.",
    space=space,
    presets={
        "smoke": Preset(trials=4, epochs=2, scheduler="none"),
        "laptop": Preset(trials=20, epochs=20, scheduler="none", space=laptop),
        "table": Preset(
            sampler="grid",
            scheduler="none",
            epochs=12,
            seeds=3,
            space=table,
            published=of_report(
                "16-16 ReLU without dropout; 3 × 128 ReLU, dropout 0.025", ours=AT_LAPTOP_SIZE
            ),
        ),
        "table_regularisation": Preset(
            sampler="grid",
            scheduler="none",
            epochs=12,
            space=table_regularisation,
            published=of_report(
                "L1 and L2 of 0.001 and both, as Keras defines them; dropout 0.1, 0.05 and 0.025",
                ours=(*AT_LAPTOP_SIZE, "one seed"),
                silent=("the network that was regularised: the baseline's 16-16",),
            ),
        ),
        "table_uci": Preset(
            sampler="grid",
            scheduler="none",
            epochs=20,
            seeds=3,
            space=table_uci,
            published=Published(
                REPORT,
                (
                    "events of UCI SUSY, divided 64/16/20; features as they are stored",
                    "RMSprop, one sigmoid output; 16-16 ReLU without dropout; 3 × 128 ReLU, dropout 0.025",
                ),
                (
                    "5,000 of the 5 million events, half of each class, not 46 % of charginos",
                    "batches of 64, not 512, and 20 epochs for the baseline too, so that there are steps enough",
                    "18 features beside 8; three seeds",
                ),
                OPEN,
            ),
        ),
        "published": Preset(
            sampler="grid",
            scheduler="none",
            epochs=20,
            seeds=3,
            space=published,
            published=of_report(
                AS_STORED,
                "1 to 5 layers of 16 to 512 ReLU, dropout 0.025, 20 epochs",
                ours=("three seeds of each configuration",),
                silent=("which depths were tried with which widths: all with all",),
            ),
        ),
        "published_baseline": Preset(
            sampler="grid",
            scheduler="none",
            epochs=10,
            seeds=3,
            space=baseline,
            published=of_report(
                AS_STORED,
                "16-16 ReLU, no dropout, 10 epochs: 433 parameters",
                ours=("a second row with all 18 features, for which the report has no number", "three seeds"),
            ),
        ),
        "published_regularisation": Preset(
            sampler="grid",
            scheduler="none",
            epochs=20,
            seeds=3,
            space=regularisation,
            published=of_report(
                AS_STORED,
                "L1 and L2 of 0.001 and both, as Keras defines them: on kernels only, L2 as λ w²",
                "dropout 0.1, 0.05 and 0.025",
                ours=("three seeds",),
                silent=("the network that was regularised, and its epochs: the baseline's 16-16, 20 epochs",),
            ),
        ),
        "published_final": Preset(
            sampler="grid",
            scheduler="none",
            epochs=20,
            seeds=3,
            space=final,
            published=of_report(AS_STORED, "3 × 128 ReLU, dropout 0.025, 20 epochs", ours=("three seeds",)),
        ),
        "published_baldi": Preset(
            sampler="grid",
            scheduler="none",
            epochs=200,
            seeds=3,
            space=baldi,
            published=Published(
                "Baldi, Sadowski and Whiteson, arXiv:1402.4735, methods",
                (
                    "5 × 300 tanh with and without dropout, SGD at 0.05 with batches of 100, weight decay 1e-5",
                    "low-level features alone, and all of them",
                ),
                (
                    EVENTS[0],
                    "the rate falls by 0.99 each epoch, not by a factor of each step; momentum stays at 0.9",
                    "200 epochs for all, no early stopping",
                ),
                (
                    "rate and place of dropout, as far as known to us: 0.5 after the last hidden layer",
                    "initial weights",
                ),
            ),
        ),
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
            title="Networks by features, depth and width, each trial at its best epoch",
            rows=("model", "inputs", "hidden_layers", "hidden_features"),
            metrics=("val_auc", "val_accuracy", "parameters", "flops"),
            published={
                f"model=mlp, inputs={LOW_LEVEL}, hidden_layers=2, hidden_features=16": "AUC 0.8680, accuracy 0.7951",
                f"model=mlp, inputs={LOW_LEVEL}, hidden_layers=3, hidden_features=128": "AUC 0.8746, accuracy 0.8016",
                f"model=mlp, inputs={INPUTS}, hidden_layers=5, hidden_features=300": "AUC about 0.88",
            },
            published_on=NETWORKS,
            published_task="susy",
            published_classes=2,
            published_inputs="the features that the row names",
            inputs="the features that the row names",
            names=NAMES,
        ),
        StudyTable(
            title="Networks by regularisation, each trial at its best epoch (weight decay 0.002 is Keras' L2 of 0.001)",
            rows=("l1_penalty", "weight_decay", "dropout"),
            metrics=("val_auc", "val_accuracy"),
            names={
                "l1_penalty=0.0, weight_decay=0.0, dropout=0.0": "none",
                "l1_penalty=0.001, weight_decay=0.0": "L1",
                "l1_penalty=0.0, weight_decay=0.002": "L2",
                "l1_penalty=0.001, weight_decay=0.002": "L1 + L2",
                **{
                    f"l1_penalty=0.0, weight_decay=0.0, dropout={rate}": f"dropout {rate}"
                    for rate in (0.1, 0.05, 0.025)
                },
            },
        ),
        StudyTable(
            title="Networks by features after 10 and 20 epochs",
            rows=("model", "inputs", "hidden_layers", "hidden_features"),
            metrics=("val_auc",),
            epochs=(10, 20),
            names=NAMES,
        ),
    ),
)

if __name__ == "__main__":
    main(search)
