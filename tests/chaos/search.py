"""The search that `make chaos` disturbs: small networks on separable images, a quarter of a second an epoch."""

from hep_ray import Choice, LogUniform, Preset, Search, Space, main

search = Search(
    name="chaos",
    task="toy",
    title="A toy among falling machines.",
    space=Space(
        model="cnn",
        dropout=0.3,
        loss="root_softmax",
        root_index=Choice(1, 3, 5, 7),
        optimizer=Choice("adam", "sgd"),
        learning_rate=LogUniform(1e-5, 1e-2),
        schedule="step",
        batch_size=16,
    ),
    presets={"chaos": Preset(trials=30, epochs=8, grace_epochs=2)},
)

if __name__ == "__main__":
    main(search)
