"""Do networks of a jet's particles beat networks of its image? PFN, ParticleNet and a small Particle Transformer.

Boosted H → bb against QCD, on the same simulated jets: the constituents as a list of varying length, and the image that
`jet_images` has. The question is that of arXiv:1902.08570 and arXiv:2202.03772, on our jets and at sizes for two cores:
PFN (84 thousand parameters), ParticleNet-Lite (27 thousand), a small Particle Transformer (188 thousand), and the
thesis' `cnn` and `deep_cnn` on the image. `laptop` trains each once by one recipe, `full` with three seeds; `tune`
searches learning rates and sizes of the networks of particles.
"""

from hep_ray import Choice, LogUniform, Preset, Search, Space, StudyTable, main

CLOUDS = ("pfn", "particlenet", "particle_transformer")
IMAGES = ("cnn", "deep_cnn")
compared = Space(
    model=Choice(*CLOUDS, *IMAGES),
    input_transform=Choice("log1p").when(model=IMAGES),
    loss="cross_entropy",
    optimizer="adamw",
    weight_decay=0.01,
    learning_rate=0.001,
    schedule="cosine",
    batch_size=64,
)
tuned = Space(
    model=Choice(*CLOUDS),
    neighbours=Choice(4, 7, 16).when(model="particlenet"),
    latent_features=Choice(64, 128, 256).when(model="pfn"),
    embed_features=Choice(32, 64).when(model="particle_transformer"),
    particle_blocks=Choice(1, 2, 3).when(model="particle_transformer"),
    loss="cross_entropy",
    optimizer="adamw",
    weight_decay=LogUniform(1e-4, 1e-1),
    learning_rate=LogUniform(3e-4, 5e-3),
    schedule="cosine",
    batch_size=Choice(64, 128),
)
search = Search(
    name="jet_clouds",
    task="jet_clouds",
    title="Networks of particles and of images on the same jets: H → bb against QCD.",
    space=compared,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=1),
        "laptop": Preset(sampler="grid", scheduler="none", epochs=10),
        "tune": Preset(trials=20, epochs=12, space=tuned),
        "full": Preset(sampler="grid", scheduler="none", epochs=20, seeds=3),
    },
    metric="val_auc",
    baseline={"model": "cnn"},
    tables=(
        StudyTable(
            title="Particles and images, each trial at its best epoch",
            rows=("model",),
            metrics=(
                "val_auc",
                "val_accuracy",
                "val_background_rejection_at_50",
                "parameters",
                "epoch_seconds",
            ),
        ),
    ),
)

if __name__ == "__main__":
    main(search)
