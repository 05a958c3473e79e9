"""A report in a few sentences: what ran, what was found, what to type."""

from __future__ import annotations

from pathlib import Path

from hep_ray.confirm.confirmation import Confirmation
from hep_ray.confirm.table import verdict
from hep_ray.flags import typed
from hep_ray.report.material import Material
from hep_ray.report.words import count_words, decimals, interval, metric_words, plus_minus
from hep_ray.search.stated import words_to_confirm

HOUR = 3600.0


def what_ran(material: Material) -> str:
    """Trials by their end, epochs, hours."""
    trials = material.state.trials
    ends = [
        f"{count} {status}"
        for status in ("completed", "stopped", "failed", "running")
        if (count := material.count(status))
    ]
    epochs = sum(len(trial.history) for trial in trials.values())
    seconds = sum(trial.seconds for trial in trials.values())
    duration = f"{seconds / HOUR:.1f} hours" if seconds >= HOUR else f"{seconds / 60:.1f} minutes"
    if seconds < 60:  # noqa: PLR2004 - of a minute
        duration = f"{seconds:.1f} seconds"
    return (
        f"{count_words(len(trials), 'trial')} of up to {count_words(material.started.epochs, 'epoch')}: "
        f"{', '.join(ends)}. {count_words(epochs, 'epoch')} were trained in {duration} of trial time "
        "(trials that ran side by side counted each)."
    )


def still_running(material: Material) -> str:
    """What has not ended yet, or nothing."""
    if not material.running:
        return ""
    open_trials = [trial.trial_id for trial in material.state.unfinished()]
    words = f": {', '.join(open_trials[:10])} not ended" if open_trials else ""
    return (
        f"Still running, or interrupted{words}. This is what there is so far; type the command again later."
    )


def result(material: Material) -> list[str]:
    """The result in two sentences."""
    return [_picked(material), _confirmed(material)]


def _picked(material: Material) -> str:
    metric, best = material.started.metric, material.best
    metrics = best.best(metric, material.started.mode) or {}
    value = plus_minus(metrics[metric], metrics.get(f"{metric}_error"))
    group = next((one for one in material.groups.members if best in one.trials), None)
    beside = ""
    if group is not None and group.kind == "seeds":
        over = [
            found[metric] for trial in group.trials if (found := trial.best(metric, material.started.mode))
        ]
        mean = sum(over) / len(over)
        spread = (sum((one - mean) ** 2 for one in over) / (len(over) - 1)) ** 0.5
        beside = f"; its {len(over)} seeds give {plus_minus(mean, spread)}"
    return (
        f"Best by {metric_words(metric)}: {material.name_of(best)} with {value} after epoch {int(metrics['epoch'])}"
        f"{beside}. It is the best of {count_words(material.count('completed'), 'completed trial')}, so a biased pick."
    )


def _confirmed(material: Material) -> str:
    found = material.confirmation
    if found is None:
        words = confirm_command(material)
        return f"It is not confirmed on the test split{f': type {words}' if words else ''}."
    first = found.finalists[0] if found.finalists else found.baseline
    estimate, base = first.estimates[found.metric], found.baseline.estimates[found.metric]
    words = (
        f"Tested on the test split with {count_words(len(found.seeds), 'seed')}: {metric_words(found.metric)} "
        f"{plus_minus(estimate.mean, estimate.sd)} of {first.name} against {plus_minus(base.mean, base.sd)} of the "
        "baseline"
    )
    return f"{words}{_difference(found, first.name)}. {verdict(found)}"


def _difference(found: Confirmation, name: str) -> str:
    own = next(
        (one for one in found.comparisons if one.contender == name and one.metric == found.metric), None
    )
    if own is None:
        return ""
    p_value = "no p-value" if own.adjusted_p_value is None else f"corrected p = {own.adjusted_p_value:.2g}"
    difference, digits = own.difference, decimals(own.difference.mean, own.difference.sd)
    mean = plus_minus(difference.mean, difference.sd, "+")
    return f"; paired difference {mean} {interval(difference.low, difference.high, digits, '+')}, {p_value}"


def confirm_command(material: Material) -> str | None:
    """What to type to confirm the search; None where it has nothing to compare."""
    words = words_to_confirm(material.state, material.search)
    return None if words is None else typed("hep-ray", *words, storage=material.folder.parent)


def commands(material: Material, storage: Path) -> str:
    """What to type to have the same again."""
    name = material.search.name
    again = typed("hep-ray", "confirm", name, storage=storage)
    commit = material.started.provenance.get("git_commit", "unknown")
    lines = [] if commit.startswith("unknown") else [f"git checkout {commit}"]
    lines.append(material.started.provenance.get("command", f"python searches/{name}.py"))
    if material.confirmation is not None:
        lines.append(material.confirmation.provenance.get("command", again))
    lines.append(typed("hep-ray", "report", name, storage=storage))
    return "\n".join(lines)


def heading(material: Material) -> str:
    """Title of the page."""
    return material.search.title.rstrip(".")
