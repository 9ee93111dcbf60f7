"""For a child that stops itself at a place of its own choosing, as SIGSTOP stops a process anywhere. Once."""

import os
import signal

_stopped: list[str] = []


def stop(when: bool = True) -> None:
    """Stop this process, the first time that ``when`` is true; whoever continues it reads that it goes on."""
    if when and not _stopped:
        _stopped.append("once")
        print("stops here", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        print("goes on", flush=True)


def has_stopped() -> bool:
    return bool(_stopped)
