"""What is large and fetched once is kept in the user's cache, for this run and later ones."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path


def cached(name: str) -> Path:
    """Where a folder of this name is kept; it is there after `make_once`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "txpatterns-rig" / name


def make_once(folder: Path, make: Callable[[Path], None]) -> None:
    """Have a folder filled, or leave none. One fills it, and other runs wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            half = folder.with_name(f"{folder.name}.half")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            half.rename(folder)
