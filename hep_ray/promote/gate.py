"""The gate: may this finalist become the champion? Functions of a confirmation and of facts about it.

The candidate is chosen without the test split, see `choose`: of the finalists the one with the best mean validation
metric over the confirmation's seeds, or the best over the search's folds, and of its models the one whose own
validation metric is best. The test split then says only whether the candidate beats what is to be beaten: see `gain`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from hep_ray.config import FORMERLY
from hep_ray.confirm.comparison import compared, seedless, values_of
from hep_ray.confirm.confirmation import (
    FILE_NAME,
    FOLDER,
    Comparison,
    Confirmation,
    ConfirmedRun,
    Contender,
    UnderVariation,
    made_by,
)
from hep_ray.dataset.dataset import Dataset
from hep_ray.dataset.other_events import other_datasets
from hep_ray.dataset.schema import EVENT_ID, LABEL, EventSchema
from hep_ray.dataset.shard_file import read_shard
from hep_ray.dataset.variations import Variation
from hep_ray.errors import HepRayError, InvalidConfig, PromotionRefused
from hep_ray.flags import typed
from hep_ray.loading.varied import changed
from hep_ray.metrics import is_worst
from hep_ray.metrics.crossed import Crossed
from hep_ray.metrics.decorrelation import check_contenders
from hep_ray.metrics.inference import holm
from hep_ray.promote.classifier import Classifier
from hep_ray.promote.package import Description, Package
from hep_ray.search.naming import count_words
from hep_ray.tracking.provenance import doubts
from hep_ray.training.config import TrialConfig
from hep_ray.training.testing import KeptScores, read_scores, varied_scores, worst_metrics

TOLERANCE = 1e-5
"""Largest difference of a probability between the promoted form and the confirmation."""


@dataclass(frozen=True)
class Criterion:
    """One question of the gate.

    Attributes:
        name: what is asked about.
        passed: the answer.
        text: the reason, in a sentence with its numbers.
    """

    name: str
    passed: bool
    text: str

    @property
    def line(self) -> str:
        """For the terminal and the model card."""
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.text}"


@dataclass(frozen=True)
class Verdict:
    """The gate's answer.

    Attributes:
        candidate: the finalist.
        run: the one of its runs whose model is handed on.
        checks: in the order in which they were asked.
    """

    candidate: Contender
    run: ConfirmedRun
    checks: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)

    @property
    def lines(self) -> tuple[str, ...]:
        """One for each check."""
        return tuple(check.line for check in self.checks)

    def enforce(self, *, told: bool = False) -> None:
        """Refuse unless every check passed.

        Args:
            told: whether the reasons have been told already, check by check, so that names are enough.

        Raises:
            PromotionRefused: with the reasons.
        """
        failed = [check for check in self.checks if not check.passed]
        if failed:
            reasons = [check.name if told else f"{check.name}: {check.text}" for check in failed]
            raise PromotionRefused(
                f"a model is promoted when every check passes; '{self.candidate.name}' fails {len(failed)} of "
                f"{len(self.checks)}: {(', ' if told else '; ').join(reasons)}"
            )


@dataclass(frozen=True)
class Looks:
    """How often the test split was read to judge finalists, beside the confirmation that is judged.

    Attributes:
        earlier: times, for the same search.
        finalists: tested then.
        by_others: other search → times.
    """

    earlier: int = 0
    finalists: int = 0
    by_others: Mapping[str, int] = field(default_factory=dict)


def check_provenance(provenance: Mapping[str, str], origin: Mapping[str, str]) -> Criterion:
    """Check that it is known which code, versions, machine and command made the model."""
    faults = doubts(provenance)
    faults += [f"{key} is absent" for key, value in origin.items() if not value]
    if faults:
        return Criterion("provenance", False, "; ".join(faults))
    if "hep_ray_commit" not in provenance:
        return Criterion("provenance", True, f"complete, commit {provenance['git_commit'][:12]}")
    ours, script = provenance["hep_ray_commit"], provenance["script_commit"]
    ours = ours if ours.startswith("release") else ours[:12]
    return Criterion("provenance", True, f"complete, hep_ray {ours}, script {script[:12]}")


def check_constraints(limits: Mapping[str, float], figures: Mapping[str, float]) -> Criterion:
    """Check that the model keeps the constraints of its search, as it was trained again.

    Args:
        limits: figure → largest value.
        figures: of the model.
    """
    told = [
        f"{name} {figures[name]:g} of at most {limit:g}" if name in figures else f"{name} is not known"
        for name, limit in limits.items()
    ]
    kept = all(name in figures and figures[name] <= limit for name, limit in limits.items())
    return Criterion("constraints", kept, ", ".join(told))


def check_test_split(looks: Looks, finalists: int, *, accepted: bool) -> Criterion:
    """Check whether the test split has served a choice for this search before.

    Args:
        looks: that were taken at it.
        finalists: of the confirmation that is judged.
        accepted: whether the user says that it may have served one.
    """
    others = ", ".join(f"'{name}' {count}" for name, count in looks.by_others.items())
    aside = f"; other searches looked too: {others}" if others else ""
    if not looks.earlier:
        judged = count_words(finalists, "finalist")
        return Criterion("test split", True, f"read once for this search, for {judged}{aside}")
    times, tested = count_words(looks.earlier, "time"), count_words(looks.finalists, "finalist")
    used = f"read {times} before for this search, for {tested}"
    total = looks.finalists + finalists
    if accepted:
        return Criterion(
            "test split", True, f"{used}; accepted, with the p-value corrected for all {total}{aside}"
        )
    return Criterion(
        "test split",
        False,
        f"{used}, so it has served a choice: confirm on a dataset with other test events, or say "
        f"--accept-reused-test, which corrects the p-value for all {total} and stands in the model card{aside}",
    )


METRIC_TOLERANCE = 1e-6
"""Largest difference of a metric between the confirmation and its own scores; these are stored as float32."""


def check_scores(
    package: Package, run: ConfirmedRun, folder: Path, metric: str, dataset: Dataset, device: str
) -> tuple[Criterion, ...]:
    """Check that the portable form, and the recorded metric, agree with the recorded scores.

    Args:
        package: as it would be handed on.
        run: that it was made from.
        folder: of the confirmation.
        metric: of the test split, by which the confirmation judged.
        dataset: verified.
        device: where the model computes.
    """
    path, schema = folder / run.scores, dataset.schema
    worst = is_worst(metric)
    under: dict[str, dict[str, float]] = {}
    try:
        kept, classifier = read_scores(path, schema), package.build(device)
        reproduction, faults = _reproduced(kept, scores_by_event(classifier, dataset), device)
        others = other_datasets(dataset, validated=False, hashes="all") if worst else {}
        for name, variation in schema.variations.items() if worst else ():
            if faults or not reproduction.passed:
                break
            varied = read_scores(varied_scores(path, name), schema)
            found = scores_by_event(classifier, others.get(name, dataset), variation)
            answer, faults = _reproduced(varied, found, device, f"under '{name}', ")
            text = f"{reproduction.text}; under '{name}' too" if answer.passed else answer.text
            reproduction = dataclasses.replace(answer, text=text)
            under[name] = varied.metrics(schema)
        tested = kept.metrics(schema)
    except HepRayError as exc:
        return (Criterion("reproduction", False, str(exc)),)
    if faults:
        return reproduction, Criterion("recorded metric", False, faults)
    if not reproduction.passed:
        return (reproduction,)
    tested |= worst_metrics(tested, under)
    return reproduction, check_metric(kept, tested, run.metrics, metric, schema, folder)


def _reproduced(
    kept: KeptScores, found: Mapping[str, tuple[int, npt.NDArray[np.float32]]], device: str, under: str = ""
) -> tuple[Criterion, str]:
    """Check that recorded scores are those that the portable form gives; return also what is wrong with their labels.

    Args:
        kept: recorded scores.
        found: of the portable form, see `scores_by_event`.
        device: where it computed them.
        under: words before the sentence, of events under a variation.
    """
    ids = [] if kept.event_ids is None else kept.event_ids.to_pylist()
    if found.keys() != set(ids) or len(ids) != len(found):
        text = (
            f"{under}the recorded scores are of {len(ids)} events, not of the {len(found)} of the test split"
        )
        return Criterion("reproduction", False, text), ""
    scores = np.array([found[event_id][1] for event_id in ids])
    labels = np.array([found[event_id][0] for event_id in ids])
    difference = float(np.abs(scores - kept.probabilities).max())
    text = (
        f"{under}the portable model's scores on {device} and the recorded ones on {len(ids)} test events differ by "
        f"{difference:.1e} at most ({TOLERANCE:.0e} is allowed)"
    )
    passed = difference <= TOLERANCE
    if not passed:
        text += ": another checkpoint than the one that was tested, or another kind of device (--device)"
    wrong = (
        ""
        if np.array_equal(labels, kept.labels)
        else f"{under}the recorded labels are not those of the dataset"
    )
    return Criterion("reproduction", passed, text), wrong


def check_metric(
    kept: KeptScores,
    found: Mapping[str, float],
    recorded: Mapping[str, float],
    metric: str,
    schema: EventSchema,
    folder: Path,
) -> Criterion:
    """Check that the metric that was judged by is that of the recorded scores.

    Args:
        kept: scores of the run.
        found: their metrics.
        recorded: metrics of the run, as the confirmation tells them.
        metric: of the test split.
        schema: of the dataset.
        folder: of the confirmation.
    """
    if metric not in found:
        return Criterion("recorded metric", True, f"{metric} does not follow from the scores alone")
    text = f"the scores give {metric} = {found[metric]:.6g}, recorded is {recorded[metric]:.6g}"
    passed = abs(found[metric] - recorded[metric]) <= METRIC_TOLERANCE
    if not passed and not kept.exact:
        # Confirmations of versions before log-odds were kept ranked by float32 probabilities, many of which are 1.
        formerly = dataclasses.replace(kept, log_odds=kept.probabilities.astype(np.float64)).metrics(schema)
        if abs(formerly[metric] - recorded[metric]) <= METRIC_TOLERANCE:
            again = typed("hep-ray", "confirm", folder.parent.name, storage=folder.parent.parent)
            text += (
                f", ranked by probabilities, which saturate at 1: type `{again}`, with the flags it had, which reckons "
                "anew from these scores and trains nothing"
            )
    return Criterion("recorded metric", passed, text)


def scores_by_event(
    classifier: Classifier, dataset: Dataset, variation: Variation | None = None
) -> dict[str, tuple[int, npt.NDArray[np.float32]]]:
    """Score the test split shard by shard: event id → label and probabilities (C,).

    Args:
        classifier: the portable form.
        dataset: whose test split is scored.
        variation: of its columns, under which events are scored; one by weights, or by other events, which are then
            those of `dataset`, changes none.
    """
    schema = dataset.schema
    elements = {column.name: column.elements for column in schema.columns}
    changes = () if variation is None else variation.changes(elements)
    found: dict[str, tuple[int, npt.NDArray[np.float32]]] = {}
    for path in dataset.paths("test", purpose="promote"):
        table = read_shard(path).combine_chunks()
        for batch in table.to_batches():
            events = schema.decode(batch)
            for one in changes:
                values, fill = torch.tensor(events[one.column]), schema.column(one.column).fill
                events[one.column] = changed(values, one, fill).numpy()
            scores = classifier.predict(events)
            found.update(zip(events[EVENT_ID], zip(events[LABEL].tolist(), scores, strict=True), strict=True))
    return found


FEWEST_SEEDS = 2
LEVEL = 0.025
"""Rate, one-sided, at which a candidate that is no better passes."""


@dataclass(frozen=True)
class Gate:
    """Rules by which a gain is judged.

    Attributes:
        folder: of the search; scores lie in its confirmation.
        schema: of the dataset.
        level: one-sided.
        earlier: finalists tested on this split before.
    """

    folder: Path
    schema: EventSchema
    level: float = LEVEL
    earlier: int = 0


def _fails(text: str) -> Criterion:
    return Criterion("gain", False, text)


def check_gain(
    confirmation: Confirmation, candidate: Contender, champion: Description | None, gate: Gate | None
) -> Criterion:
    """Check that the candidate beats the champion, or the baseline where there is none, beyond the noise.

    Args:
        confirmation: of the candidate.
        candidate: one of its finalists.
        champion: the description of the present champion.
        gate: scores, level and earlier looks; None without the dataset that was confirmed on.

    Raises:
        StorageError: kept scores cannot be read.
    """
    if gate is None:
        return _fails("not judged, without the dataset that was confirmed on")
    stated = {name: str(one) for name, one in gate.schema.variations.items()}
    if differing := _differing(confirmation.metric, _varied(confirmation.variations, candidate), stated):
        return _fails(
            f"{confirmation.metric} is the worst over the dataset's variations, and they are not those of the "
            f"confirmation: {differing}: name the dataset that was confirmed on (--data), or confirm on this one "
            f"(`{made_by(gate.folder, '--again')} --data …`)"
        )
    if len(candidate.runs) < FEWEST_SEEDS and not (seedless(candidate) and seedless(confirmation.baseline)):
        return _fails(
            f"seed noise is seen with {FEWEST_SEEDS} seeds or more; there is {len(candidate.runs)}",
        )
    if champion is None or champion.evidence is None:
        return _against_baseline(confirmation, candidate, gate, "the baseline")
    if champion.evidence.contender == candidate:
        return _fails(
            f"'{candidate.name}' of this very confirmation is the champion already, so there is nothing to promote; "
            "another form of it (--refit, --folds, another --calibration) is registered under another --name"
        )
    if same_contender(champion.evidence.contender, confirmation.baseline):
        return _against_baseline(
            confirmation, candidate, gate, "the champion's configuration, retrained on this dataset"
        )
    if champion.dataset_fingerprint != confirmation.dataset_fingerprint:
        return _fails(
            f"the champion was trained on the dataset {champion.dataset_fingerprint[:12]}, not on this one: "
            f"{_anew(champion)}",
        )
    return _against_champion(confirmation, candidate, champion, gate)


def _varied(variations: Sequence[UnderVariation], contender: Contender) -> dict[str, str]:
    """Return what a contender was tested under: variation → its changes in words."""
    return {one.variation: one.changes for one in variations if one.contender == contender.name}


def _differing(metric: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return in words where variations differ; nothing where they do not, or the metric is not the worst over them."""
    if not is_worst(metric):
        return ""
    return ", ".join(
        f"'{name}' was {before.get(name, 'not there')} and is now {now.get(name, 'not there')}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )


def _against_baseline(confirmation: Confirmation, candidate: Contender, gate: Gate, whom: str) -> Criterion:
    comparison_of(confirmation, candidate)
    found = {
        one.name: values_of(gate.folder / FOLDER, gate.schema, one, confirmation.metric)
        for one in confirmation.contenders
    }
    baseline = (confirmation.baseline, found[confirmation.baseline.name])
    against = {one.name: compared((one, found[one.name]), baseline) for one in confirmation.finalists}
    both = against[candidate.name]
    if both is None:
        return _untold(confirmation, gate)
    p_values = [None if one is None else one.p_value for one in against.values()]
    corrected = holm(p_values + [None] * len(confirmation.dropped))[list(against).index(candidate.name)]
    if gate.earlier and both.p_value is not None and corrected is not None:
        corrected = max(corrected, min(1.0, both.p_value * (gate.earlier + len(confirmation.finalists))))
    return _judged(confirmation, both, corrected, whom, gate)


def _against_champion(
    confirmation: Confirmation, candidate: Contender, champion: Description, gate: Gate
) -> Criterion:
    evidence = champion.evidence
    assert evidence is not None
    if evidence.metric != confirmation.metric:
        return _fails(
            f"the champion is judged by {evidence.metric}, the candidate by {confirmation.metric}",
        )
    try:
        own, theirs_too = candidate.configurations, evidence.contender.configurations
        check_contenders(confirmation.metric, [*own, *theirs_too])
    except InvalidConfig as exc:
        return _fails(f"the champion and the candidate cannot be compared: {exc}")
    theirs_under = _varied(evidence.variations, evidence.contender)
    ours_under = _varied(confirmation.variations, candidate)
    if differing := _differing(confirmation.metric, theirs_under, ours_under):
        return _fails(
            f"{confirmation.metric} is the worst over variations, and the champion was judged under others than the "
            f"candidate: {differing}: {_anew(champion)}"
        )
    if champion.event_schema.weight != gate.schema.weight:
        used = {True: "weighted", False: "counted"}
        return _fails(
            f"the champion was judged on {used[champion.event_schema.weight is not None]} events, the candidate on "
            f"{used[gate.schema.weight is not None]} ones: {_anew(champion)}",
        )
    kept = _champion_folder(gate.folder.parent, champion)
    theirs = None if kept is None else values_of(kept, gate.schema, evidence.contender, confirmation.metric)
    if kept is None or theirs is None:
        return _fails(
            "the champion and the candidate are compared event by event, and the scores of the champion's confirmation "
            f"(search '{champion.origin.get('search')}') are not below {gate.folder.parent}: {_anew(champion)}",
        )
    ours = values_of(gate.folder / FOLDER, gate.schema, candidate, confirmation.metric)
    both = compared((candidate, ours), (evidence.contender, theirs), paired=False)
    if both is None:
        return _untold(confirmation, gate)
    first, other = (
        read_scores(folder / one.runs[0].scores, gate.schema)
        for folder, one in ((gate.folder / FOLDER, candidate), (kept, evidence.contender))
    )
    if not first.same_events(other):
        return _fails("the champion's scores are of other test events, or in another order")
    p_value = None if both.p_value is None else min(1.0, both.p_value * (1 + gate.earlier))
    return _judged(confirmation, both, p_value, "the champion", gate)


def _anew(champion: Description) -> str:
    """Return in words what to do where the champion's own confirmation does not tell enough."""
    if champion.evidence is not None and champion.evidence.contender.members:
        return "an ensemble is no baseline, so promote under another --name"
    return "confirm with the champion's configuration as the baseline"


def _champion_folder(storage: Path, champion: Description) -> Path | None:
    """Folder of the confirmation that the champion came of, if its scores are still there."""
    evidence, search = champion.evidence, champion.origin.get("search", "")
    assert evidence is not None
    if not search or Path(search).name != search:
        return None
    for path in sorted((storage / search).glob(f"{FOLDER}*/{FILE_NAME}")):
        with suppress(OSError, ValueError):
            confirmation = Confirmation.model_validate_json(path.read_text(encoding="utf-8"))
            if evidence.contender in confirmation.contenders:
                return path.parent
    return None


def _untold(confirmation: Confirmation, gate: Gate) -> Criterion:
    return _fails(
        f"{confirmation.metric} is judged event by event, which the scores below {gate.folder / FOLDER} do not allow "
        "(absent, of a version before losses were kept, fewer than 20 test events of a class, or one seed): type "
        f"`{made_by(gate.folder, '--again')}`",
    )


def _judged(
    confirmation: Confirmation, both: Crossed, p_value: float | None, whom: str, gate: Gate
) -> Criterion:
    sign = 1 if confirmation.mode == "max" else -1
    told = p_value is not None and p_value < 2 * gate.level
    better = told and sign * both.difference > 0
    noise = "seed noise and that of the events"
    verdict = f"worse, beyond {noise}" if told else f"no better within {noise}"
    shown = "not to be had" if p_value is None else f"{p_value:.3g}"
    interval = both.interval(confirmation.level)
    text = (
        f"{confirmation.metric} {both.difference:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}] against {whom}, "
        f"p = {shown} (seeds ± {both.seed_error:.2g} and test events ± {both.event_error:.2g}, two-sided, corrected; "
        f"below {2 * gate.level:.3g} is asked for, {100 * gate.level:.3g} % one-sided)"
    )
    return Criterion("gain", better, text if better else f"{text}: {verdict}")


def comparison_of(confirmation: Confirmation, candidate: Contender) -> Comparison:
    """Return the comparison of the candidate with the baseline.

    Raises:
        PromotionRefused: the confirmation did not compare them.
    """
    for comparison in confirmation.comparisons:
        if comparison.contender == candidate.name and comparison.metric == confirmation.metric:
            return comparison
    raise PromotionRefused(
        f"a candidate was compared with the baseline; '{candidate.name}' was not, by {confirmation.metric}"
    )


def same_contender(left: Contender, right: Contender) -> bool:
    """Whether two are of the same configuration, or the mean of the same."""
    rest = list(right.configurations)
    for own in left.configurations:
        alike = [place for place, other in enumerate(rest) if same_configuration(own, other)]
        if not alike:
            return False
        del rest[alike[0]]
    return not rest


def same_configuration(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether two describe one configuration; a parameter that has another default today may be left out by either."""
    one, other = (
        TrialConfig.completed(
            without_seed(own), {key: value for key, value in beside.items() if key in FORMERLY}
        ).resolved()
        for own, beside in ((left, right), (right, left))
    )
    return one == other


def without_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that a trial's configuration is made of."""
    return {key: value for key, value in params.items() if key != "seed"}
