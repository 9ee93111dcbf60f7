"""A Python child process that a test starts, listens to, and kills."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from rig import trees
from rig.watchdog import Watchdog

TESTS = Path(__file__).parent.parent


class Child:
    """`python -u …` with its output kept as lines. It ends with the block, and with the test run.

    The child can import what the tests can (`rig` among it).
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        watchdog: Watchdog,
        *,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.lines: list[str] = []
        """What it has printed so far, standard error included."""
        path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-u", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            start_new_session=True,
        )
        self._tree = psutil.Process(self._process.pid)
        self._watchdog = watchdog
        watchdog.watch(self.pid)
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name=f"output of {self.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, words: str, *, within: timedelta = timedelta(minutes=2), times: int = 1) -> str:
        """Wait until so many lines contain the words; returns the last of them.

        Raises:
            AssertionError: it ended, or time passed, without; the text has all that it printed.
        """
        with self._news:
            self._news.wait_for(lambda: self._ended or len(self._with(words)) >= times, within.total_seconds())
        found = self._with(words)
        if len(found) < times:
            how = f"ended with {self._process.poll()}" if self._ended else f"went on for {within}"
            raise AssertionError(f"the child {how} without printing {words!r} {times} times:\n{self.output}")
        return found[times - 1]

    def wait(self, *, within: timedelta = timedelta(minutes=2)) -> int:
        """Wait for its end; returns its exit code, negative for a signal."""
        try:
            code = self._process.wait(within.total_seconds())
        except subprocess.TimeoutExpired as late:
            raise AssertionError(f"the child went on for {within}:\n{self.output}") from late
        self._watchdog.forget(self.pid)
        self._reader.join(timeout=10)
        return code

    def kill9(self) -> None:
        """SIGKILL to it and to all that it started; returns when they are gone."""
        trees.kill(self._tree)
        self.wait()

    def sigterm(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """SIGSTOP; returns when it has stopped."""
        trees.pause(self._tree)

    def cont(self) -> None:
        trees.resume(self._tree)

    def close(self) -> None:
        """End it, and whatever it started and left behind. Twice is harmless."""
        trees.kill(self._tree)
        self.wait()
        if self._reader.is_alive():  # closing its pipe would then wait for ever
            raise RuntimeError(f"something that the child {self.pid} started goes on, and has its output open")
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def _with(self, words: str) -> list[str]:
        return [line for line in self.lines if words in line]

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
