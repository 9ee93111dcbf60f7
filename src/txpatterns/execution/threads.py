"""Threads that no process waits for when it ends."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_IDLE = 10.0
"""Seconds after which a thread without work ends."""

_Jobs = SimpleQueue[Callable[[], None]]


class Threads:
    """Runs plain code in threads, which are used again, because user code may keep connections in them.

    They are daemons: code that hangs keeps no process from ending, so it has to be such that this does no harm.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Jobs] = []
        self._process = os.getpid()

    async def run(self, work: Callable[[], T]) -> T:
        """Run ``work``, with the caller's context variables; whatever it raises is raised here.

        A cancelled caller goes on at once, and the work, which nobody can interrupt, goes on by itself.
        """
        loop, context = asyncio.get_running_loop(), copy_context()
        told: asyncio.Future[T] = loop.create_future()
        jobs = self._free()

        def job() -> None:
            try:
                tell, outcome = told.set_result, context.run(work)
            except BaseException as error:  # noqa: BLE001 - told to the caller, whatever it is
                tell, outcome = told.set_exception, error  # type: ignore[assignment]
            with self._lock:
                self._idle.append(jobs)
            with suppress(RuntimeError):  # the caller's loop has ended
                loop.call_soon_threadsafe(lambda: None if told.done() else tell(outcome))

        jobs.put(job)
        return await told

    def _free(self) -> _Jobs:
        with self._lock:
            if self._process != os.getpid():  # no thread has come along into a forked child
                self._process, self._idle = os.getpid(), []
            if self._idle:
                return self._idle.pop()
        jobs: _Jobs = SimpleQueue()
        threading.Thread(target=self._serve, args=(jobs,), name="txpatterns code", daemon=True).start()
        return jobs

    def _serve(self, jobs: _Jobs) -> None:
        while True:
            try:
                job = jobs.get(timeout=_IDLE)
            except Empty:
                with self._lock:
                    if jobs in self._idle:
                        self._idle.remove(jobs)
                        return
                continue  # it has just been given work
            job()
            del job  # and with it all that it holds
