"""What every server of the rig can do. A new kind of server is a subclass: see redis.py, the smallest."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import ClassVar, Self

from rig.lookup import Found, Missing, find
from rig.ports import free_port, port_of
from rig.runners import ContainerRunner, Launch, ProcessRunner, Runner
from rig.waiting import wait_until
from rig.watchdog import Watchdog


class NotOurs(Missing):
    """The server came by URL: it may serve others too, so the rig does not stop, kill or pause it."""


class Server(ABC):
    """A real server, found by the look-up order and controlled if it is our own.

    `faults` counts what was done to it, each only after it was seen to have happened.
    """

    name: ClassVar[str]
    variable: ClassVar[str]
    """The environment variable with the URL of a server to use."""
    image: ClassVar[str | None] = None
    remedy: ClassVar[str]
    """The one command that provides this server on a machine without it."""
    not_ready: ClassVar[tuple[type[Exception], ...]]
    """What `probe` raises while the server is still starting."""

    def __init__(self, found: Found, watchdog: Watchdog) -> None:
        self.found = found
        self.version = "not started"
        self.faults: Counter[str] = Counter()
        self.port = port_of(found.where) if found.source == "environment" else free_port()
        self.folder = watchdog.folder / f"{self.name.lower()}-{self.port}"
        self._watchdog = watchdog
        self._runner: Runner | None = None
        self._paused = False

    @classmethod
    def take(cls, watchdog: Watchdog) -> Self:
        """The server of this kind from the first place that has one; not yet started.

        Raises:
            Missing: there is none; the text has the reasons and the command that would provide it.
        """
        return cls(find(cls), watchdog)

    # What a kind of server says of itself.

    @classmethod
    @abstractmethod
    def installed(cls) -> Path:
        """The installed program or folder; raises Missing."""

    @classmethod
    @abstractmethod
    def packaged(cls) -> Path:
        """The same inside a pip package; raises Missing."""

    @property
    @abstractmethod
    def own_url(self) -> str:
        """Where our own instance listens."""

    @abstractmethod
    def prepare(self) -> Launch:
        """Make data folder and configuration; says how to start the process. Called once."""

    @abstractmethod
    def container(self) -> list[str]:
        """Arguments of `docker run`, from the published port to the server's own options."""

    @abstractmethod
    def probe(self) -> str:
        """The version of the server at `url`, once it does real work; until then raises one of `not_ready`."""

    @classmethod
    def provide(cls, found: Found) -> None:
        """Fetch what is large and outlives this run. Called before any test's time starts to count."""

    # What the tests do with it.

    @property
    def url(self) -> str:
        return self.found.where if self.found.source == "environment" else self.own_url

    @property
    def ours(self) -> bool:
        return self.found.source != "environment"

    def start(self) -> None:
        """Start it, on the data of last time if there was one, and return when it answers.

        Raises:
            RuntimeError: it ended, or did not answer in time; the text has the end of its log.
        """
        if self.ours:
            if self._runner is None:
                self.provide(self.found)
                self.folder.mkdir(exist_ok=True)
                self._runner = self._new_runner()
            self._runner.start()
        try:
            self.version = wait_until(self._answer, what=f"{self.name} to answer", within=timedelta(seconds=180))
        except TimeoutError as late:
            raise RuntimeError(f"{late}\n{self._last_words()}") from late

    def stop(self) -> None:
        """Ask it to end, as an operator would, and wait for it."""
        self._own().stop()
        self.faults["stop"] += 1

    def kill(self) -> None:
        """SIGKILL to all its processes; returns when they are gone. `start` again keeps what was durable."""
        self._own().kill()
        self._paused = False
        self.faults["kill"] += 1

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP to all its processes: connections stay open and nothing answers."""
        self._own().pause()
        self._paused = True
        self.faults["pause"] += 1

    def resume(self) -> None:
        self._own().resume()
        self._paused = False

    def alive(self) -> bool:
        return not self.ours or (self._runner is not None and self._runner.alive())

    def heal(self) -> None:
        """Undo what a test did and left undone."""
        if self._paused:
            self.resume()
        if not self.alive():
            self.start()

    def close(self) -> None:
        """The end of an own server: killed, its data removed with the run's folder. Twice is harmless."""
        if self._runner is None:
            return
        if isinstance(self._runner, ContainerRunner):
            self._runner.remove()
        elif self._runner.alive():
            self._runner.kill()

    def __str__(self) -> str:
        return f"{self.name} {self.version} {self.found}"

    def _new_runner(self) -> Runner:
        if self.found.source == "container":
            name = f"{self._watchdog.folder.name}-{self.name.lower()}-{os.getpid()}-{self.port}"
            return ContainerRunner(self.found.where, name, self.container())
        return ProcessRunner(self.prepare(), self.folder, self._watchdog)

    def _own(self) -> Runner:
        if self._runner is None:
            raise NotOurs(
                f"{self} is not ours to stop, kill or pause" if not self.ours else f"{self} was never started"
            )
        return self._runner

    def _answer(self) -> str:
        if not self.alive():
            raise RuntimeError(f"{self.name} ended while starting\n{self._last_words()}")
        try:
            return self.probe()
        except self.not_ready:
            return ""

    def _last_words(self) -> str:
        return self._runner.log()[-3000:] if self._runner is not None else f"it was given by {self.variable}"
