"""Concurrent questions share a journey: what is asked while one is under way leaves together with the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from txpatterns.errors import StockUnavailable, TxPatternsError
from txpatterns.text import error_line

Q = TypeVar("Q")
A = TypeVar("A")


class Batches(Generic[Q, A]):
    """Sends questions in batches of at most ``most``, at most ``at_once`` of them at a time.

    A caller that is cancelled takes its question back if it has not left yet; otherwise the others get their answers
    all the same.
    """

    def __init__(self, send: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], *, most: int, at_once: int) -> None:
        self._send = send
        self._most = most
        self._at_once = at_once
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, question: Q) -> A:
        """Give the answer to a question.

        Raises:
            StockUnavailable: it may or may not have arrived.
        """
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        if len(self._running) < self._at_once:
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await answer

    async def close(self) -> None:
        """Wait until what is under way has ended."""
        while self._running:
            await asyncio.wait(set(self._running))

    async def _run(self) -> None:
        while batch := self._next():
            try:
                answers = await self._send([question for question, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(_told(error))
                if not isinstance(error, Exception):
                    raise

    def _next(self) -> list[tuple[Q, asyncio.Future[A]]]:
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        while self._waiting and len(batch) < self._most:
            question, future = self._waiting.popleft()
            if not future.done():
                batch.append((question, future))
        return batch


def _told(error: BaseException) -> Exception:
    """Give each caller an error of its own."""
    if isinstance(error, TxPatternsError):
        told: Exception = type(error).__new__(type(error))
        told.__dict__.update(error.__dict__)
        told.args = error.args
    else:
        told = StockUnavailable(f"The stock could not be reached: {error_line(error)}.")
    told.__cause__ = error
    return told
