"""Events on a device (here the CPU): smaller where nothing is lost, and the batches of the host, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hep_ray.dataset.values import SparseColumn
from hep_ray.loading.batches import Batch, BatchRequest, Events, EventWeights
from hep_ray.loading.on_device import DeviceEvents, on_device, smallest


def events(rows: int, seed: int = 0) -> Events:
    random = np.random.default_rng(seed)
    cells = (random.random((rows, 6, 5, 2)) * (random.random((rows, 6, 5, 2)) < 0.1)).astype(np.float32)
    return Events.from_arrays(
        {
            "cells": SparseColumn.from_dense(cells),
            "counts": SparseColumn.from_dense((cells > 0).astype(np.uint16) * 300),
            "exact": random.integers(-8, 8, (rows, 3)).astype(np.float64) / 4,
            "full": random.random((rows, 3)),
            "number": random.integers(0, 200, rows),
        },
        random.integers(0, 3, rows),
    )


def same(left: Batch, right: Batch) -> None:
    for name, values in left.inputs.items():
        assert values.dtype == right.inputs[name].dtype
        assert torch.equal(values, right.inputs[name])
    assert torch.equal(left.labels, right.labels)
    assert (left.weights is None) == (right.weights is None)
    if left.weights is not None and right.weights is not None:
        assert torch.equal(left.weights, right.weights)


@given(rows=st.integers(2, 60), size=st.integers(1, 20), ranks=st.integers(1, 2), seed=st.integers(0, 2**32))
def test_the_batches_are_those_of_the_host(rows: int, size: int, ranks: int, seed: int) -> None:
    host = events(rows)
    weights = EventWeights(np.array([0.5, 1.0, 2.0]))
    there = DeviceEvents.of(host, "cpu")
    chosen = [(host, there), (host.select(("cells",), weights), there.select(("cells",), weights))]
    for left, right in chosen:
        place: dict[str, Any] = {"rank": ranks - 1, "world_size": ranks}
        for request in (
            BatchRequest(size, seed=seed, epoch=3, shuffle=True, **place),
            BatchRequest(size, sharded=True, **place),
        ):
            for one, other in zip(left.batches(request), right.batches(request), strict=True):
                same(one, other)
    assert (there.class_sums(3) == host.class_sums(3)).all()
    assert there.head(1).labels.tolist() == host.labels[:1].tolist()


def test_columns_take_what_their_values_need() -> None:
    there = DeviceEvents.of(events(100), "cpu")
    held = {name: getattr(column, "values", None) for name, column in there.columns.items()}
    assert held["exact"].dtype == torch.float16  # quarters are exact in it
    assert held["full"].dtype == torch.float64
    assert held["number"].dtype == torch.uint8
    assert there.columns["cells"].index.dtype == torch.int16
    assert there.columns["cells"].value.dtype == torch.float32
    assert there.columns["counts"].value.dtype == torch.uint16  # int16 is no smaller
    assert there.nbytes < sum(np.asarray(values).nbytes for values in there.events.inputs.values()) / 3


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0.5, -0.0, 65504.0], np.float32), "float16"),
        (np.array([0.5, 65520.0], np.float32), "float32"),  # rounds to infinity in float16
        (np.array([1e-8], np.float32), "float32"),  # vanishes in it
        (np.array([0.1], np.float64), "float64"),
        (np.array([0.1], np.float32).astype(np.float64), "float32"),
        (np.array([0, 255], np.int64), "uint8"),
        (np.array([-1, 127], np.int64), "int8"),
        (np.array([-1, 255], np.int32), "int16"),
        (np.array([2**40], np.int64), "int64"),
        (np.array([2**15], np.uint16), "uint16"),
    ],
)
def test_the_smallest_dtype_gives_the_values_back(values: Any, dtype: str) -> None:
    small = smallest(values)
    assert small.dtype == dtype
    assert small.astype(values.dtype).tobytes() == values.tobytes()


def test_events_stay_with_the_host_where_the_device_is_its_own() -> None:
    given_events = events(5)
    assert on_device(given_events, "cpu", 1.0) is given_events
