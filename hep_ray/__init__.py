"""hep_ray: hyperparameter search for particle-physics classifiers, distributed on Ray.

Importing this package loads neither Ray nor torch; each name below loads what it needs when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hep_ray.conversion.convert import convert
    from hep_ray.dataset.dataset import Dataset
    from hep_ray.promote.package import load_model
    from hep_ray.search.cli import main
    from hep_ray.search.definition import Preset, Search, StudyTable
    from hep_ray.search.options import SearchOptions
    from hep_ray.search.parameters import By, Choice, Integer, LogUniform, Uniform
    from hep_ray.search.plan import prepare
    from hep_ray.search.run import run_search
    from hep_ray.search.space import Space

__all__ = [
    "By",
    "Choice",
    "Dataset",
    "Integer",
    "LogUniform",
    "Preset",
    "Search",
    "SearchOptions",
    "Space",
    "StudyTable",
    "Uniform",
    "convert",
    "load_model",
    "main",
    "prepare",
    "run_search",
]

_HOME = {
    "convert": "hep_ray.conversion.convert",
    "Dataset": "hep_ray.dataset.dataset",
    "load_model": "hep_ray.promote.package",
    "main": "hep_ray.search.cli",
    "Preset": "hep_ray.search.definition",
    "Search": "hep_ray.search.definition",
    "By": "hep_ray.search.parameters",
    "Choice": "hep_ray.search.parameters",
    "Integer": "hep_ray.search.parameters",
    "LogUniform": "hep_ray.search.parameters",
    "Uniform": "hep_ray.search.parameters",
    "SearchOptions": "hep_ray.search.options",
    "prepare": "hep_ray.search.plan",
    "run_search": "hep_ray.search.run",
    "Space": "hep_ray.search.space",
    "StudyTable": "hep_ray.search.definition",
}
"""Public name → the module it lives in."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hep_ray' has no attribute '{name}'; it has: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)
