"""What a call returns decides: nothing that only describes work is taken for work."""

import asyncio
import contextlib
import functools
import warnings
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import AsyncMock

import pytest
import sqlalchemy as sa

from inbox.support import Noted, note, prepared, quick, running
from txpatterns.database import Database
from txpatterns.inbox import SyncTransaction, Transaction

POOL = ThreadPoolExecutor(1)


async def work(event, tx):
    await tx.session.execute(note(event.book, event.number))


def plain_work(event, tx):
    tx.session.execute(note(event.book, event.number))


async def with_client(event, tx, client):
    await work(event, tx)


def wrapped(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def bare(function):
    return lambda event, tx: function(event, tx)  # noqa: PLW0108 - it is no coroutine function


async def forgets_to_await(event, tx):
    return work(event, tx)


async def gives_a_task(event, tx):
    return asyncio.create_task(work(event, tx))


async def gives_itself(event, tx):
    await work(event, tx)
    return Itself()


class Itself:
    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        return self


class Promises:
    def __call__(self, event: Noted, tx: Transaction) -> Awaitable[None]:
        return work(event, tx)


class Plain:
    def __call__(self, event, tx):
        return work(event, tx)


async def in_another_thread(event, tx):
    await work(event, tx)
    return POOL.submit(len, "abc")


def plain_in_another_thread(event, tx):
    return POOL.submit(plain_work, event, tx)


async def gives_what_is_done(event, tx):
    task = asyncio.create_task(work(event, tx))
    await task
    return [task], {"rows": (await tx.session.execute(sa.select(1))).all()}


RUN = {
    "in another thread": in_another_thread,
    "plain, in another thread": plain_in_another_thread,
    "what is done": gives_what_is_done,
    "partial": functools.partial(with_client, client=1),
    "partial of a wrapper": functools.partial(wrapped(with_client), client=1),
    "wrapper": wrapped(work),
    "plain wrapper": wrapped(plain_work),
    "plain lambda": bare(plain_work),
    "annotated call": Promises(),
    "coroutine in a coroutine": forgets_to_await,
    "task": gives_a_task,
    "an awaitable that gives itself": gives_itself,
}


@pytest.mark.parametrize("function", RUN.values(), ids=RUN)
async def test_what_can_be_awaited_is_awaited(any_database, function):
    """P2, H200: however the function is wrapped, its work is in the transaction that is committed."""
    async with Database(any_database) as database:
        world = await prepared(database)
        consumer = world.consumer(policies=quick(1))
        consumer.on(Noted, name="noted")(function)
        world.put(Noted(book="a", number=1))
        async with running(consumer):
            await world.broker.all_acked()
        assert await world.effects() == [("a", 1)]
        assert len(await world.inbox()) == 1


@contextlib.asynccontextmanager
async def a_context(event, tx):
    await work(event, tx)
    yield


def lazy(event, tx):
    def later():
        yield plain_work(event, tx)

    return later()


async def lazy_too(event, tx):
    async def later():
        yield await work(event, tx)

    return later()


async def several(event, tx):
    return [work(event, tx), work(event, tx)]


async def by_name(event, tx):
    return {"a": work(event, tx)}


async def futures(event, tx):
    return {asyncio.get_running_loop().create_future()}


async def not_called(event, tx):
    async def later():
        await work(event, tx)

    return later


def plain_not_called(event, tx):
    return functools.partial(plain_work, event, tx)


def mapped(event, tx):
    return map(functools.partial(plain_work, tx=tx), [event])


async def fails_elsewhere(event, tx):
    return POOL.submit(int, "no number")


def plain_fails_elsewhere(event, tx):
    return POOL.submit(int, "no number")


NOT_RUN = {
    "list": (several, "returned a coroutine"),
    "dict": (by_name, "returned a coroutine"),
    "set of futures": (futures, "returned a "),
    "a function": (not_called, "returned the function later and did not call it"),
    "a partial function": (plain_not_called, "did not call it"),
    "lazy": (mapped, "returned a map"),
    "lambda": (bare(work), "taken for plain code"),
    "partial of a lambda": (functools.partial(lambda event, tx, x: work(event, tx), x=1), "taken for plain code"),
    "plain call": (Plain(), "taken for plain code"),
    "generator": (lazy, "returned a generator"),
    "async generator": (lazy_too, "returned a async_generator"),
    "context manager": (a_context, "nobody runs that"),
}


@pytest.mark.parametrize(("function", "words"), NOT_RUN.values(), ids=NOT_RUN)
async def test_what_nobody_could_run_is_a_failed_attempt(world, function, words):
    """P2, H200: never done; the error says what came back, and no coroutine is left that was never awaited."""
    consumer = world.consumer(policies=quick(2))
    consumer.on(Noted, name="noted")(function)
    world.put(Noted(book="a", number=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with running(consumer):
            await world.broker.all_acked()
            await world.told.until(lambda counts: counts["dead"] == 1)
    (letter,) = await world.dead()
    assert (letter.reason, letter.attempts) == ("exhausted", 2)
    assert "HandlerDefinitionError" in letter.error
    assert words in letter.error
    assert (await world.effects(), await world.inbox()) == ([], [])


@pytest.mark.parametrize("function", [fails_elsewhere, plain_fails_elsewhere])
async def test_what_fails_in_another_thread_has_failed(world, function):
    """P2, H200: a future of a pool of threads is waited for like anything else that is under way."""
    consumer = world.consumer(policies=quick(1))
    consumer.on(Noted, name="noted")(function)
    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    (letter,) = await world.dead()
    assert "ValueError: invalid literal" in letter.error
    assert await world.inbox() == []


async def test_a_plain_function_that_wraps_a_coroutine_function_runs_in_a_thread_if_it_says_so(world):
    """P2, H144, H200: the transaction that it takes tells; so do mocks of coroutine functions."""

    def blocking(function):
        @functools.wraps(function)
        def wrapper(event: Noted, tx: SyncTransaction) -> None:
            plain_work(event, tx)

        return wrapper

    async def inner(event: Noted, tx: SyncTransaction) -> None: ...

    consumer = world.consumer()
    consumer.on(Noted, name="blocking")(blocking(inner))
    consumer.on(Noted, name="mock")(AsyncMock(side_effect=work))
    assert [handler.is_async for handler in consumer.handlers] == [False, True]
    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 1), ("a", 1)]
