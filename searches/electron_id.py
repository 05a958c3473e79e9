"""How well can all that is measured of an electron candidate tell where it comes from?

Study 4.2 (UdeM thesis): streams for calorimeter images, tracks and scalars, joined in one network. Beside it stand the
likelihood method, gradient boosting and logistic regression on the fifteen scalars, each fitted once in every preset.
Scalars become normal by their quantiles as in the thesis; images and tracks enter as sgn(x) ln(1 + |x|).
`published` is the thesis' best model: Adam 1e-3, L2 1e-7, dropout 0.1, three 3×3 convolutions of 32 features, three
layers of 100 neurons; epochs and batch size are ours. `architectures` tries its other networks on the six images of
7×11. Accuracy here is over six classes; the thesis' is of signal against background and is not shown beside it.
"""

from hep_ray import Choice, Integer, LogUniform, Preset, Search, Space, StudyTable, Uniform, main

ARCHITECTURES = (
    *("resnet18", "wide_resnet", "densenet", "coordconv"),
    *("cnn_rnn", "conv_lstm", "conv3d", "vision_transformer"),
)
SCALARS = {"inputs": "scalars"}

space = Space(
    model="electron_id",
    conv_layers=Integer(1, 3),
    conv_features=Choice(16, 32, 64),
    dense_layers=Integer(1, 4),
    dense_features=Choice(50, 100, 200),
    dropout=Uniform(0.0, 0.3),
    scalar_scaling="quantile_normal",
    sequence_scaling="log1p",
    image_scaling="log1p",
    class_weights=Choice("none", "balanced"),
    loss="cross_entropy",
    optimizer=Choice("adam", "adamw"),
    weight_decay=LogUniform(1e-8, 1e-3),
    learning_rate=LogUniform(2e-4, 5e-3),
    schedule="cosine",
    batch_size=100,
)
published = Space(
    model="electron_id",
    conv_layers=3,
    conv_features=32,
    dense_layers=3,
    dense_features=100,
    dropout=0.1,
    scalar_scaling="quantile_normal",
    sequence_scaling="log1p",
    image_scaling="log1p",
    loss="cross_entropy",
    optimizer="adam",
    weight_decay=1e-7,
    decay_norms_and_biases=True,
    learning_rate=0.001,
    batch_size=500,
)
architectures = Space(
    model=Choice(*ARCHITECTURES),
    image_scaling="log1p",
    loss="cross_entropy",
    optimizer="adam",
    weight_decay=1e-7,
    decay_norms_and_biases=True,
    learning_rate=0.001,
    batch_size=500,
)
search = Search(
    name="electron_id",
    task="electron_id",
    title="Network, regularisation and learning rate for electron candidates of six origins.",
    space=space,
    presets={
        "smoke": Preset(trials=2, epochs=1),
        "laptop": Preset(trials=10, epochs=8),
        "published": Preset(sampler="grid", scheduler="none", epochs=50, seeds=3, space=published),
        "architectures": Preset(sampler="grid", scheduler="none", epochs=50, seeds=3, space=architectures),
    },
    baseline={"model": "likelihood"},
    points_to_evaluate=(
        {"model": "likelihood", **SCALARS},
        {"model": "gradient_boosting", **SCALARS},
        {"model": "logistic_regression", **SCALARS},
    ),
    tables=(
        StudyTable(
            title="Classifier, each trial at its best epoch, and 1/ε_b at the signal efficiencies of Loose, Medium and "
            "Tight (figure 3.2; published gains over the likelihood method: factors 8, 12 and 18)",
            rows=("model",),
            metrics=("val_accuracy", "val_auc", *(f"val_background_rejection_at_{n}" for n in (93, 88, 80))),
            published={"model=electron_id": "accuracy 0.9805"},
            published_on="14.7 million candidates simulated by ATLAS",
            published_task="electron_id",
            published_classes=2,
            published_inputs="images, tracks and scalars of a candidate",
            inputs="images, tracks and scalars of a candidate",
        ),
    ),
)

if __name__ == "__main__":
    main(search)
