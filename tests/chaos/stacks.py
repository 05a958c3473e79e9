"""The search that `make chaos CHAOS_ARGS=--stacked` disturbs: eight networks trained as one, a second an epoch."""

from hep_ray import LogUniform, Preset, Search, Space, main

search = Search(
    name="chaos",
    task="toy",
    title="A toy among falling machines, its trials stacked.",
    space=Space(
        model="mlp",
        hidden_layers=3,
        hidden_features=512,
        dropout=0.3,
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=LogUniform(1e-5, 1e-2),
        schedule="step",
        batch_size=16,
    ),
    presets={"chaos": Preset(trials=96, epochs=8, grace_epochs=2, sampler="random", scheduler="asha")},
)

if __name__ == "__main__":
    main(search)
