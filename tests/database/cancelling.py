"""Cancelling something at each of its awaits, those of the tasks that it starts included."""

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def cancelled_at(work: Callable[[], Awaitable[object]], number: int, *, again: bool = False) -> bool:
    """Run ``work()`` and cancel it when it, or a task that it started, is about to be suspended the so-manieth time.

    ``again``: and at each later one, as anyio does it until the task ends. Says whether it came that far.
    """
    loop, seen = asyncio.get_running_loop(), 0

    def at_each() -> None:
        nonlocal seen
        if seen == number or (again and seen > number):
            task.cancel()
        seen += 1

    def counting(loop: asyncio.AbstractEventLoop, coroutine: Any, **given: Any) -> asyncio.Task[Any]:
        return asyncio.Task(_run(coroutine, at_each), loop=loop, **given)

    before = loop.get_task_factory()
    loop.set_task_factory(counting)
    try:
        task = asyncio.ensure_future(work())
        await asyncio.wait({task})
    finally:
        loop.set_task_factory(before)
    if not task.cancelled():
        task.result()
    return seen > number


async def _run(coroutine: Awaitable[T], at_each: Callable[[], None]) -> T:
    return await _counted(coroutine, at_each)


@types.coroutine
def _counted(awaitable: Awaitable[T], at_each: Callable[[], None]) -> Generator[Any, Any, T]:
    """Await, and call ``at_each`` whenever the task is about to be suspended."""
    inner: Any = awaitable.__await__()
    result: object = None
    error: BaseException | None = None
    while True:
        try:
            waited = inner.throw(error) if error is not None else inner.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value
        at_each()
        result = error = None
        try:
            result = yield waited
        except BaseException as raised:  # noqa: BLE001 - handed on to the one who waits
            error = raised
