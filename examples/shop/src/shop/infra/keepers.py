"""Who keeps a folder of servers: noted in its lock, for whoever finds it kept after `shop infra up` was killed."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO

OURSELVES = "shop infra up"
_PROCESSES = Path("/proc")


class Kept(Exception):
    """Others keep the folder; the text says who, and how they are ended."""


@dataclass(frozen=True, slots=True)
class Keeper:
    """A process that keeps the folder: `shop infra up`, or a server that outlived it."""

    name: str
    pid: int
    ends_by: str
    """The signal's name, without SIG."""


@contextmanager
def alone_in(data: Path) -> Iterator[IO[str]]:
    """Keep a folder; gives its lock. A process that inherits it keeps the folder, too.

    Raises:
        Kept: others do.
    """
    with (data / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Kept(_refusal(data, _read(lock))) from None
        lock.truncate(0)
        note(lock, OURSELVES, os.getpid(), signal.SIGTERM)
        yield lock


def note(lock: IO[str], name: str, pid: int, ends_by: signal.Signals) -> None:
    """Write down who keeps the folder from now on."""
    lock.write(f"{pid} {ends_by.name.removeprefix('SIG')} {name}\n")
    lock.flush()


def _read(lock: IO[str]) -> list[Keeper]:
    """Give those that were noted, in that order, and keep the folder still."""
    lock.seek(0)
    found = []
    for line in lock:
        pid, ends_by, name = line.rstrip("\n").split(" ", 2)
        found.append(Keeper(name, int(pid), ends_by))
    return [keeper for keeper in found if _keeps(keeper.pid, lock)]


def _keeps(pid: int, lock: IO[str]) -> bool:
    """Whether a process has the lock open: its number alone may be somebody else's by now."""
    if not (_PROCESSES / "self" / "fd").exists():
        return _lives(pid)
    mine = os.fstat(lock.fileno())
    with suppress(OSError):  # it has ended, or is somebody else's
        for handle in (_PROCESSES / str(pid) / "fd").iterdir():
            with suppress(OSError):  # it was closed meanwhile
                if os.path.samestat(handle.stat(), mine):
                    return True
    return False


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _refusal(data: Path, keepers: list[Keeper]) -> str:
    if not keepers:
        return f"servers run on {data} already. End them, or choose another folder with --data."
    if keepers[0].name == OURSELVES:
        pid = keepers[0].pid
        return (
            f"servers run on {data} already, under {OURSELVES} (process {pid}). "
            f"End it with Ctrl-C there, or by: kill {pid}\nOr choose another folder with --data."
        )
    named = ", ".join(f"{each.name} (process {each.pid})" for each in keepers)
    last_first = groupby(reversed(keepers), key=lambda keeper: keeper.ends_by)
    kills = "; ".join(" ".join(["kill", f"-{by}", *(str(each.pid) for each in its)]) for by, its in last_first)
    return (
        f"servers run on {data} still, because {OURSELVES} was killed: {named}.\n"
        f"End them, and start again; their data stays:\n  {kills}"
    )
