"""The two ways in which a server of our own runs: as a process, or in a container."""

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil

from rig import trees
from rig.users import as_user
from rig.waiting import wait_until
from rig.watchdog import Watchdog


class Runner(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def alive(self) -> bool: ...
    def log(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server's process and how to ask it to end."""

    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM


class ProcessRunner:
    """A private process with its output in a file; the watchdog ends it if we cannot."""

    def __init__(self, launch: Launch, folder: Path, watchdog: Watchdog) -> None:
        self._launch = launch
        self._folder = folder
        self._watchdog = watchdog
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        launch = self._launch
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                launch.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                env={**os.environ, **launch.environment},
                start_new_session=True,  # Ctrl-C ends the tests, and these end their servers
                **as_user(launch.user),
            )
        self._watchdog.watch(self._process.pid)

    def stop(self) -> None:
        process = self._running()
        process.send_signal(self._launch.stop_signal)
        try:
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self.kill()
        self._watchdog.forget(process.pid)

    def kill(self) -> None:
        process = self._running()
        trees.kill(psutil.Process(process.pid))
        process.wait(timeout=120)
        self._watchdog.forget(process.pid)

    def pause(self) -> None:
        trees.pause(psutil.Process(self._running().pid))

    def resume(self) -> None:
        trees.resume(psutil.Process(self._running().pid))

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        return (self._folder / "server.log").read_text(errors="replace")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{self._launch.command[0]} is not running")
        return self._process


class ContainerRunner:
    """The same in a container. The engine removes it when it is told to, and at the latest at our end."""

    def __init__(self, engine: str, name: str, arguments: list[str]) -> None:
        self._engine = engine
        self._name = name
        self._arguments = arguments
        self._created = False

    def start(self) -> None:
        if self._created:
            self._do("start", self._name)
        else:
            self._do("run", "--detach", "--name", self._name, *self._arguments)
            self._created = True

    def stop(self) -> None:
        self._do("stop", self._name)

    def kill(self) -> None:
        self._do("kill", "--signal", "KILL", self._name)
        wait_until(lambda: not self.alive(), what=f"the container {self._name} to end")

    def pause(self) -> None:
        self._do("pause", self._name)

    def resume(self) -> None:
        self._do("unpause", self._name)

    def alive(self) -> bool:
        return self._created and self._do("inspect", "-f", "{{.State.Running}}", self._name) == "true"

    def log(self) -> str:
        return self._do("logs", self._name)

    def remove(self) -> None:
        if self._created:
            self._do("rm", "--force", "--volumes", self._name)
            self._created = False

    def _do(self, *arguments: str) -> str:
        answer = subprocess.run([self._engine, *arguments], capture_output=True, text=True, timeout=600, check=False)
        if answer.returncode != 0:
            raise RuntimeError(f"{self._engine} {' '.join(arguments)}: {answer.stderr.strip()}")
        return answer.stdout.strip()
