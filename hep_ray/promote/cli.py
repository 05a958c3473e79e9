"""`hep-ray promote`: the gate, then the registry."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated, cast

import typer

from hep_ray.console import result_console
from hep_ray.errors import InvalidConfig
from hep_ray.flags import STORAGE, Data, DryRun, Plugins, SearchName, Storage, TrackingUri, typed
from hep_ray.masking import mask

if TYPE_CHECKING:
    from hep_ray.training.calibration import Method


class CalibrationMethod(StrEnum):
    """Choices of `--calibration`."""

    TEMPERATURE = "temperature"
    PLATT = "platt"
    ISOTONIC = "isotonic"
    OFF = "off"


def promote(
    context: typer.Context,
    search: SearchName,
    storage: Storage = STORAGE,
    data: Data = None,
    tracking_uri: TrackingUri = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the registered model. Default: the dataset's task.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. Default: a GPU where there is one; as it was confirmed.")
    ] = None,
    accept_reused_test: Annotated[
        bool,
        typer.Option(
            "--accept-reused-test",
            help="Promote although the test split was read for this search before; corrected for, and written in "
            "the model card.",
        ),
    ] = False,
    level: Annotated[
        float,
        typer.Option(help="One-sided rate of false alarms: 0.025 lets one in forty pass that is no better."),
    ] = 0.025,
    calibration: Annotated[
        CalibrationMethod,
        typer.Option(
            help="Map from scores to probabilities that is fitted on the validation split and stored with the model, "
            "for `hep-ray predict --calibrated`."
        ),
    ] = CalibrationMethod.TEMPERATURE,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Hand on the models of so many folds in place of one, as `hep-ray folds` left them: an event of the "
            "dataset gets the score of the model that never saw it, any other the mean.",
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit",
            help="Hand on the model that `hep-ray refit` trained on training and validation events, in place of the "
            "confirmed one.",
        ),
    ] = False,
    plugin: Plugins = None,
    dry_run: DryRun = False,
) -> None:
    """Register the winner of a confirmed search as the champion, if it deserves it.

    The candidate is the finalist, or the ensemble of a confirmation with --ensemble, with the best validation metric
    over the confirmation's seeds. It is refused unless it beats the champion (without one: the baseline) on the test
    split beyond the noise of seeds and events at its own --level, its provenance is complete, dataset and checkpoint
    are those that were confirmed, the test split has not served a choice before, and the registered form gives the
    confirmed scores to 1e-5. The former champion becomes `previous`.

    Example: `hep-ray promote cnn_loss --dry-run`, which explains the verdict and exits with 1 if it is a refusal; then
    without it.

    Raises:
        InvalidConfig: the models of folds, or a refit, are to be calibrated; both are asked for; or either of an
            ensemble.
        UnknownSearch: there is no such search.
        StorageError: it is not confirmed.
        TrackingUnavailable: MLflow does not answer.
        PromotionRefused: a check failed.
    """
    from hep_ray.confirm.confirmation import load_confirmation
    from hep_ray.plugins import import_named
    from hep_ray.search.find import find_search
    from hep_ray.tracking.client import default_uri

    say = partial(result_console().print, soft_wrap=True, markup=False, highlight=False)
    import_named(plugin or ())
    found = find_search(search, storage)
    method = None if calibration is CalibrationMethod.OFF else cast("Method", calibration.value)
    source = context.get_parameter_source("calibration")
    if method is not None and source is not None and source.name == "COMMANDLINE":
        if folds is not None:
            raise InvalidConfig(
                f"the models of folds are not calibrated: leave out --calibration {method}, or --folds"
            )
        if refit:
            raise InvalidConfig(
                "a calibration is fitted on validation events, and a refit has learnt from them: leave out "
                f"--calibration {method}, or --refit"
            )
    load_confirmation(found.folder)  # refused before torch is imported, which takes seconds
    from hep_ray.promote.run import Wishes
    from hep_ray.promote.run import promote as promote_search

    wishes = Wishes(
        data, tracking_uri, name, accept_reused_test, device, dry_run, level, method, folds, refit
    )
    done = promote_search(found.folder, wishes, report=lambda check: say(check.line))
    if done.version is None:
        answer = "would be promoted" if done.verdict.passed else "would be refused"
        say(f"'{done.verdict.candidate.name}' {answer} as {done.name}; nothing was registered")
        raise typer.Exit(0 if done.verdict.passed else 1)
    elsewhere = done.tracking_uri != default_uri(found.storage)
    following = typed(
        *("hep-ray", "predict", f"models:/{done.name}@champion", done.data, "--out", "scores"),
        storage=STORAGE if elsewhere else found.storage,
        tracking_uri=mask(done.tracking_uri) if elsewhere else None,
    )
    former = f"; version {done.previous} is now `previous`" if done.previous else ""
    words = "refit" if refit else done.verdict.candidate.words
    if folds is not None:
        words = f"models of {folds} folds"
    several = f", the {words}" if words else ""
    say(f"models:/{done.name}@champion is version {done.version.number}{several}{former}")
    say(f"next: {following}")
