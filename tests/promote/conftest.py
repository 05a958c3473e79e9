"""Confirmed searches, trained once and copied for every test."""

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

from hep_ray.tracking.client import default_uri

_SPEC = importlib.util.spec_from_file_location("confirmed", Path(__file__).with_name("confirmed.py"))
confirmed = importlib.util.module_from_spec(_SPEC)
sys.modules["confirmed"] = confirmed
_SPEC.loader.exec_module(confirmed)


@pytest.fixture(scope="session")
def searches(tmp_path_factory):
    """A storage with three confirmed searches (`deep` beats `shallow` beats `linear`) and their dataset."""
    folder = tmp_path_factory.mktemp("searches")
    data = confirmed.write_dataset(folder / "data")
    confirmed.confirm(folder / "runs", data, "deep", confirmed.DEEP)
    confirmed.confirm(folder / "runs", data, "shallow", confirmed.SHALLOW)
    confirmed.confirm(folder / "runs", data, "linear", {"hidden_layers": 0, "learning_rate": 2e-2})
    return folder


@pytest.fixture
def storage(searches, tmp_path):
    """A copy of that storage, to be spoilt."""
    shutil.copytree(searches / "runs", tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory):
    """One MLflow database for all tests of a session: making its tables takes seconds."""
    return default_uri(tmp_path_factory.mktemp("mlflow"))
