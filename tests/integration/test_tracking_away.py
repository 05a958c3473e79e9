"""A whole search while MLflow is away: trained, ranked, told, and handed over later."""

import io
import json

import pytest
from rich.console import Console

from hep_ray.errors import TrackingUnavailable
from hep_ray.search.audit import hand_over
from hep_ray.search.definition import Preset, Search
from hep_ray.search.execute import run_search
from hep_ray.search.options import SearchOptions
from hep_ray.search.parameters import LogUniform
from hep_ray.search.plan import prepare
from hep_ray.search.space import Space
from hep_ray.tracking.client import default_uri, find_runs, open_client
from hep_ray.tracking.mlflow import PATIENCE
from hep_ray.tracking.mlflow_writer import TRIAL_TAG

pytestmark = pytest.mark.ray

SEARCH = Search(
    name="away",
    task="toy",
    title="A toy.",
    space=Space(
        model="cnn", loss="hinge", optimizer="adam", learning_rate=LogUniform(1e-4, 1e-2), batch_size=16
    ),
    presets={"smoke": Preset(trials=3, epochs=2)},
)


@pytest.mark.slow
@pytest.mark.ci
def test_a_search_whose_server_is_away_all_along(ray_session, make_dataset, tmp_path, monkeypatch):
    monkeypatch.setenv(PATIENCE, "0.1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    storage, log = tmp_path / "runs", io.StringIO()
    plan = prepare(
        SEARCH,
        SearchOptions(
            data=make_dataset(events=96, size=28),
            storage=storage,
            preset="smoke",
            tracking_uri="http://ana:s3cret@127.0.0.1:9",
        ),
    )
    result = run_search(plan, console=Console(file=log))

    assert isinstance(result.untracked, TrackingUnavailable)
    assert "hep-ray track away" in str(result.untracked)
    assert len(json.loads(result.leaderboard.read_text())["trials"]) == 3
    told = log.getvalue()
    assert told.count("does not answer") == 1
    assert told.count("completed after") + told.count("stopped after") == 3
    kept = "".join(path.read_text() for path in (storage / "away").glob("*.json*"))
    assert "s3cret" not in told + kept + str(result.untracked)

    hand_over(storage / "away", default_uri(storage))
    client = open_client(default_uri(storage))
    experiment = client.get_experiment_by_name("away").experiment_id
    assert sum(TRIAL_TAG in tags for _, tags in find_runs(client, experiment, "")) == 3
