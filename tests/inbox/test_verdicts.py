"""What a handler means is found inside of what it raises; what is stored and logged leads to the user's line."""

import asyncio
from datetime import timedelta
from random import Random

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from inbox.support import Noted, note, quick, running
from txpatterns.causes import behind, place_of, story_of, summary_of
from txpatterns.errors import ConfigurationError, Reject, Retry
from txpatterns.inbox import Transaction
from txpatterns.retries import Again, Dead, FailureRules, RetryLadder, decide

HOUR, DAY, MINUTE = timedelta(hours=1), timedelta(days=1), timedelta(minutes=1)
LONG_LADDER, USUAL = RetryLadder((DAY,) * 9, jitter=0), RetryLadder((MINUTE,) * 2, jitter=0)


class Broken(Exception): ...


class Wrapped(Exception): ...


RULES = FailureRules((LookupError,), {OSError: LONG_LADDER})


def caused(outer, inner):
    with pytest.raises(type(outer)) as raised:
        raise outer from inner
    return raised.value


def during(outer, inner):
    outer.__context__ = inner
    return outer


def group(*members):
    return BaseExceptionGroup("unhandled errors in a TaskGroup", members)


REJECT, RETRY, PERMANENT, AWAY = Reject("no"), Retry("later", after=HOUR), KeyError("gone"), ConnectionError("away")

VERDICTS = {
    "plain": (Broken(), Again(MINUTE)),
    "reject in a group": (group(REJECT), Dead("rejected")),
    "reject in a group in a group": (group(Broken(), group(Broken(), REJECT)), Dead("rejected")),
    "reject beside others": (group(Broken(), RETRY, REJECT), Dead("rejected")),
    "permanent in a group": (group(Broken(), PERMANENT), Dead("permanent")),
    "retry in a group": (group(RETRY, Broken()), Again(HOUR)),
    "ladder in a group": (group(Broken(), AWAY), Again(DAY)),
    "the longest wait": (group(RETRY, AWAY), Again(DAY)),
    "system exit in a group": (group(SystemExit(1)), Again(MINUTE)),
    "reject as a cause": (caused(Wrapped(), REJECT), Dead("rejected")),
    "permanent as the cause of a cause": (caused(Wrapped(), caused(Broken(), PERMANENT)), Dead("permanent")),
    "retry as a cause": (caused(Wrapped(), RETRY), Again(HOUR)),
    "ladder as a cause": (caused(Wrapped(), AWAY), Again(DAY)),
    "a cause in a group": (group(caused(Wrapped(), REJECT)), Dead("rejected")),
    "a group as a cause": (caused(Wrapped(), group(REJECT)), Dead("rejected")),
    "the outer one is named, too": (caused(RETRY, REJECT), Again(HOUR)),
    "the outer one is named by its class": (caused(ConnectionError(), PERMANENT), Again(DAY)),
    "merely during": (during(Broken(), Reject("no")), Again(MINUTE)),
}


@pytest.mark.parametrize(("error", "verdict"), VERDICTS.values(), ids=VERDICTS)
def test_the_errors_inside_decide(error, verdict):
    """P7, H204: groups and `raise … from` hide nothing of what a handler says; a mere context says nothing."""
    assert decide(error, 1, rules=RULES, ladder=USUAL, random=Random(1)) == verdict


def test_rules_for_everything_leave_the_signals_alone():
    """P7, H204: a rule for `Exception` is the usual one, and neither a group nor an envelope counts as its subject."""
    rules = FailureRules((), {Exception: LONG_LADDER})
    assert decide(group(REJECT), 1, rules=rules, ladder=USUAL, random=Random(1)) == Dead("rejected")
    assert decide(caused(Wrapped(), REJECT), 1, rules=rules, ladder=USUAL, random=Random(1)) == Dead("rejected")
    assert decide(group(Broken()), 1, rules=rules, ladder=USUAL, random=Random(1)) == Again(DAY)
    strict = FailureRules((Exception,), {})
    assert decide(RETRY, 1, rules=strict, ladder=USUAL, random=Random(1)) == Again(HOUR)
    assert decide(Broken(), 1, rules=strict, ladder=USUAL, random=Random(1)) == Dead("permanent")


def test_a_ladder_of_its_own_goes_on_when_the_usual_one_is_used_up():
    """I10, H204: an error without a rule does not shorten what is said of another; each ladder has its end."""
    both = group(Broken(), AWAY)
    assert decide(both, 3, rules=RULES, ladder=USUAL, random=Random(1)) == Again(DAY)
    assert decide(both, 10, rules=RULES, ladder=USUAL, random=Random(1)) == Dead("exhausted")
    assert decide(group(RETRY), 3, rules=RULES, ladder=USUAL, random=Random(1)) == Dead("exhausted")


def test_chains_without_an_end_end():
    """P7, H204, H161: errors that are each other's cause, and a chain longer than anybody reads."""
    one, two = Broken(), Wrapped()
    one.__cause__, two.__cause__ = two, one
    assert set(behind(one)) == {one, two}
    assert decide(one, 1, rules=RULES, ladder=USUAL, random=Random(1)) == Again(MINUTE)
    assert "Broken" in story_of(one)
    long = Broken("first")
    for _ in range(5000):
        outer = Broken()
        outer.__cause__, long = long, outer
    assert decide(long, 1, rules=RULES, ladder=USUAL, random=Random(1)) == Again(MINUTE)
    assert len(story_of(long)) < 8000


@pytest.mark.parametrize(
    ("permanent", "retries"),
    [(ValueError, {}), (["ValueError"], {}), ([], [OSError]), ([], {OSError: MINUTE}), ([], {"OSError": USUAL})],
)
def test_rules_that_are_none_are_refused(sqlite_world, permanent, retries):
    """UX: at registration, with an example."""
    with pytest.raises(ConfigurationError, match="for example"):
        sqlite_world.consumer().on(Noted, permanent=permanent, retries=retries)


CONFLICT = "DO $$ BEGIN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'; END $$"


@pytest.mark.parametrize("how", ["group", "cause", "during", "hidden", "reject"])
async def test_a_conflict_inside_of_another_error_uses_up_no_attempt(postgres_world, how):
    """P2, H45, H204: the database gave the transaction up for another's sake, whatever the handler made of it."""
    world, failures = postgres_world, iter(range(2))
    consumer = world.consumer(policies=quick(1))

    async def conflict(tx):
        await tx.session.execute(sa.text(CONFLICT))

    async def fail(tx):
        if how == "group":
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(conflict(tx))
        try:
            await conflict(tx)
        except DBAPIError as error:
            if how == "cause":
                raise Wrapped from error
            if how == "hidden":
                raise Wrapped from None
            raise (Reject("it failed") if how == "reject" else Wrapped())  # noqa: B904

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note(event.book, event.number))
        if next(failures, None) is not None:
            await fail(tx)

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 1)]
    assert (world.told.counts["failed"], await world.dead()) == (0, [])


async def test_a_lost_link_inside_of_another_error_is_an_outage(postgres_world):
    """P2, P7, H45, H204: no attempt is used up when the connection broke and the handler made an error of its own."""
    world, breaks = postgres_world, iter(range(1))
    consumer = world.consumer(policies=quick(1))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        if next(breaks, None) is not None:
            try:
                await tx.session.execute(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"))
            except DBAPIError as error:
                raise Wrapped from error
        await tx.session.execute(note(event.book, event.number))

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    assert await world.effects() == [("a", 1)]
    assert (world.told.counts["failed"], await world.dead()) == (0, [])


async def test_what_is_stored_leads_to_the_line_that_failed_and_to_all_behind_it(world):
    """P7, H106: the user's own line and not the driver's, the whole chain, in the waiting row and the dead letter."""
    consumer = world.consumer(policies=quick(2, wait=0.001))
    kept = []

    async def charge(tx):
        try:
            await tx.session.execute(sa.text("SELECT * FROM nowhere"))
        except DBAPIError as error:
            raise Wrapped("the bank said no") from error

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        kept.extend(row.error for row in await world.waiting())
        await charge(tx)

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
        await world.told.until(lambda counts: counts["dead"] == 1)
    (letter,) = await world.dead()
    for text in (*kept, letter.error):
        summary, *stack = text.splitlines()
        assert "Wrapped: the bank said no (at " in summary
        assert summary.endswith(".<locals>.charge)")
        assert "nowhere" in "".join(stack)
        assert "direct cause" in "".join(stack)
        assert any("in noted" in line for line in stack)
        assert not any("txpatterns/execution" in line for line in stack)
    assert len(kept) == 1


async def test_a_failure_at_the_commit_names_the_handler(postgres_world):
    """H106: its code has returned by then, and all lines are SQLAlchemy's."""
    world = postgres_world
    await world.database.transact(
        lambda c: c.exec_driver_sql("ALTER TABLE effect ADD UNIQUE (number) DEFERRABLE INITIALLY DEFERRED")
    )
    consumer = world.consumer(policies=quick(1))

    @consumer.on(Noted)
    async def noted(event: Noted, tx: Transaction) -> None:
        await tx.session.execute(note("x", 7))
        await tx.session.execute(note("y", 7))

    world.put(Noted(book="a", number=1))
    async with running(consumer):
        await world.broker.all_acked()
    (letter,) = await world.dead()
    assert "duplicate key" in letter.error
    assert f"(at {__file__}:" in letter.error
    assert " in test_a_failure_at_the_commit_names_the_handler.<locals>.noted)" in letter.error


def test_an_application_that_is_installed_is_named_by_its_own_package():
    """H106: where all lines are those of installed packages, that of the one which was called counts."""
    places = {}
    for package in ("bank", "driver"):
        code = "def call(inner=None):\n    if inner: return inner()\n    raise ValueError('no')\n"
        space = {"__name__": f"{package}.main"}
        exec(compile(code, f"/opt/lib/site-packages/{package}/main.py", "exec"), space)
        places[package] = space["call"]
    with pytest.raises(ValueError, match="no") as raised:
        places["bank"](places["driver"])
    error = raised.value
    error.__traceback__ = error.__traceback__.tb_next
    assert place_of(error) == "/opt/lib/site-packages/bank/main.py:2 in call"
    assert summary_of(error).startswith("ValueError: no (at /opt/lib/")
