"""Which search to type after a dataset was made; scripts are read, not run."""

from __future__ import annotations

import re
from pathlib import Path

from hep_ray.dataset.events import EventSchema

SCRIPTS = (Path("searches"), Path(__file__).resolve().parents[2] / "searches")
"""Where search scripts lie: here, else in the checkout that hep_ray is installed from."""
CNN_PIXELS = 26
"""Smallest image that the network of `cnn_loss` takes."""
FIRST = "cnn_loss"
"""The search of the tutorial."""


def suggested_search(schema: EventSchema) -> str | None:
    """Script of a search meant for events of this task, else the one that takes any image, else None."""
    folder = next((one for one in SCRIPTS if one.is_dir()), None)
    if folder is None:
        return None
    wanted = re.compile(rf"""^\s*task=["']{re.escape(schema.task)}["']""", re.MULTILINE)
    for script in sorted(folder.glob("*.py")):
        if wanted.search(script.read_text(encoding="utf-8")):
            return str(script)
    suits = any(column.name == "image" and min(column.shape[:2]) >= CNN_PIXELS for column in schema.columns)
    return str(folder / f"{FIRST}.py") if suits and (folder / f"{FIRST}.py").is_file() else None
