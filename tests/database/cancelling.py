"""Cancelling something at each of its awaits, those of the tasks that it starts included."""

import asyncio
import types


async def cancelled_at(work, number, *, again=False):
    """Run ``work()`` and cancel it when it, or a task that it started, is about to be suspended the so-manieth time.

    ``again``: and at each later one, as anyio does it until the task ends. Says whether it came that far.
    """
    loop, seen, task = asyncio.get_running_loop(), 0, None

    def at_each():
        nonlocal seen
        if seen == number or (again and seen > number):
            task.cancel()
        seen += 1

    def counting(loop, coroutine, **given):
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


async def _run(coroutine, at_each):
    return await _counted(coroutine, at_each)


@types.coroutine
def _counted(awaitable, at_each):
    """Await, and call ``at_each`` whenever the task is about to be suspended."""
    inner, result, error = awaitable.__await__(), None, None
    while True:
        try:
            waited = inner.throw(error) if error is not None else inner.send(result)
        except StopIteration as stop:
            return stop.value
        at_each()
        result = error = None
        try:
            result = yield waited
        except BaseException as raised:  # noqa: BLE001 - handed on to the one who waits
            error = raised
