"""The live view while the driver goes on."""

import io
import itertools

import pytest
from rich.console import Console

from hep_ray.search.notebook import progress_html
from hep_ray.search.progress import Progress
from hep_ray.search.state import SearchState, TrialState
from hep_ray.tracking.records import EpochFinished, TrialPaused, TrialStarted


def test_the_view_can_be_drawn_while_trials_are_added():
    state, numbers = SearchState(), itertools.count(1)

    def add():
        number = next(numbers)
        trial_id = f"t{number:04d}"
        state.apply(TrialStarted(time=0.0, trial_id=trial_id, number=number, seed=0, params={}))
        state.apply(EpochFinished(time=0.0, trial_id=trial_id, metrics={"epoch": 1.0, "val_auc": 0.5}))

    class LookedAt(TrialState):
        """At the moment at which the view looks at it, the driver's thread adds a trial."""

        def __getattribute__(self, name):
            if name in {"finished", "history"}:
                add()
            return super().__getattribute__(name)

    first = TrialStarted(time=0.0, trial_id="t0000", number=0, seed=0, params={})
    state.trials["t0000"] = LookedAt(first)
    view = Progress(state, 100, 2, "val_auc", "max", Console(file=io.StringIO()))
    before = len(state.trials)
    console = Console(file=io.StringIO(), width=120)
    console.print(view._view())
    assert len(state.trials) > before + 3
    assert "t0000" in console.file.getvalue()


@pytest.mark.parametrize(
    ("ending", "words"), [(None, ""), ((0.81, 0.89, 0.93), ", in full 0.8900 (0.8100 to 0.9300) expected")]
)
def test_a_pause_says_where_the_trial_would_end(ending, words):
    state = SearchState()
    view = Progress(state, 100, 9, "val_auc", "max", Console(file=io.StringIO()))
    state.apply(TrialStarted(time=0.0, trial_id="t0000", number=0, seed=0, params={}))
    state.apply(EpochFinished(time=0.0, trial_id="t0000", metrics={"epoch": 1.0, "val_auc": 0.75}))
    line = view._line(TrialPaused(time=0.0, trial_id="t0000", epoch=1, ending=ending))
    assert line.endswith(f"t0000 pauses after epoch 1, val_auc 0.7500{words}")


def test_of_many_trials_those_that_have_trained_are_shown_and_the_rest_counted():
    state = SearchState()
    for number in range(40):
        state.apply(TrialStarted(time=0.0, trial_id=f"t{number:04d}", number=number, seed=0, params={}))
    page = progress_html(state, 40, 9, "val_auc", "max", "0:01")
    assert [name for name in state.trials if name in page] == [f"t{number:04d}" for number in range(32)]
    assert "8 more" in page
    state.apply(EpochFinished(time=0.0, trial_id="t0039", metrics={"epoch": 1.0, "val_auc": 0.75}))
    console = Console(file=io.StringIO(), width=120)
    console.print(Progress(state, 40, 9, "val_auc", "max", console)._view())
    told = console.file.getvalue()
    assert [name for name in state.trials if name in told] == [f"t{k:04d}" for k in [*range(31), 39]]
    assert "8 more" in told
