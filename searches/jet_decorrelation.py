"""Can a jet tagger know nothing of the jet's mass, and does a warm-up of the term help? AUC against what is sculpted.

Boosted H → bb against QCD, a network of the jet's constituents (`pfn`), and beside its loss λ = 5 times the squared
distance correlation of its score with the jet's mass on QCD jets (arXiv:2001.05310), which no model reads. λ is whole
at once or rises over a share of the epochs. Batches of 256, since the term is of the background of one batch. Trials
are ranked, and each keeps its epoch, by the loss with its term at the whole λ, one yardstick where λ is one: the AUC
would keep an epoch from before the term. For another λ change `STRENGTH`, and compare searches by their tables.
`laptop` has the settings of the last row of docs/howto/trust.md. On our jets, at sizes for two cores.
"""

from hep_ray import Choice, LogUniform, Preset, Search, Space, StudyTable, main

STRENGTH = 5.0
METRICS = (
    "val_auc",
    "val_background_rejection_at_50",
    "val_background_distance_correlation",
    "val_background_jsd_at_50",
)
space = Space(
    model="pfn",
    decorrelate="jet_mass",
    decorrelation=STRENGTH,
    decorrelation_warmup=Choice(0.0, 0.35),
    loss="cross_entropy",
    optimizer="adam",
    learning_rate=0.001,
    schedule="cosine",
    batch_size=256,
)
search = Search(
    name="jet_decorrelation",
    task="jet_clouds",
    title="Jet taggers that know nothing of the mass: H → bb against QCD.",
    space=space,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=1),
        "laptop": Preset(sampler="grid", scheduler="none", epochs=20),
        "full": Preset(
            sampler="grid",
            scheduler="none",
            epochs=60,
            seeds=3,
            space=space.replace(decorrelation_warmup=Choice(0.0, 0.2, 0.35, 0.5)),
        ),
        "tune": Preset(
            trials=20,
            epochs=20,
            scheduler="none",
            space=space.replace(decorrelation_warmup=0.35, learning_rate=LogUniform(3e-4, 5e-3)),
        ),
    },
    metric="val_decorrelated_loss",
    baseline={"decorrelation_warmup": 0.0},
    tables=(
        StudyTable(
            title=f"Warm-up of λ = {STRENGTH:g}, each trial at its best epoch",
            rows=("decorrelation_warmup",),
            metrics=METRICS,
        ),
    ),
)

if __name__ == "__main__":
    main(search)
