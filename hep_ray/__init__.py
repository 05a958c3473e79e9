"""hep_ray: hyperparameter search for particle-physics classifiers, distributed on Ray.

Importing this package loads neither Ray nor torch; each name below loads what it needs when used.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hep_ray.api import Result, plan, run
    from hep_ray.conversion.convert import convert
    from hep_ray.dataset.dataset import Dataset
    from hep_ray.promote.package import load_model
    from hep_ray.search.cli import main
    from hep_ray.search.definition import Preset, Search
    from hep_ray.search.execute import run_search
    from hep_ray.search.options import SearchOptions
    from hep_ray.search.parameters import Choice, Integer, LogUniform, Mapped, Uniform
    from hep_ray.search.plan import prepare
    from hep_ray.search.published import Published, StudyTable
    from hep_ray.search.space import Space
    from hep_ray.side_by_side import compare
    from hep_ray.signature import Range

__all__ = [
    "Choice",
    "Dataset",
    "Integer",
    "LogUniform",
    "Mapped",
    "Preset",
    "Published",
    "Range",
    "Result",
    "Search",
    "SearchOptions",
    "Space",
    "StudyTable",
    "Uniform",
    "compare",
    "convert",
    "load_model",
    "main",
    "plan",
    "prepare",
    "run",
    "run_search",
]

_HOME = {
    "compare": "hep_ray.side_by_side",
    "plan": "hep_ray.api",
    "Result": "hep_ray.api",
    "run": "hep_ray.api",
    "convert": "hep_ray.conversion.convert",
    "Dataset": "hep_ray.dataset.dataset",
    "load_model": "hep_ray.promote.package",
    "main": "hep_ray.search.cli",
    "Preset": "hep_ray.search.definition",
    "Published": "hep_ray.search.published",
    "Search": "hep_ray.search.definition",
    "Choice": "hep_ray.search.parameters",
    "Integer": "hep_ray.search.parameters",
    "LogUniform": "hep_ray.search.parameters",
    "Mapped": "hep_ray.search.parameters",
    "Uniform": "hep_ray.search.parameters",
    "SearchOptions": "hep_ray.search.options",
    "Range": "hep_ray.signature",
    "prepare": "hep_ray.search.plan",
    "run_search": "hep_ray.search.execute",
    "Space": "hep_ray.search.space",
    "StudyTable": "hep_ray.search.published",
}
"""Public name → the module it lives in."""
_FORMER = {"By": "Mapped"}
"""Former public name → what it is called now."""


if "IPython" in sys.modules:  # Ray, when it is imported, and tqdm ask for ipywidgets; nothing here needs them
    warnings.filterwarnings("ignore", message="IProgress not found")
    logging.getLogger("ray.widgets.util").addFilter(lambda record: record.levelno > logging.INFO)
if "HEP_RAY_LOG_LEVEL" in os.environ:
    importlib.import_module("hep_ray.log").show(os.environ["HEP_RAY_LOG_LEVEL"])


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        warnings.warn(f"{name} is now called {_FORMER[name]}", DeprecationWarning, stacklevel=2)
        name = _FORMER[name]
    if name == "__version__":
        from importlib.metadata import version

        return version("hep-ray")
    if name not in _HOME:
        raise AttributeError(f"module 'hep_ray' has no attribute '{name}'; it has: {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)
