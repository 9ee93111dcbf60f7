"""PostgreSQL and PgBouncer refuse to run as root: then they run as somebody else."""

import os
import pwd
import shutil
import subprocess
from pathlib import Path
from typing import TypedDict


class UserArguments(TypedDict, total=False):
    user: str
    group: int
    extra_groups: list[int]


def unprivileged() -> str | None:
    """None when we are not root ourselves: nothing to change then."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def as_user(name: str | None) -> UserArguments:
    """Arguments for `subprocess` that run the child as this user."""
    if name is None:
        return {}
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def own_folder(path: Path, user: str | None) -> Path:
    """Make the folder, and give it to the user who will write there."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if user is not None:
        shutil.chown(path, user, pwd.getpwnam(user).pw_gid)
    return path


def can_run(binary: Path, user: str | None) -> bool:
    """Whether this user reaches the program: a virtual environment may lie in a folder closed to others."""
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, cwd="/", check=False, **as_user(user))
    except PermissionError:
        return False
    return answer.returncode == 0
