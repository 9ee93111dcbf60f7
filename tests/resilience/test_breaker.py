"""The breaker: what it counts, what it lets through, and that it tells the truth about a call that was made."""

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import timedelta
from urllib.error import HTTPError, URLError

import httpx
import pytest
import redis.exceptions

from txpatterns.errors import BulkheadFull, CircuitOpen, ConfigurationError, NotBegun, Reject
from txpatterns.hooks import Hooks, on
from txpatterns.resilience.breaker import CircuitBreaker, State
from txpatterns.resilience.moments import CallRefused, CircuitChanged, CircuitClosed, CircuitHalfOpened, CircuitOpened
from txpatterns.resilience.outages import is_outage
from txpatterns.testing.clock import ManualClock

OPEN_FOR = timedelta(seconds=30)


class Told(Hooks):
    def __init__(self):
        self.moments = []

    @on(CircuitChanged)
    def changed(self, moment):
        self.moments.append(type(moment))

    @on(CallRefused)
    def refused(self, moment):
        self.moments.append(type(moment))


@pytest.fixture
def clock():
    return ManualClock()


def breaker_of(clock, failures=3, **options):
    return CircuitBreaker("bank", failures=failures, open_for=OPEN_FOR, clock=clock, **options)


def fail(breaker, times=1, error=ConnectionError):
    for _ in range(times):
        with suppress(error), breaker:
            raise error


async def made(breaker, call):
    async with breaker:
        return await call()


# What pybreaker gets wrong by its defaults: test_planted.py runs these with them, and they turn red.


def test_a_call_that_was_made_is_never_reported_as_not_made(clock):
    """P4, H176: the call that opens the breaker raises what it raised itself."""
    breaker = breaker_of(clock)
    fail(breaker, 2)
    with pytest.raises(ConnectionError), breaker:
        raise ConnectionError
    assert breaker.state is State.OPEN
    clock.advance(OPEN_FOR)
    with pytest.raises(ConnectionError), breaker:
        raise ConnectionError


async def test_one_call_is_let_through_at_half_open(clock):
    """P4, H176: of fifty that come at the same moment one is made."""
    breaker = breaker_of(clock)
    fail(breaker, 3)
    clock.advance(OPEN_FOR)
    began, go = [], asyncio.Event()

    async def call():
        began.append(1)
        await go.wait()

    tasks = [asyncio.create_task(made(breaker, call)) for _ in range(50)]
    await asyncio.sleep(0)
    go.set()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert len(began) == 1
    assert [type(end) for end in ends if end is not None] == [CircuitOpen] * 49
    assert breaker.state is State.CLOSED


async def test_who_is_cancelled_counts_nothing_and_is_told_so(clock):
    """P4, H176: a shutdown opens no breaker, and CancelledError stays CancelledError."""
    breaker = breaker_of(clock)
    for _ in range(5):
        task = asyncio.create_task(made(breaker, asyncio.Event().wait))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert breaker.state is State.CLOSED


async def test_an_end_counts_only_for_the_state_that_it_began_in(clock):
    """P4, H176: an old call that is answered late closes nothing, and one that fails late opens nothing."""
    breaker = breaker_of(clock, failures=1)
    answered, failed = asyncio.Event(), asyncio.Event()

    async def late():
        await failed.wait()
        raise ConnectionError

    tasks = [asyncio.create_task(made(breaker, answered.wait)), asyncio.create_task(made(breaker, late))]
    await asyncio.sleep(0)
    fail(breaker)
    assert breaker.state is State.OPEN
    clock.advance(OPEN_FOR)
    passage = breaker.passing()
    passage.__enter__()
    answered.set()
    await tasks[0]
    assert breaker.state is State.HALF_OPEN
    passage.__exit__(None, None, None)
    assert breaker.state is State.CLOSED
    failed.set()
    with pytest.raises(ConnectionError):
        await tasks[1]
    assert breaker.state is State.CLOSED


def test_callers_do_not_wait_for_each_other(clock):
    """P4, H176: no lock is held during a call: four threads are inside at the same time."""
    breaker, together = breaker_of(clock), threading.Barrier(4, timeout=2)
    with ThreadPoolExecutor(4) as threads:
        met = [threads.submit(breaker(together.wait)) for _ in range(4)]
        assert sorted(each.result() for each in met) == [0, 1, 2, 3]


def test_it_opens_after_so_many_failures_in_a_row_and_says_when_to_come_again(clock):
    """P4, H176: an answer in between begins the count anew."""
    told = Told()
    breaker = breaker_of(clock, hooks=told)
    fail(breaker, 2)
    with breaker:
        pass
    fail(breaker, 2)
    assert breaker.state is State.CLOSED
    fail(breaker)
    clock.advance(timedelta(seconds=10))
    with pytest.raises(CircuitOpen) as refused, breaker:
        raise AssertionError
    assert (refused.value.retry_at - clock.now(), refused.value.after) == (timedelta(seconds=20),) * 2
    clock.advance(timedelta(seconds=20))
    with breaker:
        pass
    assert told.moments == [CircuitOpened, CallRefused, CircuitHalfOpened, CircuitClosed]


def test_a_probe_that_fails_opens_it_for_another_time(clock):
    """P4, H176."""
    breaker = breaker_of(clock)
    fail(breaker, 3)
    clock.advance(OPEN_FOR)
    fail(breaker)
    with pytest.raises(CircuitOpen), breaker:
        raise AssertionError
    clock.advance(OPEN_FOR)
    with breaker:
        pass
    assert breaker.state is State.CLOSED


async def test_a_cancelled_probe_opens_it_again_and_frees_the_gate(clock):
    """P4, H176: the next one is let through, and the breaker is not half-open for ever."""
    breaker = breaker_of(clock)
    fail(breaker, 3)
    clock.advance(OPEN_FOR)
    task = asyncio.create_task(made(breaker, asyncio.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert breaker.state is State.OPEN
    with breaker:
        pass
    assert breaker.state is State.CLOSED


async def test_a_probe_without_an_end_is_given_up(clock):
    """P4, H176: after ``open_for`` another one is let through, and the late end of the first one counts nothing."""
    breaker, hangs = breaker_of(clock), asyncio.Event()
    fail(breaker, 3)
    clock.advance(OPEN_FOR)
    hung = asyncio.create_task(made(breaker, hangs.wait))
    await asyncio.sleep(0)
    clock.advance(OPEN_FOR - timedelta(seconds=1))
    with pytest.raises(CircuitOpen), breaker:
        raise AssertionError
    clock.advance(timedelta(seconds=1))
    fail(breaker)
    hangs.set()
    await hung
    assert breaker.state is State.OPEN


@pytest.mark.parametrize("error", [Reject("no money"), ValueError("no number")])
def test_an_error_that_does_not_count_is_an_answer(clock, error):
    """P4, H176: whoever says no is there."""
    breaker = breaker_of(clock)
    fail(breaker, 3)
    clock.advance(OPEN_FOR)
    with suppress(type(error)), breaker:
        raise error
    assert breaker.state is State.CLOSED


def wrapped(error):
    try:
        raise RuntimeError from error
    except RuntimeError as outer:
        return outer


@pytest.mark.parametrize(
    "error", [NotBegun(), BulkheadFull("calls", 1), wrapped(NotBegun()), ExceptionGroup("", [NotBegun()])], ids=repr
)
def test_what_was_not_made_is_no_answer(clock, error):
    """P4, H176: a guard inside of this one has stopped the call, so nobody knows whether it would be answered."""
    breaker = breaker_of(clock)
    fail(breaker, 3)
    clock.advance(OPEN_FOR)
    with suppress(type(error)), breaker:
        raise error
    assert breaker.state is State.OPEN


def test_counts_that_fails_hides_no_error(clock, caplog):
    """P4, H176: what the call raised is raised, and the fault is logged."""

    def counts(error):
        raise LookupError

    breaker = breaker_of(clock, counts=counts)
    fail(breaker, 5)
    assert breaker.state is State.CLOSED
    assert "counts=" in caplog.text


class Response:
    def __init__(self, status):
        self.status_code = status


class Answered(Exception):
    def __init__(self, status):
        self.response = Response(status)


class OfBotocore(Exception):
    def __init__(self, status):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class OfGrpc(Exception):
    def __init__(self, name):
        self.name = name

    def code(self):
        return self


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (Answered(503), True),
        (Answered(429), True),
        (Answered(404), False),
        (OfBotocore(503), True),
        (OfBotocore(400), False),
        (URLError(ConnectionRefusedError()), True),
        (HTTPError("http://bank", 502, "", None, None), True),
        (HTTPError("http://bank", 404, "", None, None), False),
        (OfGrpc("UNAVAILABLE"), True),
        (OfGrpc("NOT_FOUND"), False),
        (httpx.ConnectTimeout("slow"), True),
        (httpx.RemoteProtocolError("gone"), True),
        (httpx.UnsupportedProtocol("ftp"), False),
        (redis.exceptions.ConnectionError(), True),
        (Answered(200), False),
        (wrapped(TimeoutError()), True),
        (ExceptionGroup("", [ValueError(), ConnectionResetError()]), True),
        (Reject("no"), False),
        (FileNotFoundError(), False),
        (KeyError(), False),
    ],
    ids=repr,
)
def test_what_an_outage_is(error, counts):
    """P4, H176: connection, time-out, 5xx, 429; never a Reject."""
    assert is_outage(error) is counts


def test_a_reject_is_an_answer_whatever_it_was_raised_from():
    """P4, H176."""
    rejected = Reject("too late")
    rejected.__cause__ = TimeoutError()
    assert not is_outage(rejected)


class TestForms:
    """One object as a block and as a decorator, in plain code and in coroutines."""

    async def test_a_decorated_coroutine_function_is_protected(self, clock):
        """P4, H176: pybreaker's decorator sees only that a coroutine was made."""
        breaker = breaker_of(clock)

        @breaker
        async def call(amount):
            raise ConnectionError

        for _ in range(3):
            with pytest.raises(ConnectionError):
                await call(1)
        with pytest.raises(CircuitOpen):
            await call(1)

    def test_a_decorated_function_is_protected(self, clock):
        """P4, H176."""
        breaker = breaker_of(clock, failures=1)

        @breaker
        def call():
            raise ConnectionError

        with pytest.raises(ConnectionError):
            call()
        with pytest.raises(CircuitOpen):
            call()

    async def test_what_cannot_be_guarded_is_refused(self, clock):
        """P4, H176: a generator, and a def that gives something to await."""
        breaker = breaker_of(clock)

        def generates():
            yield 1

        with pytest.raises(ConfigurationError, match="yields"):
            breaker(generates)
        with pytest.raises(ConfigurationError, match="async def"):
            breaker(lambda: asyncio.sleep(0))()

    def test_blocks_may_lie_within_each_other(self, clock):
        """P4, H176: of the same breaker and of others, also in a stack."""
        outer, inner = breaker_of(clock, failures=1), breaker_of(clock, failures=1)
        with outer, ExitStack() as stack:
            stack.enter_context(inner)
            stack.enter_context(outer)
        with suppress(ConnectionError), outer, suppress(ConnectionError), inner:
            raise ConnectionError
        assert (outer.state, inner.state) == (State.CLOSED, State.OPEN)

    def test_a_generator_may_be_left_in_another_order(self, clock):
        """P4, H176: the passages of two breakers are told apart, whichever is left first."""
        first, second = breaker_of(clock, failures=1), breaker_of(clock, failures=1)

        def guarded():
            with first:
                yield

        inside = guarded()
        next(inside)
        with second, suppress(ConnectionError):
            inside.throw(ConnectionError())
        assert (first.state, second.state) == (State.OPEN, State.CLOSED)

    def test_a_passage_may_be_left_elsewhere(self, clock):
        """P4, H176: what is entered in one context and left in another says so, or uses ``passing``."""
        breaker = breaker_of(clock, failures=1)
        contextvars.Context().run(breaker.__enter__)
        with pytest.raises(ConfigurationError, match="passing"):
            contextvars.Context().run(breaker.__exit__, None, None, None)
        passage = breaker.passing()
        contextvars.Context().run(passage.__enter__)
        contextvars.Context().run(passage.__exit__, ConnectionError, ConnectionError(), None)
        assert breaker.state is State.OPEN

    @pytest.mark.parametrize("given", [{"failures": 0}, {"failures": 1.5}, {"open_for": timedelta(0)}])
    def test_numbers_that_mean_nothing_are_refused(self, given):
        """P4, H176."""
        with pytest.raises(ConfigurationError):
            CircuitBreaker("bank", **given)
