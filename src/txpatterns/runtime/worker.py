"""Background parts for programs without an event loop: in a thread of their own, or as the whole program."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from datetime import timedelta

from txpatterns.errors import ConfigurationError
from txpatterns.runtime.signals import stop_on_signals

logger = logging.getLogger("txpatterns.runtime")


class Worker:
    """Runs background parts from plain code. ``running`` makes the context in which they run.

    The thread is a daemon: a program that ends without ``stop`` is not held up, and what was under way is done
    again after the next start, as after a crash.
    """

    def __init__(self, running: Callable[[], AbstractAsyncContextManager[object]]) -> None:
        self._running = running
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._started = threading.Event()
        self._error: BaseException | None = None

    def run_forever(self) -> None:
        """Run until SIGTERM or SIGINT, then finish what is under way."""
        asyncio.run(self._until_signal())

    @contextmanager
    def in_thread(self) -> Iterator[Worker]:
        """Run in a thread for as long as the block lasts: for WSGI applications, scripts and tests."""
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        """Start the thread and wait until the parts run: for server hooks such as Gunicorn's ``post_worker_init``.

        Raises:
            ConfigurationError: it runs already. What fails in starting is raised here, too.
        """
        if self._thread is not None and self._thread.is_alive():
            raise ConfigurationError("The worker runs already.", fix="Call stop() before start().")
        self._started.clear()
        self._error = None
        self._thread = threading.Thread(target=self._serve, name="txpatterns worker", daemon=True)
        self._thread.start()
        self._started.wait()
        self._raise_failure()

    def stop(self, timeout: timedelta = timedelta(seconds=30)) -> None:
        """Finish what is under way and end the thread. Twice is harmless."""
        thread, self._thread = self._thread, None
        if thread is None or self._loop is None or self._stopping is None:
            return
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)
        thread.join(timeout.total_seconds())
        if thread.is_alive():
            logger.warning("the worker's thread has not ended after %s", timeout)

    def _raise_failure(self) -> None:
        if self._error is not None:
            self._thread = None
            raise self._error

    def _serve(self) -> None:
        try:
            asyncio.run(self._until_stopped())
        except BaseException as error:
            if self._started.is_set():
                logger.exception("the worker's thread ended")
            self._error = error
        finally:
            self._started.set()

    async def _until_stopped(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        async with self._running():
            self._started.set()
            await self._stopping.wait()

    async def _until_signal(self) -> None:
        with stop_on_signals() as stopping:
            async with self._running():
                await stopping.wait()
