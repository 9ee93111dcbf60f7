"""The web server: a socket that listens before anything else starts, and a stop that waits for nobody's open page."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

import uvicorn
from starlette.types import ASGIApp
from typing_extensions import override

LAST_REQUESTS = 5
"""Seconds that running requests have to finish when the server stops."""


class Server(uvicorn.Server):
    """A uvicorn server that tells when it is asked to stop, so that endless answers can end."""

    def __init__(self, app: ASGIApp, on_stop: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                log_config=None,  # the process has one log
                access_log=False,
                timeout_graceful_shutdown=LAST_REQUESTS,
                lifespan="on",
            )
        )
        self._on_stop = on_stop

    @override
    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        super().handle_exit(sig, frame)


class Aside(uvicorn.Server):
    """A uvicorn server beside the process's main one: signals are not its business."""

    @override
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def on_loopback(app: ASGIApp) -> AsyncIterator[str]:
    """Serve a web application to this machine alone, for as long as the block lasts; gives its address."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=LAST_REQUESTS
    )
    server = Aside(config)
    with listen("127.0.0.1", 0) as door:
        # Whoever connects before it is ready waits in the door's queue.
        running = asyncio.create_task(server.serve([door]))
        try:
            yield f"127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket: whoever connects from now on is answered once the shop is ready.

    Raises:
        OSError: the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(128)
    except OSError:
        made.close()
        raise
    return made


def serve_until_stopped(server: Server, door: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C, finish what runs, and return."""
    # Once stopped, uvicorn raises the signal again for whoever cared before it; we have nothing left to do then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopped_already)
    server.run([door])


def _stopped_already(number: int, frame: FrameType | None) -> None:
    return None
