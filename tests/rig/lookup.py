"""Where a server comes from: the first of four places that has it, and which one that was."""

import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

SOURCES = ("environment", "installed", "pip", "container")


class Missing(Exception):
    """This server, or this way to get it, is not to be had here; the text says why."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was taken: a URL, the path of a program or folder, or the command of a container engine."""

    source: str
    where: str

    def __str__(self) -> str:
        return {"environment": "by URL", "installed": "installed", "pip": "from a package"}.get(
            self.source, f"in a {self.where} container"
        )


class Kind(Protocol):
    """What the look-up needs to know of a kind of server."""

    name: str
    variable: str
    image: str | None
    remedy: str

    @classmethod
    def installed(cls) -> Path: ...

    @classmethod
    def packaged(cls) -> Path: ...


def find(kind: Kind, environ: Mapping[str, str] = os.environ) -> Found:
    """Look in each place in turn. `TXP_TEST_SOURCES=pip,installed` names other places or another order.

    Raises:
        Missing: with what each place answered, and the one command that would provide the server.
    """
    reasons = []
    for source in environ.get("TXP_TEST_SOURCES", ",".join(SOURCES)).split(","):
        try:
            return Found(source, _look(kind, source.strip(), environ))
        except Missing as missing:
            reasons.append(str(missing))
    raise Missing(f"no {kind.name}: {'; '.join(reasons)}. To get one: {kind.remedy}")


def _look(kind: Kind, source: str, environ: Mapping[str, str]) -> str:
    match source:
        case "environment":
            if url := environ.get(kind.variable):
                return url
            raise Missing(f"{kind.variable} is not set")
        case "installed":
            return str(kind.installed())
        case "pip":
            return str(kind.packaged())
        case "container":
            if kind.image is None:
                raise Missing("no container image of it is known")
            return container_engine()
        case _:
            raise ValueError(f"TXP_TEST_SOURCES: {source!r} is none of {', '.join(SOURCES)}")


@functools.cache
def container_engine() -> str:
    """The name of a container command whose engine answers."""
    for command in ("docker", "podman"):
        if shutil.which(command) is None:
            continue
        try:
            answer = subprocess.run([command, "info"], capture_output=True, timeout=10, check=False)
        except subprocess.TimeoutExpired:
            continue
        if answer.returncode == 0:
            return command
    raise Missing("no container engine answers")


def program(name: str, *folders: Path) -> Path:
    """The path of an installed program, on PATH or in one of the folders."""
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    if found := shutil.which(name):
        return Path(found)
    raise Missing(f"{name} is not installed")
