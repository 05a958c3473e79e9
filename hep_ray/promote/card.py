"""The model card: what a colleague reads before trusting a model."""

from __future__ import annotations

from collections.abc import Iterable

from hep_ray.confirm.confirmation import Contender
from hep_ray.promote.package import Description, Evidence

SHOWN = ("accuracy", "auc", "background_rejection_at_50", "calibration_error", "loss")


def model_card(name: str, description: Description) -> str:
    """The card in Markdown, of a model with evidence.

    Args:
        name: under which the model is registered.
        description: of the model.
    """
    schema, evidence = description.event_schema, description.evidence
    assert evidence is not None
    origin = description.origin
    return "\n".join(
        [
            f"# {name}",
            "",
            (
                f"Classifies events of the task `{schema.task}` into {len(schema.classes)} classes; the signal is "
                f"`{schema.signal}`. Chosen by the search `{origin.get('search')}` (trial "
                f"{evidence.contender.name}), seed {origin.get('seed')}, epoch {origin.get('epoch')}."
            ),
            "",
            *_performance(evidence),
            "",
            "## Why it was promoted",
            "",
            *(f"- {line}" for line in evidence.verdict),
            "",
            "## Use",
            "",
            (
                f"`hep-ray predict models:/{name}@champion INPUT --out DIR`, or in Python "
                f'`mlflow.pyfunc.load_model("models:/{name}@champion").predict(events)` where hep_ray is installed. '
                "Inputs go in as they are stored: scaling is part of the model."
            ),
            "",
            *_table(
                ("class", "meaning"), ((one, schema.class_meaning.get(one, "")) for one in schema.classes)
            ),
            "",
            *_table(
                ("input", "shape", "type", "unit"),
                (
                    (column.name, str(list(column.shape)), column.dtype, column.unit or "none stated")
                    for column in schema.inputs
                ),
            ),
            "",
            (
                "Its scores are valid for events like those of its dataset: same detector, selection and simulation. "
                "It was not tested on others."
            ),
            "",
            "## Provenance",
            "",
            *_table(
                ("fact", "value"),
                [
                    ("dataset fingerprint", description.dataset_fingerprint),
                    *sorted(description.provenance.items()),
                ],
            ),
            "",
            "Parameters: " + ", ".join(f"{key}={value}" for key, value in sorted(description.params.items())),
            "",
        ]
    )


def _performance(evidence: Evidence) -> list[str]:
    contenders = (evidence.contender, evidence.baseline)
    names = [f"test_{name}" for name in SHOWN]
    shown = list(dict.fromkeys([evidence.metric, *names]))
    rows = [
        (metric, *(_estimate(contender, metric) for contender in contenders))
        for metric in shown
        if all(metric in contender.estimates for contender in contenders)
    ]
    seeds = len(evidence.contender.runs)
    return [
        f"## Test split, mean ± s.d. [{100 * evidence.level:g} % interval], {seeds} seeds, {evidence.epochs} epochs",
        "",
        *_table(("metric", "this configuration", "baseline"), rows),
    ]


def _estimate(contender: Contender, metric: str) -> str:
    one = contender.estimates[metric]
    return f"{one.mean:.4g} ± {one.sd:.2g} [{one.low:.4g}, {one.high:.4g}]"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
