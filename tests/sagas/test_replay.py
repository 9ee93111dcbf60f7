"""A saga's code is driven by hand, and does the same again from its journal."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import anyio
import pytest

from sagas.by_hand import Journal, begun, replay_of
from txpatterns.errors import SagaDiverged
from txpatterns.sagas.context import SagaContext
from txpatterns.sagas.facts import Attempted, Ended, Fact, Failure, Mark, Noted, Waiting
from txpatterns.sagas.following import differences, follow
from txpatterns.sagas.operations import Suspended
from txpatterns.sagas.replay import Broken
from txpatterns.sagas.strands import Error, Value
from txpatterns.sagas.transactions import StepTransaction

LOST = Failure("builtins:ConnectionError", "lost")


async def work(tx: StepTransaction, name: str = "") -> str:
    return name


async def _sleeps(saga: SagaContext) -> None:
    await asyncio.sleep(0.01)


async def _yields(saga: SagaContext) -> None:
    await asyncio.sleep(0)


async def _times_out(saga: SagaContext) -> None:
    async with asyncio.timeout(1):
        await saga.step(work)


async def _groups(saga: SagaContext) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(0))


async def _gathers(saga: SagaContext) -> None:
    await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))


async def _makes_a_task(saga: SagaContext) -> None:
    await asyncio.create_task(asyncio.sleep(0))


async def _waits_for(saga: SagaContext) -> None:
    await asyncio.wait_for(asyncio.sleep(1), 1)


async def _goes_to_a_thread(saga: SagaContext) -> None:
    await asyncio.to_thread(int)


async def _takes_anyio(saga: SagaContext) -> None:
    with anyio.move_on_after(1):
        await saga.step(work)


async def _waits_behind_a_helper(saga: SagaContext) -> None:
    await _helper()


async def _helper() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("code", "named"),
    [
        (_sleeps, "sleep"),
        (_yields, "sleep"),
        (_times_out, "inside a task"),
        (_groups, "parent task"),
        (_gathers, "_GatheringFuture"),
        (_makes_a_task, "Task"),
        (_waits_for, "wait_for"),
        (_goes_to_a_thread, "to_thread"),
        (_takes_anyio, "NoneType"),
        (_waits_behind_a_helper, "Event.wait"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
async def test_what_no_journal_holds_is_refused_by_name(code: Callable[..., object], named: str) -> None:
    """P4, H164: whatever the code awaits that is not a saga's own ends the turn at once, with its name and its line."""
    end = await _in_callback(lambda: replay_of(code).begin().end)  # type: ignore[arg-type]
    if isinstance(end, Broken):
        assert named in end.text
        assert "test_replay.py" in end.text
    else:
        assert isinstance(end, Error)
        assert named in str(end.error)


async def test_a_helper_s_own_line_is_named() -> None:
    """P4, H164: the line is the innermost one of the user's own, not the saga's."""
    end = await _in_callback(lambda: replay_of(_waits_behind_a_helper).begin().end)
    assert isinstance(end, Broken)
    assert "in _helper" in end.text


@pytest.mark.parametrize("seed", range(300))
def test_branches_do_the_same_again_in_whatever_order_they_went_on(seed: int) -> None:
    """P4, H165: after each fact a new run from the journal asks for the same things, in the same order."""
    draw = random.Random(seed)

    async def branch(saga: SagaContext, name: str, log: list[str]) -> str:
        first = await saga.step(work, f"{name}1")
        log.append(first + str(saga.random()))
        inner = await saga.gather(saga.step(work, f"{name}2"), saga.step(work, f"{name}3"))
        log.append(inner[0])
        return first + inner[1]

    async def code(saga: SagaContext) -> object:
        log: list[str] = []
        found = await saga.gather(*(branch(saga, name, log) for name in "xyz"), saga.step(work, "s"), at_once=3)
        last = await saga.step(work, f"after {log}")
        return found, last, log, saga.now(), saga.uuid()

    journal = Journal(code)
    while journal.turn.end is None:
        path = draw.choice(sorted(journal.replay.waiting))
        turn = journal.end(path, journal.replay.waiting[path].work.arguments[0])
        again = journal.again()
        assert differences(journal.replay, again) is None, f"seed {seed}"
        assert journal.turn.end == turn.end, f"seed {seed}"
        assert not journal.turn.notes, "what was noted is not noted again"
    assert isinstance(journal.turn.end, Value)


def test_a_gathering_waits_for_what_runs_and_begins_nothing_more_behind_an_error() -> None:
    """P4, H165: the first error is raised once all parts that were begun have ended."""

    async def code(saga: SagaContext) -> str:
        try:
            await saga.gather(*(saga.step(work, str(n)) for n in range(5)), at_once=2)
        except OSError as error:
            return str(error)
        return ""

    replay = replay_of(code)
    replay.begin()
    assert list(replay.waiting) == ["1", "2"]
    assert replay.give("2", Error(OSError("no"))).end is None
    assert list(replay.waiting) == ["1"]
    assert replay.give("1", Value("")).end == Value("no")


def test_nothing_to_gather_is_nothing_to_wait_for() -> None:
    """P4, H165: no parts, and parts that ask for nothing, end at once."""

    async def quick(n: int) -> int:
        return n

    async def code(saga: SagaContext) -> object:
        return await saga.gather(), await saga.gather(quick(1), quick(2)), await saga.gather(saga.gather(quick(3)))

    assert replay_of(code).begin().end == Value(((), (1, 2), ((3,),)))


def test_an_operation_is_awaited_once() -> None:
    """P4, H164: twice, or never, could not be told apart in a journal."""

    async def twice(saga: SagaContext) -> None:
        step = saga.step(work, "a")
        await step
        await step

    async def never(saga: SagaContext) -> None:
        saga.step(work, "b")

    replay = replay_of(twice)
    replay.begin()
    end = replay.give("1", Value("")).end
    assert isinstance(end, Broken)
    assert "awaited twice" in end.text
    end = replay_of(never).begin().end
    assert isinstance(end, Broken)
    assert "without awaiting <step work at 1>" in end.text


def test_a_branch_is_gathered_once() -> None:
    """P4, H164: the second time it would go on from where it waits, with the result of a step that has not run."""
    results: list[object] = []

    async def branch(saga: SagaContext) -> None:
        results.append(await saga.step(work, "a"))

    async def code(saga: SagaContext) -> None:
        again = branch(saga)
        await saga.gather(again, again)

    replay = replay_of(code)
    end = replay.begin().end
    replay.close()
    assert isinstance(end, Broken)
    assert "branch, which has begun already" in end.text
    assert results == []


def test_code_that_is_put_away_cannot_do_anything() -> None:
    """P4, H166: its ``finally`` runs when it is suspended, and each operation in it raises; nothing is drawn."""
    seen: list[str] = []

    @asynccontextmanager
    async def held(saga: SagaContext) -> AsyncIterator[None]:
        try:
            yield
        finally:
            seen.append("left")

    async def code(saga: SagaContext) -> None:
        try:
            async with held(saga):
                await saga.step(work, "a")
        finally:
            try:
                await saga.step(work, "undo by hand")
            except Exception:  # noqa: BLE001 - what is looked for is one that swallows
                seen.append("swallowed")
            except Suspended:
                seen.append("suspended")
                raise

    replay = replay_of(code)
    replay.begin()
    drawn = list(replay.story)
    assert replay.close() == []
    assert seen == ["left", "suspended"]
    assert replay.story == drawn


def test_code_that_does_not_let_itself_be_put_away_is_named() -> None:
    """P4, H166: one that swallows everything is closed some times, and then told by its line."""
    is_over: list[bool] = []

    async def code(saga: SagaContext) -> None:
        step = saga.step(work, "a")
        while not is_over:
            with suppress(BaseException):
                await step

    replay = replay_of(code)
    replay.begin()
    (coroutine,) = (strand.coroutine for strand in replay._strands)
    (told,) = replay.close()
    assert "goes on when it is put away" in told
    assert "test_replay.py" in told
    is_over.append(True)
    coroutine.close()


def test_code_that_asks_for_something_new_again_and_again_is_stopped() -> None:
    """P4, H166: a loop that swallows everything would keep the whole process from going on."""

    is_over: list[bool] = []

    async def stubborn(saga: SagaContext) -> None:
        while not is_over:
            with suppress(BaseException):
                await saga.sleep(timedelta(seconds=1))

    replay = replay_of(stubborn)
    replay.begin()
    (coroutine,) = (strand.coroutine for strand in replay._strands)
    (told,) = replay.close()
    assert "stubborn goes on when it is put away" in told
    is_over.append(True)
    coroutine.close()


def test_code_that_asks_for_something_else_is_found_out() -> None:
    """P4, H171: another kind, name or argument than the journal has; more, or less, than it has."""

    async def first(saga: SagaContext) -> None:
        await saga.step(work, "a")
        await saga.step(work, "b")

    async def other_argument(saga: SagaContext) -> None:
        await saga.step(work, "c")

    async def other_kind(saga: SagaContext) -> None:
        await saga.sleep(timedelta(1))

    async def none(saga: SagaContext) -> None:
        return None

    journal = Journal(first)
    journal.end("1", "")
    for code, told in (
        (other_argument, "At 1 the journal has step work with other arguments"),
        (other_kind, "At 1 the journal has step work; the code asks for sleep at 1"),
        (none, "At 1 the journal has step work; the code has ended"),
    ):
        with pytest.raises(SagaDiverged, match=told):
            follow(replay_of(code), journal.facts, _value)

    finished = Journal(none)
    with pytest.raises(SagaDiverged, match="had come to its end"):
        follow(replay_of(first), finished.facts, _value)
    with pytest.raises(SagaDiverged, match="the journal has call charge; the code waits for <step work at 1>"):
        follow(replay_of(first), [begun("9", "call", "charge")], _value)


@pytest.mark.parametrize(
    ("fact", "told"),
    [
        (Waiting(Mark("1", "sleep", "", "60.0"), 60.0), "the journal has sleep; the code asks for step work at 1"),
        (Attempted(Mark("1", "call", "charge", ""), 2, LOST, 60.0), "the journal has call charge; the code"),
    ],
)
async def test_a_wait_that_the_code_does_not_ask_for_any_more_is_found(fact: Fact, told: str) -> None:
    """P4, H171: a saga stands in its waits nearly all of the time; what comes in their place is not made to wait."""

    async def code(saga: SagaContext) -> None:
        await saga.step(work)

    with pytest.raises(SagaDiverged, match=told):
        follow(replay_of(code), [fact], lambda _operation, _fact: Value(None))


def test_what_was_noted_must_be_asked_for_again() -> None:
    """P4, H171: a time where the journal has a random number, and one that is not asked for any more."""

    async def asks(saga: SagaContext) -> None:
        saga.random()
        await saga.step(work, "a")

    async def asks_the_time(saga: SagaContext) -> None:
        try:
            saga.now()
        except Exception as error:
            raise AssertionError("the code itself is not told") from error
        await saga.step(work, "a")

    async def asks_nothing(saga: SagaContext) -> None:
        await saga.gather(saga.step(work, "a"))

    facts: list[Fact] = Journal(asks).facts
    with pytest.raises(SagaDiverged, match="the journal has random; the code asks for now"):
        follow(replay_of(asks_the_time, facts), facts, _value)
    facts = [_random_at("9")]
    with pytest.raises(SagaDiverged, match="had asked for random, and now does not"):
        follow(replay_of(asks_nothing, facts), facts, _value)


async def test_a_context_is_for_the_saga_s_own_code() -> None:
    """P4, H164: a task that the code has left behind cannot draw operations."""
    kept: list[SagaContext] = []

    async def code(saga: SagaContext) -> None:
        kept.append(saga)
        await saga.step(work, "a")

    replay_of(code).begin()
    with pytest.raises(RuntimeError, match="outside of its code"):
        kept[0].step(work, "b")


def _random_at(path: str) -> Noted:
    return Noted(Mark(path, "random", "", ""), "0.5")


def _value(_: object, fact: object) -> Value:
    assert isinstance(fact, Ended)
    return Value("")


async def _in_callback(work: Callable[[], object]) -> object:
    """Run something where no task is current, as an engine does."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[object] = loop.create_future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised where it is awaited
            done.set_exception(error)

    loop.call_soon(run)
    return await done
