"""A process and all that it has started: signals reach every one of them.

The process group is not enough: each PostgreSQL backend makes itself the leader of a group of its own. Nor are
the descendants: what is left of a dead parent has another parent. So both are asked; the root is started with
a session of its own.
"""

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

from rig.waiting import wait_until

GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)


def members(root: psutil.Process) -> list[psutil.Process]:
    """The process, its descendants and the rest of its session, as of now."""
    if not root.is_running() and psutil.pid_exists(root.pid):
        return []  # the number belongs to somebody else by now
    orphans = [process for process in psutil.process_iter() if _session(process) == root.pid]
    try:
        return list({root: None, **dict.fromkeys(root.children(recursive=True)), **dict.fromkeys(orphans)})
    except psutil.NoSuchProcess:
        return orphans


def named(root: psutil.Process, name: str) -> list[psutil.Process]:
    """Those of them with this name; a process that ends meanwhile is left out."""
    return [process for process in members(root) if _name(process) == name]


def pause(root: psutil.Process) -> list[psutil.Process]:
    """SIGSTOP to the root first, so that it starts nothing more, then to its descendants; returns them all,
    when every one has stopped."""
    stopped = [process for process in members(root) if process == root]
    _send(stopped, signal.SIGSTOP)
    while fresh := [process for process in members(root) if process not in stopped]:
        _send(fresh, signal.SIGSTOP)
        stopped += fresh
    states = (psutil.STATUS_STOPPED, *GONE)
    wait_until(lambda: all(_state(process) in states for process in stopped), what=f"{stopped} to stop")
    return stopped


def resume(root: psutil.Process) -> None:
    _send(members(root), signal.SIGCONT)


def kill(root: psutil.Process) -> None:
    """SIGKILL to all of them at once. Returns when none is left: their ports and memory are free then.

    A root that is our own child stays a zombie for `Popen.wait` to collect.
    """
    processes = pause(root)
    _send(processes, signal.SIGKILL)
    wait_until(lambda: all(map(_is_gone, processes)), what=f"{processes} to be gone")


def _send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue  # it ended by itself in the meantime


def _is_gone(process: psutil.Process) -> bool:
    """Whether nothing of it is left. A process counts as dead while threads of it end, which keep its ports open."""
    if _state(process) not in GONE:
        return False
    try:
        return len(list(Path(f"/proc/{process.pid}/task").iterdir())) < 2
    except (FileNotFoundError, ProcessLookupError):
        return True


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except (ProcessLookupError, PermissionError):
        return 0


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _state(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.NoSuchProcess:
        return str(psutil.STATUS_DEAD)
