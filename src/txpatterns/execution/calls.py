"""Calling code of which only the call tells what it is. The rule: what the call returns decides.

What can be awaited is awaited, until nothing is left to await; then the code is done. Where that cannot be, or where
what came back only describes work that nobody has begun, the attempt has failed: nothing of it ran.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from txpatterns.database.finishing import Breakable
from txpatterns.execution.run import Run
from txpatterns.execution.underway import Running, Underway
from txpatterns.execution.undone import undone_in

_FIX = "Write it as async def; or annotate it: with the transaction of asynchronous code and `-> Awaitable[None]`."
_UNBEGUN = "Do the work in it: call it, await it, or several with asyncio.gather(*...)."


class _Caller:
    """What both have in common: the code, and how long it has been running."""

    def __init__(self, run: Run, underway: Underway) -> None:
        self._run = run
        self._underway = underway
        self._running: Running | None = None

    def is_over_limit(self) -> bool:
        """Whether the code took longer than it may."""
        return self._running is not None and self._underway.is_over_limit(self._running)

    def _refuse_undone(self, value: object) -> None:
        undone = undone_in(value)
        if undone is not None:
            origin = self._run.origin
            raise origin.misfit(f"{origin.name} returned {undone}: nobody runs that.", fix=_UNBEGUN)


class InThread(_Caller):
    """Runs plain code where it is, in a thread that may block."""

    def call(self, session: Session) -> object:
        """Call the code with its session; gives what it returned.

        Raises what its origin calls a misfit where it returned something to await, or work that nobody has begun.
        """
        run = self._run
        with self._underway.in_thread(run) as self._running:
            value = run.call(session)
            while isinstance(value, Future):
                value = value.result()
        if inspect.isawaitable(value):
            if inspect.iscoroutine(value):
                value.close()
            raise run.origin.misfit(
                f"{run.origin.name} was taken for plain code and run in a thread, but it returned something to await "
                f"({type(value).__name__}), which was not run.",
                fix=_FIX,
            )
        self._refuse_undone(value)
        return value

    def is_ours(self, error: BaseException) -> bool:
        """Whether an error is none of the code's own: in a thread each is."""
        return False


class InLoop(_Caller):
    """Runs code in the event loop, from within the greenlet of its transaction."""

    def __init__(self, run: Run, session: AsyncSession, underway: Underway) -> None:
        super().__init__(run, underway)
        self.code = Breakable()
        """The code's own part: only this may be cancelled, neither the opening nor the commit."""
        self._session = session
        self._task: asyncio.Task[Any] | None = None

    def call(self, _session: Session) -> object:
        """Call the code with its session and await what it returns, within its time.

        Raises what its origin calls a misfit where it returned work that nobody has begun, and its ``over_limit``.
        """
        return await_only(self._awaited())

    def is_ours(self, error: BaseException) -> bool:
        """Whether an error is none of the code's own: a cancellation of us, a Ctrl-C, an event loop that is no more."""
        return isinstance(error, asyncio.CancelledError) or is_not_the_codes(error, self._task)

    async def _awaited(self) -> object:
        self._task = task = asyncio.current_task()
        run, limit = self._run, self._run.limit
        scope = asyncio.timeout(None if limit is None else limit.total_seconds())
        try:
            with self.code, self._underway.in_loop(run) as self._running:
                async with scope:
                    value = run.call(self._session)
                    while inspect.isawaitable(before := _awaitable(value)):
                        self._running.awaits = before
                        value = await before
                        if value is before:
                            break
                if task is not None and task.cancelling():
                    await asyncio.sleep(0)  # it cancelled itself and went on: that is told now, and not at the commit
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise run.origin.over_limit(f"{run.origin.name} did not end within {limit} and was cancelled.") from error
        except asyncio.CancelledError as error:
            if self.code.asked:
                raise
            while task is not None and task.cancelling():
                task.uncancel()
            raise RuntimeError(f"Something that {run.origin.name} awaited was cancelled.") from error
        self._refuse_undone(value)
        return value


def is_coroutine_function(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to await, as far as that can be seen without calling it."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def is_not_the_codes(error: BaseException, task: asyncio.Task[Any] | None) -> bool:
    """Whether an error that code raised in a task is a Ctrl-C, or the end of an event loop that is no more."""
    return _current_task() is not task if isinstance(error, GeneratorExit) else is_interrupt(error)


def is_interrupt(error: BaseException) -> bool:
    """Whether this is the user's Ctrl-C, which Python raises in whatever the main thread is doing."""
    if not isinstance(error, KeyboardInterrupt) or threading.current_thread() is not threading.main_thread():
        return False
    handler: Any = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return True
    # Another handler, asyncio's for example, raises it in its own frame.
    while isinstance(handler, functools.partial):
        handler = handler.func
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is getattr(handler, "__code__", None)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _awaitable(value: object) -> object:
    """Give what can be awaited here for what another thread works on; anything else as it is."""
    return asyncio.wrap_future(value) if isinstance(value, Future) else value
