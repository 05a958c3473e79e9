"""The answer of a report: what won, by how much, against what, whether it is real, and what to type next."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from hep_ray.confirm.confirmation import Comparison, Confirmation, Contender, choose
from hep_ray.confirm.refit_result import refit_difference
from hep_ray.confirm.table import of_difference, verdict
from hep_ray.errors import PromotionRefused
from hep_ray.flags import typed
from hep_ray.metrics.labels import metric_words
from hep_ray.report.groups import Group
from hep_ray.report.report_data import ReportData
from hep_ray.search.means import differ_by
from hep_ray.search.naming import Naming, count_words, decimals, interval, plus_minus
from hep_ray.search.state import words_to_confirm


@dataclass(frozen=True)
class Answer:
    """The first screen of a report.

    Attributes:
        headline: the answer in a sentence.
        real: whether a confirmation found a gain; None before there is one.
        facts: question → answer, in their order.
        command: to type next; None where there is none.
    """

    headline: str
    real: bool | None
    facts: dict[str, str]
    command: str | None


def answer(data: ReportData) -> Answer:
    """Return what a search has found: by its confirmation where there is one, else by validation."""
    return _picked(data) if data.confirmation is None else _confirmed(data, data.confirmation)


def _picked(data: ReportData) -> Answer:
    metric, mode, best = data.started.metric, data.started.mode, data.best
    words, command = metric_words(metric), confirm_command(data)
    group = next((one for one in data.groups.members if best in one.trials), None)
    at_best = data.state.trials[best.trial_id].best(metric, mode) or {}
    value = plus_minus(at_best[metric], at_best.get(f"{metric}_error"))
    by_how_much = f"{words} {value} after epoch {int(at_best['epoch'])}"
    over = [] if group is None else group.values(metric, mode)
    if group is not None and group.kind == "seeds" and len(over) > 1:
        spread = plus_minus(statistics.fmean(over), statistics.stdev(over))
        by_how_much += f"; its {len(over)} {differ_by(data.state)} give {spread}"
    facts = {
        "What won": data.name_of(best),
        "By how much": by_how_much,
        "Against what": _rival(data, group),
        "Is it real?": f"Not known yet: the best of {count_words(data.count('completed'), 'completed trial')} is a "
        "biased pick. "
        + (
            "A confirmation trains it and the baseline with new seeds and compares them on the test split."
            if command
            else "There is no other configuration to compare it with."
        ),
    }
    broken = "; it breaks a constraint, as all do" * data.state.breaks(best)
    ranked_by = f"{words} {value}"
    if data.state.repeats > 1 and len(over) > 1:
        mean, error, seeds = data.state.mean(best, metric, mode)
        ranked_by = f"mean {words} {plus_minus(mean, error)} over {seeds} {differ_by(data.state)}"
    headline = f"Not confirmed yet: {best.trial_id} leads with {ranked_by}{broken}."
    return Answer(headline, None, facts, command)


def _rival(data: ReportData, own: Group | None) -> str:
    """Say what the best trial is compared with: the baseline's best, else the next group of trials."""
    to_beat = data.groups.to_beat
    others = [one for one in data.groups.ranked if one is not own]
    if own is not None and to_beat is own:
        words, rival = "It is the baseline itself; next comes", next(iter(others), None)
    elif to_beat is not None:
        words, rival = "The best with the baseline's parameters:", to_beat
    elif data.search.baseline:
        stated = ", ".join(f"{name}={value}" for name, value in data.search.baseline.items())
        return f"The baseline, {stated}: no trial has it yet; a confirmation trains it."
    else:
        words, rival = "No baseline is stated; next comes", next(iter(others), None)
    if rival is None:
        return "Nothing: there is no other configuration."
    broken = ", which breaks a constraint" * rival.breaks
    return f"{words} {rival.name}{broken}, with {_group_value(data, rival)}{_lead(data, own, rival)}."


def _group_value(data: ReportData, group: Group) -> str:
    found = group.values(data.started.metric, data.started.mode)
    if len(found) == 1:
        return _at_best(data, (group.scored or group.trials)[0].trial_id)
    return f"{plus_minus(statistics.fmean(found), statistics.stdev(found))} over {len(found)} trials"


def _lead(data: ReportData, own: Group | None, rival: Group) -> str:
    if own is None:
        return ""
    metric, mode = data.started.metric, data.started.mode
    lead = (own.score(metric, mode) - rival.score(metric, mode)) * (1 if mode == "max" else -1)
    events = "with the folds of each allowed for" if data.started.folds else "of the same events"
    return f": {'behind' if lead < 0 else 'ahead'} by {abs(lead):.2g}, {events}"


def _at_best(data: ReportData, trial_id: str) -> str:
    metric = data.started.metric
    metrics = data.state.trials[trial_id].best(metric, data.started.mode) or {}
    return plus_minus(metrics[metric], metrics.get(f"{metric}_error"))


def _confirmed(data: ReportData, found: Confirmation) -> Answer:
    own = {one.contender: one for one in found.comparisons if one.metric == found.metric}
    better = [name for name, one in own.items() if one.better(found.mode, found.level)]
    first = _candidate(found)
    real, others = first.name in better, [name for name in better if name != first.name]
    compared = own.get(first.name)
    words = metric_words(found.metric)
    told, _, caveats = verdict(found).partition(". ")
    name = first.words or data.naming.words(first.params)
    facts = {
        "What won": (first.name if real else f"Nothing; the best by validation is {first.name}")
        + (f": {name}" if name else ""),
        "By how much": _gain(found, first, compared),
        "Against what": _baseline(found, first),
        "Is it real?": _reality(found, compared, caveats, real=real),
    }
    headline = told.rstrip(".") + "."
    if others:
        better_too = f"{', '.join(others)} {'is' if len(others) == 1 else 'are'}"
        facts["Also better"] = f"{better_too}, but validation chooses the candidate, not the test split."
        headline = f"{first.name}, the best by validation, is not better than the baseline; {better_too}."
    if real and compared is not None:
        gain = compared.difference
        headline = f"{first.name} beats the baseline: {words} {plus_minus(gain.mean, gain.sd, '+')}."
    folder = data.folder
    refit = ("--refit",) if data.refit is not None and data.refit.found.trial == first.name else ()
    if data.refit is not None:
        facts["Refit"] = refit_difference(data.refit.found, data.refit.both, found.level)
    command = typed(
        "hep-ray", "promote", folder.name, *refit, "--dry-run", storage=folder.parent, data=data.moved
    )
    return Answer(headline, real, facts, command)


def _candidate(found: Confirmation) -> Contender:
    """Return the finalist that the gate would judge; the baseline where none is left.

    Confirmations of earlier versions tell no metric of validation: of these the first finalist, which the search
    ranked best.
    """
    try:
        return choose(found)[0]
    except PromotionRefused:
        return next(iter(found.finalists), found.baseline)


def _gain(found: Confirmation, first: Contender, compared: Comparison | None) -> str:
    value, base = first.estimates[found.metric], found.baseline.estimates[found.metric]
    words = f"{metric_words(found.metric)} {plus_minus(value.mean, value.sd)} against {plus_minus(base.mean, base.sd)}"
    if compared is None:
        return f"{words}, mean ± s.d. over seeds."
    gain, digits = compared.difference, decimals(compared.difference.mean, compared.difference.sd)
    bounds = interval(gain.low, gain.high, digits, "+")
    return (
        f"Paired difference {plus_minus(gain.mean, gain.sd, '+')}, {found.level:.0%} interval {bounds}; "
        f"{words}, mean ± s.d. over seeds."
    )


def _baseline(found: Confirmation, first: Contender) -> str:
    origin = f" ({found.baseline_origin})" if found.baseline_origin else ""
    if first.members:
        return f"The baseline{origin}."
    params = Naming.among([first.params, found.baseline.params]).words(found.baseline.params)
    return f"The baseline{origin}{f', which differs by {params}' if params else ''}."


def _reality(found: Confirmation, compared: Comparison | None, caveats: str, *, real: bool) -> str:
    p_value = None if compared is None else compared.adjusted_p_value
    finalists = count_words(len(found.finalists) + len(found.dropped), "finalist")
    p_words = "no p-value"
    if p_value is not None:
        p_words = f"p = {p_value:.2g}, after {found.correction.capitalize()}'s correction for {finalists}"
    return (
        f"{'Yes' if real else 'Not shown'}, at the {1 - found.level:.0%} level: {p_words}, "
        f"{count_words(len(found.seeds), 'seed')} each on the test split. {of_difference(found)}. {caveats}"
    ).rstrip()


def confirm_command(data: ReportData) -> str | None:
    """Return the command that confirms the search; None where it has nothing to compare."""
    words = words_to_confirm(data.state, data.search)
    return None if words is None else typed("hep-ray", *words, storage=data.folder.parent, data=data.moved)
