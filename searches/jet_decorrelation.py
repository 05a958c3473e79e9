"""What does it cost a jet tagger to know nothing of the jet's mass? AUC against the sculpting of the background.

Boosted H → bb against QCD, a network of the jet's constituents (`pfn`), and beside its loss λ times the squared
distance correlation of its score with the jet's mass on QCD jets (arXiv:2001.05310), which no model reads. λ = 0 is the
tagger as it is: it finds the mass in the constituents, and the background that passes a cut is shaped like the signal.
Batches of 512, since the term is of the background of one batch. Trials are ranked, and each keeps its epoch, by AUC,
which is measured alike at every λ; what that epoch sculpts stands beside it, so the table answers, not the rank. A loss
with its term would rank by λ. On our jets, at sizes for two cores.
"""

from hep_ray import Choice, LogUniform, Preset, Search, Space, StudyTable, main

METRICS = (
    "val_auc",
    "val_background_rejection_at_50",
    "val_background_distance_correlation",
    "val_background_jsd_at_50",
)
space = Space(
    model="pfn",
    decorrelate="jet_mass",
    decorrelation=Choice(0.0, 1.0, 10.0, 100.0),
    loss="cross_entropy",
    optimizer="adam",
    learning_rate=0.001,
    schedule="cosine",
    batch_size=512,
)
search = Search(
    name="jet_decorrelation",
    task="jet_clouds",
    title="Jet taggers that know nothing of the mass: H → bb against QCD.",
    space=space,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=1),
        "laptop": Preset(sampler="grid", scheduler="none", epochs=30),
        "full": Preset(sampler="grid", scheduler="none", epochs=60, seeds=3),
        "tune": Preset(
            trials=20,
            epochs=30,
            scheduler="none",
            space=space.replace(decorrelation=10.0, learning_rate=LogUniform(3e-4, 5e-3)),
        ),
    },
    metric="val_auc",
    baseline={"decorrelation": 0.0},
    tables=(
        StudyTable(
            title="Strength λ of the term, each trial at its best epoch",
            rows=("decorrelation",),
            metrics=METRICS,
        ),
    ),
)

if __name__ == "__main__":
    main(search)
