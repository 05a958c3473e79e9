"""A search as its options ask for it: in which precision, within which constraints, and what can come to no end."""

from __future__ import annotations

import dataclasses

from hep_ray.errors import InvalidConfig
from hep_ray.models import is_fitted
from hep_ray.registry import check_name
from hep_ray.search.constraints import limits_of, words_of
from hep_ray.search.definition import Preset, Search
from hep_ray.search.options import SearchOptions
from hep_ray.training.precision import chosen_precision


def with_constraints(search: Search, options: SearchOptions) -> Search:
    """Return a search with the constraints of its options beside its own, each figure once.

    Raises:
        InvalidConfig: one is none, or two contradict each other.
    """
    limits = limits_of((*search.constraints, *(options.constraint or ())))
    each = tuple(words_of({name: limit}) for name, limit in limits.items())
    return dataclasses.replace(search, constraints=each)


def in_precision(
    search: Search, preset: Preset, options: SearchOptions
) -> tuple[Search, Preset, SearchOptions]:
    """Return a search with the precision that was asked for in all its networks, references too, and options with it.

    So a resumed search keeps it, or is refused where the processor lacks it. Where all models are fitted `auto` has
    nothing to choose.

    Raises:
        InvalidConfig: a precision is named, and no model is a network; or the processor lacks it.
    """
    space, asked = preset.space or search.space, options.precision
    if asked is None or "model" not in space.parameters:
        return search, preset, options
    references = search.points_to_evaluate
    models = {str(one["model"]) for one in references if "model" in one}
    models.update(str(name) for name in space.parameters["model"].corners())
    if all(is_fitted(name) for name in models):
        if asked != "auto":
            raise InvalidConfig(
                f"--precision {asked} is that of networks, and all models of {search.name} are fitted "
                f"({', '.join(sorted(models))}): leave it out"
            )
        return search, preset, dataclasses.replace(options, precision=None)
    precision = chosen_precision(asked, sorted(models), gpus=options.gpus_per_trial > 0)
    published = preset.published
    if published is not None and precision != "float32":
        published = published.with_ours(f"products in {precision}, sums and weights in float32 (--precision)")
    if any(not is_fitted(str(name)) for name in space.parameters["model"].corners()):
        space = space.replace(precision=precision)
    references = tuple(
        one if is_fitted(one.get("model")) else {**one, "precision": precision} for one in references
    )
    return (
        dataclasses.replace(search, points_to_evaluate=references),
        dataclasses.replace(preset, space=space, published=published),
        dataclasses.replace(options, precision=precision),
    )


def check_baseline(search: Search) -> None:
    """Refuse a baseline of parameters that no trial has; one that is outside the space is trained by `confirm` anew.

    Raises:
        UnknownName: it names such a parameter.
    """
    spaces = [one for one in (search.space, *(preset.space for preset in search.presets.values())) if one]
    known = {
        name for one in (*(space.parameters for space in spaces), *search.points_to_evaluate) for name in one
    }
    for name in search.baseline:
        check_name("parameter in the baseline", name, sorted(known))


def with_gain_per(options: SearchOptions, preset: Preset) -> SearchOptions:
    """Return options that say what a gain is weighed against: seconds where time ends a search by learning curves."""
    in_time = options.time_budget is not None and preset.sampler == "curves"
    return dataclasses.replace(options, gain_per=options.gain_per or ("second" if in_time else "epoch"))


def check_read(preset: Preset, options: SearchOptions) -> None:
    """Refuse an option that only sampler curves reads, beside another.

    Raises:
        InvalidConfig: it would do nothing.
    """
    if options.gain_per == "second" and preset.sampler != "curves":
        raise InvalidConfig(
            f"--gain-per second would do nothing, sampler '{preset.sampler_name}' weighs no gain against its cost: "
            "leave it out, or take sampler 'curves'"
        )
    if options.until_no_gain and preset.sampler != "curves":
        raise InvalidConfig(
            f"--until-no-gain would do nothing, sampler '{preset.sampler_name}' does not know what is left to gain: "
            "leave it out, or take sampler 'curves'"
        )


def check_end(preset: Preset, options: SearchOptions) -> None:
    """Refuse a search that neither a number of trials nor a time budget would end.

    Raises:
        InvalidConfig: it would not.
    """
    if preset.endless and options.time_budget is None:
        raise InvalidConfig(
            f"preset '{options.preset}' states no number of trials, and '{preset.sampler_name}' draws for ever: "
            'type --time-budget 2h, or --trials 20 (time_budget="2h" or trials=20 of run)'
        )
