"""What the thesis asks for next: ConvNeXt and a deeper CNN, L2, augmentation, early stopping, and more roots.

Study 4.1, outlook of the HVL thesis: 50×50×3 η–φ histograms of towers and tracks. Events are turned in φ, and reflected
in φ and η, which the collision does not change. A trial ends after six epochs without a better AUC. The thesis gives
no numbers for these. `full` trains both networks with and without rotation three times, by cross-entropy and root 5.
`exponents` are root indices between 0 and 1, powers of the logits, with the thesis' CNN and protocol: it tried them and
could not train, and gives no numbers. A trial whose loss is not finite fails, and says so.
"""

from hep_ray import Choice, LogUniform, Preset, Search, Space, StudyTable, Uniform, main

space = Space(
    model=Choice("deep_cnn", "convnext"),
    dropout=Uniform(0.0, 0.6).when(model="deep_cnn"),
    input_scale=100.0,
    input_transform="log1p",
    loss="root_softmax",
    root_index=Choice(1, 2, 3, 5),
    optimizer="adamw",
    weight_decay=LogUniform(1e-6, 1e-1),
    learning_rate=LogUniform(3e-4, 3e-3),
    schedule="cosine",
    phi_rotation=Choice(False, True),
    phi_flip=Choice(False, True),
    eta_flip=Choice(False, True),
    patience=6,
    batch_size=100,
    precision="bfloat16",
)
full = space.replace(
    dropout=Choice(0.0).when(model="deep_cnn"),
    root_index=Choice(1, 5),
    weight_decay=1e-4,
    learning_rate=1e-3,
    phi_flip=False,
    eta_flip=False,
)
smoke = full.replace(root_index=1, phi_rotation=True, patience=0)
exponents = Space(
    model="cnn",
    dropout=0.0,
    loss="root_softmax",
    root_index=Choice(0.25, 0.5, 0.75, 1),
    optimizer="adam",
    learning_rate=0.01,
    schedule="step",
    step_size=5,
    gamma=0.9,
    batch_size=100,
)
search = Search(
    name="outlook",
    task="mbh_sph",
    title="ConvNeXt and a deeper CNN with augmentation, L2 and early stopping.",
    space=space,
    presets={
        "smoke": Preset(sampler="grid", scheduler="none", epochs=1, space=smoke),
        "laptop": Preset(trials=12, epochs=9, grace_epochs=4),
        "full": Preset(sampler="grid", scheduler="none", epochs=40, seeds=3, space=full),
        "exponents": Preset(sampler="grid", scheduler="none", epochs=40, space=exponents),
    },
    metric="val_auc",
    baseline={"phi_rotation": False, "root_index": 1},
    tables=(
        StudyTable(
            title="Network, augmentation and loss, each trial at its best epoch (the thesis' outlook, without numbers)",
            rows=("model", "phi_rotation", "root_index"),
            metrics=("val_accuracy", "val_auc", "val_loss"),
        ),
    ),
)

if __name__ == "__main__":
    main(search)
