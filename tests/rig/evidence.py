"""What long runs leave behind: a line at the end of pytest's output, and figures as JSON in the folder TXP_EVIDENCE."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rig.machine import machine

FOLDER = "TXP_EVIDENCE"

told = pytest.StashKey[list[str]]()
"""Lines for the end of the run, from whatever process of it."""


def keep(name: str, figures: Mapping[str, Any], servers: Iterable[object] = ()) -> None:
    """Write the figures of a run, with the day, the versions and the machine, if a folder for them is given."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    found = {**machine(), "servers": [str(server) for server in servers], **figures}
    path = Path(folder) / f"{found['when'][:10]}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
