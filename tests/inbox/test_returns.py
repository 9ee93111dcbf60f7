"""What a call returns decides: nothing that only describes work is taken for work."""

import asyncio
import contextlib
import functools
import warnings
from collections.abc import Awaitable
from unittest.mock import AsyncMock

import pytest

from inbox.support import Noted, note, prepared, quick, running
from txpatterns.database import Database
from txpatterns.inbox import SyncTransaction, Transaction


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


RUN = {
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


NOT_RUN = {
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
