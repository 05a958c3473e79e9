"""Named errors: each says which rule was broken, then the value that broke it.

Two families decide the exit code of every command: `InputError` (2: wrong usage or
input, mend it and type the command again) and the rest of `HepRayError` (1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

ALIKE = 0.65
"""Share of two names that must agree for one to be meant by the other: of `width` and `depth` it is 0.6."""


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return ` (did you mean 'eta'?)` where one of the known names is near or begins alike, and nothing otherwise."""
    given, known = str(name), list(known)
    nearest = difflib.get_close_matches(given, known, n=1, cutoff=ALIKE) or [
        one for one in known if one and given and (one.startswith(given) or given.startswith(one))
    ]
    return f" (did you mean '{nearest[0]}'?)" if nearest else ""


class HepRayError(Exception):
    """Root of everything hep_ray raises on purpose; the command line prints it without a traceback."""

    exit_code: ClassVar[int] = 1


class InputError(HepRayError):
    """Input that breaks a stated rule: words that the user typed, or data they gave."""

    exit_code: ClassVar[int] = 2


class DuplicateName(InputError):
    """Two components ask for the same name in one registry."""


class UnknownName(InputError):
    """A name that no component of its kind carries; the message lists those that exist."""


class InvalidConfig(InputError):
    """A configuration value is outside what its component accepts."""


class InvalidSpace(InputError):
    """A search space holds a key that the trainer would not read, or a value it would refuse."""


class InvalidSchema(InputError):
    """A dataset's schema contradicts itself."""


class InvalidEvents(InputError):
    """Events that cannot be trained on: wrong shape, NaN, one class only, a label outside the classes."""


class ShardMismatch(InputError):
    """A shard is missing, empty, truncated, or is not the one its manifest describes."""


class PluginFailed(InputError):
    """A file that registers components cannot be sent to trials, imported there, or is another version there."""


class UntrustedCode(InputError):
    """A model needs code that came with it, and nobody has said that this code is trusted."""


class StreamBroken(HepRayError):
    """Ray Data handed on pieces of events other than one by one, whole, and in their order."""


class NotFitted(HepRayError):
    """Values were to be scaled before the scaler was fitted on the training split."""


class UnreadableInput(InputError):
    """An input file is absent or is not in the layout that its reader expects."""


class NoEvents(UnreadableInput):
    """An input is in its format and holds no events; among others it is left out."""


class MissingPackage(InputError):
    """An optional package is needed for what was asked; the message says how to install it."""


class Infeasible(InputError):
    """The resources asked for can never be granted by this cluster; the message holds the sums."""


class StorageError(InputError):
    """The storage cannot be written, or already holds something that would be overwritten."""


class StorageHeld(StorageError):
    """Another process is at work on the same file or folder; the message names it."""


class CannotResume(InputError):
    """There is no search to resume, or it is not the search that this command describes."""


class CannotConfirm(InputError):
    """A search that cannot be confirmed as asked: not ended, nothing completed, another dataset, no such baseline."""


class UnknownSearch(UnknownName, StorageError):
    """A search that is known by no name, folder or script; the message lists those that are."""


class NotRun(StorageError, CannotConfirm):
    """A search whose script is there, and that was not run in this storage."""


class NonFiniteLoss(HepRayError):
    """The loss became NaN or infinite; the message names the epoch, the step and the learning rate."""


class NotDeterministic(InputError):
    """A training that is to be deterministic has an operation without a deterministic form; the message names it."""


class CorruptCheckpoint(HepRayError):
    """A checkpoint cannot be read back, or belongs to another trial."""


class WorkersLost(HepRayError):
    """The worker group of a trial, or the process of a task, could not be kept; the message holds Ray's cause."""


class TrackingUnavailable(HepRayError):
    """The tracking server cannot be reached; the journal keeps every record until it can."""


class ClusterUnavailable(HepRayError):
    """The Ray cluster that was named, or that runs here, does not take this driver; the message says why."""


class Interrupted(HepRayError):
    """A search was interrupted; everything finished is kept and --resume goes on."""


class SearchFailed(HepRayError):
    """Every trial of a search failed; the message carries the commonest cause."""


class AuditFailed(HepRayError):
    """Something of a search is missing, there twice, different from elsewhere, or left over; all was listed."""


class NothingCompleted(InputError):
    """A search of which no trial has completed yet: there is nothing to report or to confirm."""


class SimulationFailed(HepRayError):
    """A generator refuses its settings or cannot turn its hard events into particles."""


class PromotionRefused(HepRayError):
    """A model must not become the champion; the message holds every reason."""


class ModelMismatch(InputError):
    """Events lack a column that a model was trained on, or have it in another shape, type or unit."""


class CorruptModel(HepRayError):
    """The folder of a promoted model is not whole, or its weights are not those it was written with."""


class ExportFailed(HepRayError):
    """A model cannot be written in another format, or what was written does not give its scores."""
