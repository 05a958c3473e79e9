"""A confirmation as a table for a terminal, with a verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hep_ray.confirm.confirmation import Comparison, Confirmation, Estimate
from hep_ray.dataset.variations import NOMINAL
from hep_ray.metrics import nominal_key
from hep_ray.metrics.event_values import FEWEST_OF_A_CLASS
from hep_ray.search.naming import count_words, number, plus_minus


def titled(title: str) -> Table:
    """Return an empty table in the style of a confirmation's."""
    return Table(
        title=title,
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )


def confirmation_table(confirmation: Confirmation) -> Table:
    """Tabulate finalists and baseline: value on the test split, and the difference to the baseline."""
    level = f"{100 * confirmation.level:g} % interval"
    trainings = count_words(len(confirmation.seeds), "training")
    made = titled(f"{confirmation.search}: {trainings} each at full length, on the test split")
    headings = (
        "contender",
        f"{confirmation.metric.removeprefix('test_').replace('_', ' ')} ± s.d.\n{level}",
        f"minus baseline\n{level}",
        "± seeds\n± events",
        f"p\n{confirmation.correction.capitalize()}",
        f"better at\n{_alpha(confirmation)} level",
    )
    for heading in headings:
        made.add_column(heading, no_wrap=True)
    comparisons = {one.contender: one for one in confirmation.comparisons}
    for one in confirmation.contenders:
        estimate = one.estimates[confirmation.metric]
        value = f"{estimate.mean:.4f} ± {estimate.sd:.4f}\n{_interval(estimate, confirmation)}"
        made.add_row(one.name, value, *_compared(comparisons.get(one.name), confirmation))
    for name in confirmation.dropped:
        made.add_row(name, "failed", "", "", "", "no")
    return made


def variations_table(confirmation: Confirmation) -> Table:
    """Tabulate every contender on the test events as they are and under each systematic variation."""
    name = nominal_key(confirmation.metric).removeprefix("test_").replace("_", " ")
    made = titled(f"Systematic variations of the test split, {name}")
    for heading in VARIATION_HEAD:
        made.add_column(heading)
    for row in variation_rows(confirmation):
        made.add_row(*row)
    return made


VARIATION_HEAD = ("variation", "changes", "contender", "value", "minus nominal", "± seeds", "± events")


def variation_rows(confirmation: Confirmation) -> list[list[str]]:
    """List the cells under `VARIATION_HEAD`, for each contender the events as they are first."""
    metric, rows = nominal_key(confirmation.metric), []
    nominal = {one.name: one.estimates[metric] for one in confirmation.contenders}
    if confirmation.variations:
        rows += [
            [NOMINAL, "", name, plus_minus(one.mean, one.sd), "", "", ""] for name, one in nominal.items()
        ]
    for found in confirmation.variations:
        value, difference = found.estimates[metric], found.difference
        errors = [
            "–" if error is None else f"{error:.2g}" for error in (found.seed_error, found.sample_error)
        ]
        rows.append(
            [
                found.variation,
                found.told,
                found.contender,
                plus_minus(value.mean, value.sd),
                plus_minus(difference.mean, difference.sd, "+"),
                *errors,
            ]
        )
    return rows


def worst_variations(confirmation: Confirmation) -> list[str]:
    """Say under which variation each contender loses most, where it loses at all."""
    said = []
    for contender in confirmation.contenders:
        own = [one for one in confirmation.variations if one.contender == contender.name]
        worst = max(own, key=lambda one: one.loss(confirmation.mode), default=None)
        if worst is not None and worst.loss(confirmation.mode) > 0:
            difference = plus_minus(worst.difference.mean, worst.difference.sd, "+")
            said.append(
                f"{contender.name} loses most under {worst.variation} ({worst.changes}): {difference}"
            )
    return said


def contender_lines(confirmation: Confirmation) -> list[str]:
    """List each contender by the parameters that not all have alike, an ensemble by its members, and why one failed."""
    everyone: list[Mapping[str, Any]] = [one.params for one in confirmation.contenders if not one.members]
    names = dict.fromkeys(name for params in everyone for name in params)
    differ = [name for name in names if len({params.get(name) for params in everyone}) > 1]
    lines = [
        f"{one.name:9} "
        + (one.words or ", ".join(f"{key}={number(one.params[key])}" for key in differ if key in one.params))
        for one in confirmation.contenders
    ]
    return lines + [f"{name:9} {cause.splitlines()[0]}" for name, cause in confirmation.dropped.items()]


def of_difference(confirmation: Confirmation) -> str:
    """Say what the interval and the p-value of a difference cover."""
    if all(one.judged_by == "crossed" for one in confirmation.comparisons):
        return "Paired by seed and event; interval and p-value count the noise of both"
    return "Paired by seed; interval and p-value count the noise of the seeds alone"


def errors_in_words(confirmation: Confirmation) -> list[str]:
    """Say in lines what the errors in `confirmation_table` are; none where nothing is compared."""
    if not confirmation.comparisons:
        return []
    return [
        f"{of_difference(confirmation)}.",
        "'± seeds' and '± events' are the errors of the difference from the seeds and from the finite test split.",
    ]


def verdict(confirmation: Confirmation) -> str:
    """Say in a sentence who beats the baseline, if anyone."""
    if len(confirmation.seeds) == 1 and all(one.p_value is None for one in confirmation.comparisons):
        return "With one seed there is no interval and no p-value: nothing can be said. Type --seeds 5."
    better = [
        one.contender for one in confirmation.comparisons if one.better(confirmation.mode, confirmation.level)
    ]
    noise = f"at the {_alpha(confirmation)} level"
    if not better:
        return f"No finalist is better than the baseline {noise}."
    verb = "is" if len(better) == 1 else "are"
    sentence = f"{', '.join(better)} {verb} better than the baseline {noise}."
    of_seeds = [one for one in confirmation.comparisons if one.judged_by == "seeds"]
    small = [one.contender for one in of_seeds if one.contender in better and _small(one)]
    if small:
        sentence += (
            f" But the gain of {', '.join(small)} is below twice the error that the finite test split leaves: another "
            "split of as many events might not show it."
        )
    if of_seeds:
        sentence += (
            " Only the noise of the seeds is counted, not that of the test split; --again counts both where each class "
            f"has {FEWEST_OF_A_CLASS} test events or more."
        )
    return sentence


def _small(comparison: Comparison) -> bool:
    """Return whether the difference is within two standard errors of the test sample."""
    error = comparison.sample_error
    return error is not None and abs(comparison.difference.mean) < 2 * error


def _compared(comparison: Comparison | None, confirmation: Confirmation) -> Sequence[str]:
    if comparison is None:
        return "", "", "", ""
    difference = comparison.difference
    yes = comparison.better(confirmation.mode, confirmation.level)
    return (
        f"{difference.mean:+.4f}\n{_interval(difference, confirmation, sign='+')}",
        "\n".join(
            "–" if error is None else f"± {error:.4f}"
            for error in (comparison.seed_error, comparison.sample_error)
        ),
        f"{_p(comparison.p_value)}\n{_p(comparison.adjusted_p_value)}",
        "yes" if yes else "no",
    )


def _interval(estimate: Estimate, confirmation: Confirmation, sign: str = "") -> str:
    if len(confirmation.seeds) == 1 and estimate.low == estimate.high:
        return "–"
    return f"[{estimate.low:{sign}.4f}, {estimate.high:{sign}.4f}]"


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _alpha(confirmation: Confirmation) -> str:
    return f"{100 * (1 - confirmation.level):.3g} %"
