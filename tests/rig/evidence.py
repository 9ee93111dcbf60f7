"""What long runs leave behind: a line at the end of pytest's output, and figures as JSON in the folder TXP_EVIDENCE."""

import json
import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

FOLDER = "TXP_EVIDENCE"

told = pytest.StashKey[list[str]]()
"""Lines for the end of the run, from whatever process of it."""

_PACKAGES = ("sqlalchemy", "asyncpg", "psycopg", "aiosqlite", "confluent-kafka", "pydantic")


def keep(name: str, figures: Mapping[str, Any], servers: Iterable[object] = ()) -> None:
    """Write the figures of a run, with the day, the versions and the machine, if a folder for them is given."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    found = {**machine(), "servers": [str(server) for server in servers], **figures}
    path = Path(folder) / f"{found['when'][:10]}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Say when and on what this runs."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "load": f"{os.getloadavg()[0]:.1f}",
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
