"""The search of docs/comparison.md here: python with_hep_ray.py --data data/susy."""

from hep_ray import Choice, Integer, LogUniform, Preset, Search, Space, Uniform, main

search = Search(
    name="comparison",
    task="susy",
    title="Size, dropout and learning rate of a network on chargino pairs against WW.",
    space=Space(
        model="mlp",
        inputs="low_level+high_level",
        scalar_scaling="standardize",
        hidden_layers=Integer(1, 3),
        hidden_features=Choice(16, 32, 64, 128),
        dropout=Uniform(0.0, 0.4),
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=LogUniform(2e-4, 1e-2),
        batch_size=128,
    ),
    presets={"laptop": Preset(trials=12, epochs=10)},
    metric="val_auc",
    baseline={"hidden_layers": 2, "hidden_features": 16},
)

if __name__ == "__main__":
    main(search)
