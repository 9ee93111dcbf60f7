"""Child processes made by fork: each one a life of the system under test, which may end at any point."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

from txpatterns.database.engines import make_engine

_HANG = 30
"""Seconds of real time after which a child that does not end is killed, with its stacks in the log."""


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
    """A process that runs a function and ends."""

    def __init__(self, work: Callable[[], None], output: Path) -> None:
        self._output = output
        output.write_bytes(b"")
        self.pid = fork()
        if self.pid == 0:
            _live(work, output)

    def wait(self) -> Ending:
        """Wait for its end, however it was stopped in between."""
        self.proceed()
        _, status = os.waitpid(self.pid, 0)
        return self._ending(status)

    def wait_until_stopped(self) -> Ending | None:
        """Wait until it stops itself, and give None; or give its ending when it ends without."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        return None if os.WIFSTOPPED(status) else self._ending(status)

    def ended_or_silent(self, heart: mmap, seconds: float) -> Ending | None:
        """Give its ending when it ends; None when it has come to no further point for so many seconds."""
        beats, since = heart[:], time.monotonic()
        while time.monotonic() - since < seconds:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return self._ending(status)
            if heart[:] != beats:
                beats, since = heart[:], time.monotonic()
            time.sleep(0.002)
        return None

    def proceed(self) -> None:
        """Let it go on after a stop."""
        os.kill(self.pid, signal.SIGCONT)

    def _ending(self, status: int) -> Ending:
        return Ending(os.waitstatus_to_exitcode(status), self._output.read_text(errors="replace"))


def warm_up(url: str) -> None:
    """Load what every child needs, and keep the collector away from it, so that a fork copies little."""
    make_engine(url)
    gc.collect()
    gc.freeze()


def fork() -> int:
    """Fork, whatever other threads there are: the child uses nothing that they may hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _live(work: Callable[[], None], output: Path) -> None:
    """Be the child; never returns, and never runs the parent's finalizers."""
    code = 70
    try:
        _redirect(output)
        faulthandler.enable(2)
        faulthandler.dump_traceback_later(_HANG, exit=True, file=2)
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
