"""Ends what the tests started, also when the test run itself is killed.

A process of its own reads our pipe. The kernel closes the pipe when we end, however we end; then it
kills every process tree that it was told of, and removes the folder with their data.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from rig import trees


class Watchdog:
    """Owns the folder of this test run. Closing it twice is harmless."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="txp-rig-"))
        self.folder.chmod(0o755)  # a server that refuses root runs as somebody else
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rig.watchdog", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,  # Ctrl-C is for the tests, not for the one that tidies up after them
        )
        # A forked child would keep the pipe open, and with it the servers of a dead run.
        os.register_at_fork(after_in_child=self._close_pipe)

    def watch(self, pid: int) -> None:
        self._tell(f"watch {pid}")

    def forget(self, pid: int) -> None:
        self._tell(f"forget {pid}")

    def close(self) -> None:
        self._close_pipe()
        self._process.wait(timeout=60)

    def _close_pipe(self) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()

    def _tell(self, line: str) -> None:
        if self._process.stdin is None or self._process.poll() is not None:
            raise RuntimeError("the watchdog has ended: nothing would stop what the tests start")
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


def main(folder: str) -> None:
    watched: dict[int, psutil.Process] = {}
    for line in sys.stdin:
        verb, pid = line.split()[0], int(line.split()[1])
        if verb == "forget":
            watched.pop(pid, None)
        elif psutil.pid_exists(pid):
            watched[pid] = psutil.Process(pid)
    for process in watched.values():
        trees.kill(process)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
