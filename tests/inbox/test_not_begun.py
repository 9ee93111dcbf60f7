"""A handler whose call was not made, because the circuit is open, has its message handled later, whole and in order."""

from datetime import UTC, datetime, timedelta

import pytest

from inbox.support import Noted, note, quick, running
from txpatterns.errors import CircuitOpen, NotBegun
from txpatterns.inbox import Transaction
from txpatterns.resilience.breaker import CircuitBreaker
from txpatterns.retries import Again, Dead, FailureRules, OnFailure, RetryLadder, decide

ONE = RetryLadder((timedelta(seconds=1),))


class Middle:
    """A dice that always shows its middle."""

    def random(self):
        return 0.5


def raised_from(cause):
    error = RuntimeError("no answer")
    error.__cause__ = cause
    return error


def verdict(error, attempts=2, rules=None):
    return decide(error, attempts, rules=rules or FailureRules(), ladder=ONE, random=Middle())


@pytest.mark.parametrize("policy", list(OnFailure))
async def test_a_message_waits_for_the_breaker_and_burns_no_attempt(world, policy):
    """P2, P3, P7, H176: a ladder of two attempts is enough for any number of refusals; the key keeps its order."""
    consumer = world.consumer(policies=quick(2, on_failure=policy))
    bank, numbers = CircuitBreaker("bank", open_for=timedelta(milliseconds=1)), iter(range(100))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if next(numbers) < 8:
            bank.open()
        async with bank:
            pass

    world.put(Noted(book="a", number=1), Noted(book="a", number=2))
    async with running(consumer):
        await world.told.until(lambda counts: counts["handled"] == 2)
    effects = await world.effects()
    assert effects == [("a", 1), ("a", 2)] if policy is OnFailure.HOLD else sorted(effects) == [("a", 1), ("a", 2)]
    assert await world.dead() == []
    assert await world.waiting() == []


async def test_what_waits_for_a_breaker_has_no_attempt_counted(world):
    """P7, H176: it is due when a call may be let through."""
    consumer = world.consumer(policies=quick(2))
    bank = CircuitBreaker("bank", open_for=timedelta(hours=1))
    bank.open()

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        with bank:
            await tx.session.execute(note(event.book, event.number))

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
        assert world.told.counts["failed"] == 1
    (row,) = await world.waiting()
    assert (row.state, row.attempts) == ("retrying", 0)
    assert row.due_at > datetime.now(UTC) + timedelta(minutes=58)
    assert await world.effects() == []


def test_those_that_were_refused_do_not_come_back_at_the_same_moment():
    """P7, H176: up to a quarter later than the circuit may be closed; of several the longest counts."""
    refused = CircuitOpen("bank", retry_at=datetime.now(UTC), after=timedelta(seconds=8))
    assert verdict(refused) == Again(timedelta(seconds=9), counts=False)
    longest = ExceptionGroup("", [NotBegun(after=timedelta(seconds=3)), NotBegun(after=timedelta(seconds=5))])
    assert verdict(longest) == Again(timedelta(seconds=5), counts=False)
    assert verdict(raised_from(NotBegun(after=timedelta(seconds=3)))) == Again(timedelta(seconds=3), counts=False)


def test_what_is_said_about_such_errors_is_done():
    """P7, H176: a handler may still give them a ladder, or give up; permanent=[Exception] does not mean them."""
    error = NotBegun()
    assert verdict(error, rules=FailureRules(permanent=(Exception,))) == Again(error.after, counts=False)
    assert verdict(error, rules=FailureRules(permanent=(NotBegun,))) == Dead("permanent")
    assert verdict(error, rules=FailureRules(ladders={NotBegun: ONE})) == Dead("exhausted")


def test_what_failed_beside_it_counts():
    """P7, H176: a mistake is not hidden behind a circuit that is open."""
    both = ExceptionGroup("", [NotBegun(), ValueError()])
    assert verdict(both, attempts=1).counts
    assert verdict(both) == Dead("exhausted")
