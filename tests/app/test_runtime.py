"""What keeps background parts alive: supervision, health, stopping, lag, forks."""

import asyncio
import logging
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from txpatterns import App
from txpatterns.clock import SystemClock
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import ConfigurationError
from txpatterns.runtime.lag import LagWatch
from txpatterns.runtime.moments import CONSUMER, RELAY, Idle
from txpatterns.runtime.part import Part
from txpatterns.runtime.pulse import Pulse
from txpatterns.runtime.supervisor import Supervisor
from txpatterns.runtime.worker import Worker


class MovedClock(SystemClock):
    """The real clock, with a steady time that a test moves and pauses that do not last."""

    def __init__(self):
        self.ahead = 0.0

    def monotonic(self):
        return super().monotonic() + self.ahead

    async def wait(self, event, timeout):
        self.ahead += timeout.total_seconds()
        await asyncio.sleep(0)
        return event.is_set()


class Failing:
    """A background part that fails as often as it is told to, then runs until stopped."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.started = 0
        self.well = asyncio.Event()
        self.stopping = asyncio.Event()
        self.ended = []

    async def run(self):
        self.started += 1
        if self.failures:
            failure = self.failures.pop(0)
            if failure is not None:
                raise failure
            return
        self.well.set()
        await self.stopping.wait()
        self.ended.append(self)

    def stop(self):
        self.stopping.set()


async def test_a_part_that_dies_is_started_again_and_told_of(caplog):
    """H143: a loop that raises, or simply ends, is restarted with growing pauses; health and log say why."""
    supervisor = Supervisor(clock=MovedClock())
    part = Failing(ValueError("first"), None, OSError("third"))
    supervisor.start(Part("relay", part.run, stop=part.stop))
    await asyncio.wait_for(part.well.wait(), 120)
    (health,) = supervisor.health().parts
    assert (health.running, health.restarts, health.error) == (True, 3, "OSError: third")
    assert caplog.text.count("started again") == 3
    assert await supervisor.stop(timedelta(seconds=5))
    assert part.started == 4


async def test_ready_is_judged_by_progress():
    """H143: a part that runs and does not get on looks healthy to everybody but its progress."""
    clock = MovedClock()
    supervisor, pulse, part = Supervisor(clock=clock), Pulse(clock), Failing()
    supervisor.start(Part("relay", part.run, stop=part.stop, heard=pulse.heard(RELAY)))
    await part.well.wait()
    assert supervisor.health().ready
    clock.ahead += 100
    stuck = supervisor.health()
    assert (stuck.alive, stuck.ready) == (True, False)
    assert stuck.parts[0].quiet_for >= timedelta(seconds=100)
    pulse.tell(Idle(RELAY))
    assert supervisor.health().ready
    assert pulse.heard(CONSUMER)() == float("-inf")
    await supervisor.stop(timedelta(seconds=5))


async def test_health_gathers_what_the_parts_say():
    """P4, H192: who looks at a process sees what each part wants to be looked at, and which topics do not flow."""
    supervisor, part = Supervisor(), Failing()
    supervisor.start(
        Part("relay", part.run, part.stop, attention=lambda: ["look"], postponed=lambda: {"bad": "no queue"})
    )
    supervisor.start(Part("quiet", part.run, part.stop))
    health = supervisor.health()
    assert [found.attention for found in health.parts] == [("look",), ()]
    assert health.postponed == {"bad": "no queue"}
    await supervisor.stop(timedelta(seconds=5))


async def test_parts_stop_one_after_the_other_last_started_first():
    """H37: the relay ends while the consumer still handles what it waits for."""
    supervisor = Supervisor()
    first, second, order = Failing(), Failing(), []
    for name, part in (("consumer", first), ("relay", second)):
        part.ended = order
        supervisor.start(Part(name, part.run, stop=part.stop))
    await asyncio.gather(first.well.wait(), second.well.wait())
    assert await supervisor.stop(timedelta(seconds=5))
    assert order == [second, first]


async def test_what_does_not_stop_in_time_is_cancelled(caplog):
    """H37: a stop has a deadline, and says what it had to leave."""
    supervisor, part = Supervisor(), Failing()
    supervisor.start(Part("relay", part.run, stop=lambda: None))
    await part.well.wait()
    assert not await supervisor.stop(timedelta(milliseconds=10))
    assert "cancelled: relay" in caplog.text
    assert not supervisor.health().alive


async def test_a_part_that_fails_as_it_stops_is_told_of(caplog):
    """H143: it is not started again, and its error is in the log."""
    supervisor, began, stopping = Supervisor(), asyncio.Event(), asyncio.Event()

    async def run():
        began.set()
        await stopping.wait()
        raise OSError("its last write")

    supervisor.start(Part("relay", run, stopping.set))
    await began.wait()
    assert await supervisor.stop(timedelta(seconds=5))
    assert "the relay failed while it stopped" in caplog.text
    assert supervisor.health().parts[0].error == "OSError: its last write"


async def test_a_stop_that_is_cancelled_leaves_no_part_behind():
    """H142, I14: whoever gave up waiting has no part that goes on behind their back."""
    supervisor, parts = Supervisor(), [Failing(), Failing()]
    asked = asyncio.Event()
    for name, part in zip(("consumer", "relay"), parts, strict=True):
        supervisor.start(Part(name, part.run, stop=asked.set))
    await asyncio.gather(*(part.well.wait() for part in parts))
    stopping = asyncio.create_task(supervisor.stop(timedelta(hours=1)))
    await asked.wait()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert [part.running for part in supervisor.health().parts] == [False, False]


async def test_a_cancelled_part_is_not_restarted():
    """H142: cancellation ends a part; it is not mistaken for a failure."""
    supervisor, part = Supervisor(), Failing()
    supervisor.start(Part("relay", part.run, stop=part.stop))
    await part.well.wait()
    for task in asyncio.all_tasks():
        if task.get_name() == "txpatterns relay":
            task.cancel()
    await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "txpatterns relay"])
    assert (part.started, supervisor.health().alive) == (1, False)


def test_a_blocked_loop_is_said_with_its_cure(caplog):
    """H144: the log tells of a handler that waits without await, and what to write instead."""
    caplog.set_level(logging.WARNING, "txpatterns.runtime")
    watch = LagWatch(timedelta(seconds=1))
    watch.note(0.4)
    assert not caplog.records
    watch.note(3.2)
    assert "blocked for 3.2 s" in caplog.text
    assert watch.longest == timedelta(seconds=3.2)


@pytest.mark.parametrize(
    ("waits", "blamed", "spared"),
    [
        ([2.0, 6.5], "the machine is busy, and for 4.5 s", "async def"),
        ([2.0, 2.1], "without `await`", "machine"),
        ([None, None], "the machine is busy, or", "no processor"),
    ],
    ids=["no processor", "a handler", "unknown"],
)
async def test_a_busy_machine_is_not_blamed_on_the_code(caplog, waits, blamed, spared):
    """H144: a loop that got no processor is told from one that was blocked, and the line names whose loop it is."""
    noted, times, waited = asyncio.Event(), iter([0.0, 5.0]), iter(waits)

    class Watch(LagWatch):
        def note(self, late):
            super().note(late)
            noted.set()

    watch = Watch(name="orders", monotonic=lambda: next(times, 100.0), waited=lambda: next(waited, 50.0))
    caplog.set_level(logging.WARNING, "txpatterns.runtime")
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(noted.wait(), 120)
    watch.stop()
    await running
    line = caplog.records[0].getMessage()
    assert "the event loop of orders was blocked for 4.8 s" in line
    assert blamed in line
    assert spared not in line


async def test_the_lag_watch_measures_the_loop():
    """H144: the time is that of the loop's turns, by the clock given."""
    noted = asyncio.Event()

    class Watch(LagWatch):
        def note(self, late):
            super().note(late)
            noted.set()

    times = iter([0.0, 5.0])
    watch = Watch(monotonic=lambda: next(times, 100.0))
    running = asyncio.create_task(watch.run())
    await asyncio.wait_for(noted.wait(), 120)
    watch.stop()
    await running
    assert watch.longest >= timedelta(seconds=4.7)


async def test_of_several_in_one_loop_one_measures():
    """H144: a block is told once, in the name of the first; when that one is stopped the next goes on."""
    noted = asyncio.Queue()

    class Watch(LagWatch):
        def note(self, late):
            noted.put_nowait(self)

    first, second = Watch(), Watch()
    async with asyncio.TaskGroup() as group:
        for watch in (first, second):
            group.create_task(watch.run())
        assert [await asyncio.wait_for(noted.get(), 120) for _ in range(3)] == [first, first, first]
        first.stop()
        while await asyncio.wait_for(noted.get(), 120) is first:
            continue
        second.stop()


async def test_an_app_s_loop_is_watched_under_its_name(tmp_path, monkeypatch):
    """H144: of several services in one terminal, the line says which one is late."""
    names = []

    class Watch(LagWatch):
        def __init__(self, **given):
            names.append(given["name"])
            super().__init__(**given)

    monkeypatch.setattr("txpatterns.parts.LagWatch", Watch)
    async with App("orders", database=f"sqlite+aiosqlite:///{tmp_path}/a.db", broker="memory://").running():
        assert names == ["orders"]


def test_a_worker_that_ends_by_an_error_says_so(caplog):
    """H143: the thread is nobody's to wait for, so the log has it; and it can be started again."""
    runs = []

    @asynccontextmanager
    async def running():
        runs.append(asyncio.current_task())
        yield
        raise OSError("the parts could not be ended")

    worker = Worker(running)
    for times in (1, 2):
        with worker.in_thread():
            assert len(runs) == times
    assert caplog.text.count("the worker's thread ended") == 2
    assert "the parts could not be ended" in caplog.text


def test_stopping_a_worker_twice_is_harmless():
    """A server's hooks may call it in any order."""
    worker = Worker(lambda: pytest.fail("never started"))
    worker.stop()
    worker.stop()


FORKED = """
import os
import sys

from txpatterns import App, Event, Transaction

app = App("forked", sys.argv[1], "memory://")


class Told(Event, topic="told", type="told", key="by"):
    by: str


def tell(who):
    with app.sync_session() as session, session.begin():
        app.outbox.add(session, Told(by=who))
    print(who, "committed", flush=True)


with app.worker().in_thread():
    assert "relay" in [part.name for part in app.health().parts]
    pid = os.fork()
    if pid == 0:
        try:
            assert app.health().parts == (), app.health()
            tell("child")

            @app.on(Told)
            async def hear(event: Told, tx: Transaction) -> None: ...

            with app.worker().in_thread():
                assert "relay" in [part.name for part in app.health().parts]
            print("child ran parts of its own", flush=True)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert "relay" in [part.name for part in app.health().parts]
    tell("parent")
"""


async def test_a_forked_child_shares_nothing_with_its_parent(child, database, tmp_path):
    """H38: a server forks after start: the child runs no parts and opens its own connections; the parent goes on.

    The child may register handlers and start parts of its own, on the same App.

    Not on SQLite, whose own locks do not survive a fork while another thread is inside it.
    """
    url = database.url("asyncpg")
    async with Database(url) as opened:
        await opened.transact(create_missing)
    (tmp_path / "forked.py").write_text(FORKED)
    running = child(tmp_path / "forked.py", url)
    assert running.wait(within=timedelta(minutes=2)) == 0, running.output
    assert "child committed" in running.output
    assert "child ran parts of its own" in running.output
    assert "parent committed" in running.output


async def test_all_parts_are_asked_until_none_has_brought_anything_new(tmp_path):
    """P7: what an attempt has emitted is published, too; and a wish to drain ends, whatever comes meanwhile."""
    app, asked = App("drained", f"sqlite+aiosqlite:///{tmp_path}/drained.db", "memory://"), []
    answers = {"first": [False] * 9, "last": [True, True, False]}

    def part(name):
        async def drained(drain):
            asked.append((name, await drain.moment()))
            return answers[name].pop(0)

        return Part(name, asyncio.Event().wait, lambda: None, drained=drained)

    async with app:
        app._parts._running = (part("first"), Part("deaf", asyncio.Event().wait, lambda: None), part("last"))
        await app.drained()
    assert [name for name, _ in asked] == ["last", "first"] * 3
    assert len({moment for _, moment in asked}) == 1
    app._parts._running = ()
    with pytest.raises(ConfigurationError, match="No relay runs here"):
        await app.drained()


async def test_a_part_that_is_not_there_cannot_be_left_out(tmp_path):
    """P4: a mistyped name is no reason to run everything."""
    app = App("parts", f"sqlite+aiosqlite:///{tmp_path}/parts.db", "memory://")
    with pytest.raises(TypeError, match="rely"):
        async with app.running(rely=False):
            raise AssertionError
