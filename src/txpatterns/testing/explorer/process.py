"""Child processes made by fork: each one a life of the system under test, which may end at any point."""

from __future__ import annotations

import faulthandler
import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

from txpatterns.runtime.collector import spare_what_is_loaded

_HANG = 60
"""Seconds of real time in which a process that is not paused comes to its next point, on any machine."""
_LOOK = 0.002
"""Seconds between two looks at a process."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended."""

    code: int
    """Its exit code, or the negative number of the signal that killed it."""
    output: str

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL


class Child:
    """A process that runs a function and ends. ``heart`` is memory in which it counts the points it comes to.

    With more than ``most`` of them it goes round in circles, and is ended.
    """

    def __init__(self, work: Callable[[], None], output: Path, heart: mmap, most: int) -> None:
        self._output = output
        self._heart = heart
        self._most = most
        output.write_bytes(b"")
        self.pid = os.fork()
        if self.pid == 0:
            _live(work, output)

    @property
    def beats(self) -> int:
        """How many points it has come to."""
        return int.from_bytes(self._heart[:])

    def wait(self) -> Ending:
        """Wait for its end."""
        ending = None
        while ending is None:
            ending = self.ended_or(lambda: False)
        return ending

    def ended_or(self, happened: Callable[[], bool]) -> Ending | None:
        """Wait until it ends, and give its ending; or None, when it stops itself or something else has happened.

        One that hangs, or goes on and on, is ended with its stacks in the log.
        """
        beats, since = self.beats, time.monotonic()
        while not happened():
            pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
            if pid:
                return None if os.WIFSTOPPED(status) else self._ending(status)
            if self.beats != beats:
                beats, since = self.beats, time.monotonic()
            if beats > self._most or time.monotonic() - since > _HANG:
                os.kill(self.pid, signal.SIGABRT)
                return self._ending(os.waitpid(self.pid, 0)[1])
            time.sleep(_LOOK)
        return None

    def proceed(self) -> None:
        """Let it go on after a stop."""
        os.kill(self.pid, signal.SIGCONT)

    def _ending(self, status: int) -> Ending:
        return Ending(os.waitstatus_to_exitcode(status), self._output.read_text(errors="replace"))


def load(modules: Iterable[str]) -> None:
    """Load what every child would load, and keep the collector away from it, so that a fork copies little."""
    for module in modules:
        with suppress(ImportError):  # made by another module, or for the child alone: it does so again
            importlib.import_module(module)
    spare_what_is_loaded()


def _live(work: Callable[[], None], output: Path) -> None:
    """Be the child; never returns, and never runs the parent's finalizers."""
    code = 70
    try:
        _redirect(output)
        faulthandler.enable(2)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the parent reads it in the log
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _redirect(output: Path) -> None:
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.__stdout__ = sys.__stderr__ = sys.stderr  # type: ignore[misc]
