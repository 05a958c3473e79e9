"""Tables of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from hep_ray.confirm.confirmation import Confirmation, Estimate
from hep_ray.confirm.refit_result import WHAT_SPEAKS, refit_difference, refit_rows
from hep_ray.confirm.table import VARIATION_HEAD, of_difference, variation_rows, verdict, worst_variations
from hep_ray.dataset.dataset import Manifest
from hep_ray.dataset.splits import SPLITS
from hep_ray.drawing.page import PageTable
from hep_ray.metrics import nominal_key
from hep_ray.metrics.classification import REJECTION_PERCENTS
from hep_ray.metrics.labels import metric_words
from hep_ray.report.figures.thresholds import larger_class
from hep_ray.report.figures.working_points import shown_points
from hep_ray.report.report_data import Refitted, ReportData
from hep_ray.report.scores import (
    THRESHOLDS,
    Scored,
    Scores,
    WorkingPoint,
    mean_and_error,
    mean_and_sd,
)
from hep_ray.report.study import left_out, shown, written
from hep_ray.search.means import heading_of_means, mean_words
from hep_ray.search.naming import Naming, count_words, decimals, estimated, fixed, number, plus_minus
from hep_ray.search.state import OF_MODEL, TIMES

BEST_TRIALS = 15
"""Rows of the leaderboard that are shown."""
CONFIRMED = ("test_accuracy", "test_auc", "test_background_rejection_at_50")
FIGURES = (*OF_MODEL, *TIMES[1:])
"""What trials cost, as far as their journal tells."""
LEADERBOARD = ("val_accuracy", "val_auc", "val_background_rejection_at_50", "val_loss")


def dataset(manifest: Manifest) -> PageTable:
    """Return classes with their meaning, and events of each in every split."""
    schema = manifest.event_schema
    by_split = {split: manifest.class_counts(split) for split in SPLITS}
    rows = [
        [
            name + (" (signal)" if name == schema.signal else ""),
            *(f"{by_split[split][name]:,}" for split in SPLITS),
            schema.class_meaning.get(name, ""),
        ]
        for name in schema.classes
    ]
    rows.append(["all", *(f"{sum(by_split[split].values()):,}" for split in SPLITS), ""])
    return PageTable(["class", *SPLITS, "meaning"], rows, text=(0, len(SPLITS) + 1))


def leaderboard(data: ReportData) -> PageTable:
    """Return the best trials at their best epochs, with a column for each parameter that varied among them."""
    metric, mode = data.started.metric, data.started.mode
    trials = data.state.ranked(metric, mode)[:BEST_TRIALS]
    known = {key for trial in trials for key in (trial.best(metric, mode) or {})}
    beside = [key for key in LEADERBOARD if key in known and key != metric]
    cost = data.started.second_objective
    figures = [name for name in FIGURES if any(name in trial.figures for trial in trials)]
    summed = [cost] if cost and cost not in figures else []
    repeats = data.state.repeats > 1
    head = ["trial", _heading(metric), *([heading_of_means(data.state)] if repeats else [])]
    head += [name.replace("_", " ") for name in data.varied]
    head += ["epochs", "end", "fold" if data.started.folds else "seed", *map(_heading, beside)]
    head += [f"total {metric_words(name)}" for name in summed] + [metric_words(name) for name in figures]
    rows = []
    for trial in trials:
        best = trial.best(metric, mode) or {}
        apart = data.naming.apart(trial.started.params)
        rows.append(
            [
                trial.trial_id + (f": {apart}" if apart else ""),
                plus_minus(best[metric], best.get(f"{metric}_error")) if metric in best else "–",
                *([mean_words(data.state, trial)] if repeats else []),
                *_values(trial.started.params, data.varied),
                f"{len(trial.history)}/{data.started.epochs}",
                data.state.end_of(trial),
                str(trial.started.fold or trial.started.seed),
                *(f"{best[key]:.4g}" if key in best else "–" for key in beside),
                *(f"{trial.total(name):.4g}" for name in summed),
                *(f"{trial.figures[name]:.4g}" if name in trial.figures else "–" for name in figures),
            ]
        )
    left_out = len(data.state.trials) - BEST_TRIALS
    notes = [f"{left_out} more trials are in leaderboard.json."] if left_out > 0 else []
    words = _words_among(data.varied, [trial.started.params for trial in trials], 2 + repeats)
    return PageTable(head, rows, text=(0, *words, head.index("end")), notes=notes)


def _heading(metric: str) -> str:
    """The words of a metric of the validation split; an equation within them stays on one line."""
    return metric_words(metric).removeprefix("validation ").replace(" = ", "\u00a0=\u00a0")


def _values(params: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """A cell for each parameter; a dash where a configuration lacks it."""
    return [number(params[name]) if name in params else "–" for name in names]


def _words_among(names: Sequence[str], everyone: Sequence[Mapping[str, Any]], start: int) -> list[int]:
    """Columns of parameters that hold words."""
    return [
        start + place
        for place, name in enumerate(names)
        if any(isinstance(params.get(name), str) for params in everyone)
    ]


def studies(data: ReportData) -> list[PageTable]:
    """Return the study's own tables."""
    found = []
    for one in data.search.tables:
        head, rows = written(one, data.state)
        text = (0, len(head) - 1) if shown(one, data.state).published else (0,)
        found.append(PageTable(head, rows, text, title=one.title, notes=left_out(one, data.state)))
    return found


def failures(data: ReportData) -> PageTable:
    """Return trials that failed, and why; without rows where none did."""
    rows = [
        [trial.trial_id, str(len(trial.history)), trial.finished.cause.split("\n")[0]]
        for trial in data.state.trials.values()
        if trial.finished and trial.status == "failed"
    ]
    return PageTable(["trial", "epochs", "cause"], rows, (0, 2), title="Trials that failed")


def contenders(found: Confirmation) -> list[PageTable]:
    """Return every contender on the test split, and what each of them is."""
    metrics = [key for key in dict.fromkeys([found.metric, *CONFIRMED]) if key in found.baseline.estimates]
    everyone = (*found.finalists, found.baseline)
    single = [one for one in everyone if not one.members]
    naming = Naming.among([one.params for one in single])
    names = [metric_words(metric).removeprefix("test ") for metric in metrics]
    results = [
        [one.name, *(_estimate(one.estimates[key]) if key in one.estimates else "–" for key in metrics)]
        for one in everyone
    ]
    notes = [
        f"Test split; mean ± s.d. over {count_words(len(found.seeds), 'seed')} [{found.level:.0%} interval]."
    ]
    notes += [f"{one.name} is the {one.words}, paired by seed." for one in everyone if one.members]
    head = ["contender", *(name.replace("_", " ") for name in naming.varied)]
    words = _words_among(naming.varied, [one.params for one in single], 1)
    return [
        PageTable(["contender", *names], results, notes=notes),
        PageTable(head, [[one.name, *_values(one.params, naming.varied)] for one in single], (0, *words)),
    ]


def comparisons(found: Confirmation) -> PageTable:
    """Return the finalists against the baseline on the test split."""
    difference = f"minus baseline [{found.level:.0%} interval]"
    rows = [
        [
            one.contender,
            metric_words(one.metric),
            _estimate(one.difference, sign="+"),
            _p_value(one.p_value),
            _p_value(one.adjusted_p_value),
        ]
        for one in found.comparisons
    ]
    note = (
        f"{of_difference(found)}; two-sided p-value of no difference; corrected for the number of finalists: "
        f"{found.correction.capitalize()}. {verdict(found)}"
    )
    head = ["finalist", "metric", difference, "p-value", "corrected p-value"]
    return PageTable(head, rows, (0, 1), notes=[note])


def refit(made: Refitted, level: float) -> PageTable:
    """Return the model that was refit on training and validation events, beside the confirmed trainings."""
    head, rows = refit_rows(made.found, made.candidate, made.confirmed_events)
    note = f"Test split. {refit_difference(made.found, made.both, level)} {WHAT_SPEAKS}"
    return PageTable(
        head, rows, (0,), title=f"{made.found.trial} refit on training and validation events", notes=[note]
    )


def variations(found: Confirmation) -> PageTable:
    """Return every contender under each systematic variation of the test split; without rows where there is none."""
    words = metric_words(nominal_key(found.metric)).removeprefix("test ")
    seeds = count_words(len(found.seeds), "seed")
    note = (
        f"The same models on varied events of the test split: {words}, mean ± s.d. over {seeds}; "
        "minus nominal ± its standard error, paired by seed and by the events that both have. Inputs vary before they "
        "are scaled."
    )
    lost = worst_variations(found)
    notes = [note, *([f"{'; '.join(lost)}."] if lost else [])]
    return PageTable(
        list(VARIATION_HEAD), variation_rows(found), (0, 1, 2), title="Systematic variations", notes=notes
    )


def _estimate(value: Estimate, sign: str = "") -> str:
    return estimated(value.mean, value.sd, value.low, value.high, sign)


def _p_value(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def working_points(scores: Scores) -> PageTable:
    """Return cuts at the signal efficiencies of the metrics."""
    seeds = scores.seeds > 1
    head = ["contender", "ε_s", "log-odds ≥", "ε_b", "1/ε_b"]
    head += ["s.d. over seeds", "statistical error"] if seeds else ["statistical error"]
    rows = []
    for one in scores.contenders:
        for place, first in enumerate(one.runs[0].points):
            points = [run.points[place] for run in one.runs]
            rows.append([one.name, f"{first.percent / 100:g}", *_point(points, seeds=seeds)])
    note = (
        "Mean over seeds; the statistical error is that of one training. " if seeds else ""
    ) + "Log-odds ln p − ln(1 − p) of the signal. ≥: no background event passes, so that one is taken to."
    ties = [point.tied for one in scores.contenders for run in one.runs for point in run.points]
    if any(ties):
        note += (
            f" *: up to {max(ties):,} background events have exactly the score of the cut and are counted as passing, "
            "which decides the figure: a model or precision with fewer distinct scores cannot tell more."
        )
    return PageTable(head, rows, notes=[f"{scores.split.capitalize()}. {note}"])


def _point(points: list[WorkingPoint], *, seeds: bool) -> list[str]:
    rejection, sd = mean_and_sd([point.rejection for point in points])
    error, threshold, background = np.mean(
        [(point.error, point.log_odds, point.background_efficiency) for point in points], axis=0
    )
    limit = "≥ " if any(point.limit for point in points) else ""
    ties = " *" if any(point.tied for point in points) else ""
    return [
        f"{float(threshold):.3f}",
        f"{float(background):.3g}",
        f"{limit}{float(rejection):.4g}{ties}",
        *([_two_digits(float(sd))] if seeds else []),
        _two_digits(float(error)),
    ]


def _two_digits(error: float) -> str:
    digits = decimals(error, error)
    return "0" if digits is None else fixed(error, digits)


def accuracies(scores: Scores) -> PageTable:
    """Return accuracies of signal against background at half, at the best threshold, and with equal classes."""
    head = ["contender", "at 0.5", "best", "at threshold", "mean of both classes at 0.5", "larger class"]
    half = len(THRESHOLDS) // 2
    rows = []
    for one in scores.contenders:
        mean, error = mean_and_error(
            [run.accuracy[0] for run in one.runs], [run.accuracy[1] for run in one.runs]
        )
        balanced, spread = mean_and_sd([run.balanced for run in one.runs])
        best = int(mean.argmax())
        rows.append(
            [
                one.name,
                plus_minus(float(mean[half]), float(error[half])),
                plus_minus(float(mean[best]), float(error[best])),
                f"{THRESHOLDS[best]:g}",
                plus_minus(float(balanced[half]), float(spread[half])),
                f"{larger_class(scores):.4g}",
            ]
        )
    of_both = "; the mean of both classes ± s.d. over seeds" if scores.seeds > 1 else ""
    note = (
        f"Accuracy, {scores.split}, ± {scores.error_words('the binomial error')}{of_both}. A guess of the "
        "larger class alone has that class's share. The best threshold was looked for on these events."
    )
    return PageTable(head, rows, notes=[note])


def in_bins(data: ReportData, scores: Scores) -> PageTable:
    """Return efficiency and rejection at the study's working points in the bins of each quantity."""
    points = shown_points(data)
    head = ["contender", "bin", "signal", "background"]
    for percent in points:
        head += [f"ε_s at {percent / 100:g}", f"1/ε_b at {percent / 100:g}"]
    rows = []
    for one in scores.shown:
        for place, division in enumerate(scores.divisions):
            if division.kinds:
                continue
            for part in range(division.parts):
                counts = one.runs[0].parts[place]
                row = [one.name, f"{division.words}: {division.words_of(part)}"]
                row += [f"{counts.signal[part]:,}", f"{counts.background[part]:,}"]
                for percent in points:
                    row += _efficiency_and_rejection(one, place, part, percent)
                rows.append(row)
    return PageTable(head, rows, (0, 1), notes=[_errors_of_parts(scores)])


def of_kinds(data: ReportData, scores: Scores) -> PageTable:
    """Return the rejection of each kind of background at the study's working points."""
    points = shown_points(data)
    head = ["contender", "background", "events", *(f"1/ε_b at ε_s = {percent / 100:g}" for percent in points)]
    rows = []
    for one in scores.shown:
        for place, division in enumerate(scores.divisions):
            for part, name in enumerate(division.kinds):
                events = f"{one.runs[0].parts[place].background[part]:,}"
                cells = [_efficiency_and_rejection(one, place, part, percent)[1] for percent in points]
                rows.append([one.name, name, events, *cells])
    return PageTable(head, rows, (0, 1), notes=[_errors_of_parts(scores)])


def _efficiency_and_rejection(one: Scored, place: int, part: int, percent: int) -> list[str]:
    row = REJECTION_PERCENTS.index(percent)
    runs = [run.parts[place] for run in one.runs]
    both = [
        mean_and_error(
            [run.efficiency[row, part] for run in runs], [run.efficiency_error[row, part] for run in runs]
        ),
        mean_and_error(
            [run.rejection[row, part] for run in runs], [run.rejection_error[row, part] for run in runs]
        ),
    ]
    words = ["–" if np.isnan(mean) else plus_minus(float(mean), float(error)) for mean, error in both]
    limit = words[1] != "–" and any(run.limit[row, part] for run in runs)
    return [words[0], ("≥ " if limit else "") + words[1]]


def _errors_of_parts(scores: Scores) -> str:
    errors = f"± {scores.error_words('the binomial error')}, without that of the cut"
    weighted = ", weighted" if scores.contenders[0].runs[0].effective is not None else ""
    return (
        f"{scores.split.capitalize()}{weighted}; cuts are those of the whole split at the signal efficiency that is "
        f"named; {errors}. ≥: no background event passes (in some run), so that one is taken to. The numbers of events "
        "are unweighted."
    )


def per_class(scores: Scores) -> PageTable:
    """Return each class against the rest."""
    rows = []
    for one in scores.shown:
        for label, name in enumerate(scores.classes):
            rows.append([one.name, name, *_against_rest(one, label)])
    head = ["contender", "class", "recall", "AUC against the rest", "1/ε_b at ε_s = 0.5"]
    note = f"By the log-odds of the class; ± {scores.error_words('the statistical error')}; {scores.split}."
    return PageTable(head, rows, (0, 1), title="Each class against the rest", notes=[note])


def _against_rest(one: Scored, label: int) -> list[str]:
    own = [run.one_versus_rest[label] for run in one.runs]
    recall, auc, rejection = (
        plus_minus(float(mean), float(error))
        for mean, error in (
            mean_and_error([o.recall for o in own], [o.recall_error for o in own]),
            mean_and_error([o.auc for o in own], [o.auc_error for o in own]),
            mean_and_error([o.half.rejection for o in own], [o.half.error for o in own]),
        )
    )
    return [recall, auc, ("≥ " if any(o.half.limit for o in own) else "") + rejection]


def provenance(data: ReportData) -> PageTable:
    """Return what a result depends on."""
    started = data.started
    facts = {
        "search id": started.search_id,
        "started": datetime.fromtimestamp(started.time, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "dataset fingerprint": started.dataset_fingerprint,
        "sampler": started.sampler,
        "early stopping": started.stopping,
        "seed": str(started.seed),
        "ranks by": f"{started.mode} {started.metric}"
        + (f", min {started.second_objective}" if started.second_objective else ""),
        **{f"space: {name}": str(one) for name, one in started.space.items()},
        **{
            key.replace("version_", "version of ").replace("_", " "): value
            for key, value in started.provenance.items()
        },
    }
    if data.manifest is not None:
        facts["dataset written by"] = data.manifest.created_by
    return PageTable(["fact", "value"], [[key, value] for key, value in facts.items()], (0, 1))
