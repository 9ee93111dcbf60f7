"""The background parts of one App in one process: which may run, how they start and stop, and what wakes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import TypedDict

from txpatterns.admin.broker_watch import BrokerWatch
from txpatterns.admin.depths import DepthsWatch, QueuesWatch
from txpatterns.brokers.database import DatabaseBroker
from txpatterns.brokers.database.schema import QUEUE_TABLES
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.coordination import FileWatch, Hearing, Listener, Notifier
from txpatterns.database.agreement import check_sessions
from txpatterns.database.database import Database
from txpatterns.errors import ConfigurationError, UnsafeSettings
from txpatterns.ids import WorkerNumbers
from txpatterns.ids.schema import WORKER_TABLES
from txpatterns.inbox.consumer import Consumer
from txpatterns.inbox.moments import DuplicatePrevented, Handled, HandlerFailed
from txpatterns.messages import BUCKETS
from txpatterns.outbox.moments import Published, PublishFailed
from txpatterns.outbox.relay import Relay
from txpatterns.outbox.schema import SCOPE
from txpatterns.retries import FailurePolicies
from txpatterns.runtime.forks import forget_after_fork
from txpatterns.runtime.lag import LagWatch
from txpatterns.runtime.moments import CONSUMER, RELAY, DepthsSeen, Ownership, QueuesSeen
from txpatterns.runtime.part import Drain, Part
from txpatterns.runtime.pulse import Pulse
from txpatterns.runtime.supervisor import Health, Supervisor
from txpatterns.sagas.engine import SagaEngine
from txpatterns.sagas.moments import SagaEnded, StepDone, StepRaised
from txpatterns.sagas.schema import SAGAS
from txpatterns.settings import AppSettings
from txpatterns.tcc.coordinator import TccCoordinator
from txpatterns.tcc.moments import BranchDone, BranchRaised, TccEnded
from txpatterns.tcc.schema import TCC
from txpatterns.transport import Broker, Checks, Measures

logger = logging.getLogger("txpatterns.app")

NO_HANDLERS = "Where there are handlers, import their modules before the App starts"
"""What to do about an App that has none."""

_PATIENCE = timedelta(minutes=1)
_ARRIVAL = timedelta(seconds=10)


class PartChoice(TypedDict, total=False):
    """The background parts that a process may leave out, with False; what is not named runs."""

    relay: bool
    """Publishes what is committed."""
    consume: bool
    """Runs the handlers, and their further attempts."""
    sagas: bool
    """Runs the sagas."""
    tcc: bool
    """Brings to their end the TCC transactions that others have left."""


def chosen(choice: PartChoice) -> frozenset[str]:
    """Give the names of the parts that are to run.

    Raises:
        TypeError: there is no such part.
    """
    unknown = choice.keys() - PartChoice.__annotations__.keys()
    if unknown:
        raise TypeError(f"there are no parts named {', '.join(sorted(unknown))}")
    return frozenset(name for name in PartChoice.__annotations__ if choice.get(name, True))


class Parts:
    """Starts, watches and stops the background parts, and carries wake-ups from commits to them."""

    def __init__(
        self,
        name: str,
        database: Database,
        broker: Broker,
        settings: AppSettings,
        policies: FailurePolicies,
        pulse: Pulse,
    ) -> None:
        self._name = name
        self._database = database
        self._broker = broker
        self._settings = settings
        self._policies = policies
        self._pulse = pulse
        self._supervisor: Supervisor | None = None
        self._running: tuple[Part, ...] = ()
        self.engine: SagaEngine | None = None
        self.numbers: WorkerNumbers | None = None
        """The worker numbers of this process, where ids are made."""
        self._coordinator: TccCoordinator | None = None
        self._notifier = Notifier(database.engine) if database.dialect == "postgresql" and settings.wakeups else None
        forget_after_fork(self)

    def committed(self) -> None:
        """A transaction with messages was committed, in any thread: wake who waits for it. Never raises."""
        try:
            enough = [part.wake() for part in self._running if part.wake is not None]
            if self._notifier is not None and not (enough and all(enough)):
                self._notifier.notify()
        except Exception:
            logger.exception("a wake-up failed; the message is committed and will be found by polling")

    def saga_committed(self) -> None:
        """A transaction that starts sagas was committed, in any thread: wake who runs them. Never raises."""
        self._wake(self.engine, SAGAS)

    def tcc_left(self) -> None:
        """A TCC transaction was decided and has not ended: wake who goes on with it. Never raises."""
        self._wake(self._coordinator, TCC)

    def _wake(self, part: SagaEngine | TccCoordinator | None, word: str) -> None:
        try:
            if not (part is not None and part.wake()) and self._notifier is not None:
                self._notifier.notify(word)
        except Exception:
            logger.exception("a wake-up of %s failed; what is committed will be found by polling", word)

    @property
    def tables(self) -> list[str]:
        """The tables that only some of these parts need."""
        broker = self._broker
        queues = isinstance(broker, DatabaseBroker) and broker.database is self._database
        return [*(WORKER_TABLES if self.numbers else ()), *(QUEUE_TABLES if queues else ())]

    def check(self, choice: PartChoice) -> None:
        """Refuse parts that cannot run here.

        Raises:
            UnsafeSettings: a relay alone on a broker that lives in this process.
            ConfigurationError: the parts run already.
        """
        names = chosen(choice)
        if self._supervisor is not None:
            raise ConfigurationError("This App runs already.", fix="One running() at a time for each App.")
        if "relay" in names and "consume" not in names and self._broker.capabilities.confirms_handling:
            raise UnsafeSettings(
                "On memory:// the process that relays must also handle: nobody else can hear it.",
                fix="Run both (txp run), or name a broker of its own process (TXP_BROKER_URL).",
            )

    @asynccontextmanager
    async def running(
        self,
        consumer: Consumer,
        make_engine: Callable[[], SagaEngine] | None,
        make_coordinator: Callable[[], TccCoordinator] | None,
        choice: PartChoice,
    ) -> AsyncIterator[None]:
        """Run the parts for as long as the block lasts, then stop them: the relay first, for others to go on.

        ``make_engine`` is None where there are no sagas, and ``make_coordinator`` where there are no participants.
        """
        absent = {"sagas": make_engine, "tcc": make_coordinator}
        names = chosen(choice).difference(name for name, make in absent.items() if make is None)
        with consumer.handlers.in_use() if "consume" in names else nullcontext():
            if "consume" in names and not consumer.handlers.topics:
                self._tell_of_no_handlers(relay="relay" in names, others=not names.isdisjoint({"sagas", "tcc"}))
                names -= {"consume"}
            if "consume" in names:
                consumer.check()
                kinds = {handler.is_async for handler in consumer.handlers}
                await check_sessions(self._database, asynchronous=True in kinds, plain=False in kinds)
            self.engine = make_engine() if make_engine is not None and "sagas" in names else None
            if self.numbers is not None:
                await self.numbers.upkeep.open()
            self._coordinator = make_coordinator() if make_coordinator is not None and "tcc" in names else None
            try:
                async with self._started(lambda: self._made(names, consumer)):
                    yield
            finally:
                self.engine = self._coordinator = None

    @asynccontextmanager
    async def _started(self, make: Callable[[], Sequence[Part]]) -> AsyncIterator[None]:
        supervisor = self._supervisor = Supervisor(clock=self._database.clock)
        try:
            async with self._broker:
                try:
                    self._running = tuple(make())
                    for part in self._running:
                        supervisor.start(part)
                    yield
                finally:
                    await self._stop(supervisor)
        finally:
            if self._supervisor is supervisor:
                self._supervisor = None

    def _made(self, names: frozenset[str], consumer: Consumer) -> list[Part]:
        """Make the parts, in the order in which they start; they stop, and are drained, in the opposite one."""
        made: list[Part] = []
        if self.numbers is not None:  # the last to stop, because the others make ids to their end
            keep = self.numbers.upkeep
            made.append(Part("ids", keep.run, keep.stop, attention=self.numbers.attention))
        listener = self._listener() if names else None
        if listener is not None and isinstance(self._broker, DatabaseBroker):
            self._broker.listen(listener)
        if "consume" in names:
            if listener is not None:
                consumer.listen(listener)
            made.append(self._consumer_part(consumer))
        made += self._sagas_and_tcc(listener)
        if listener is not None:
            made.append(Part("wake-up listener", listener.run, listener.stop))
        if "relay" in names:
            relay = self._make_relay()
            if listener is not None:
                relay.listen(listener)
            made.append(self._relay_part(relay))
        if made:
            made += self._watches(consumer if "consume" in names else None)
        if names & {"relay", "consume"} and isinstance(self._broker, Checks):
            watch = self._broker_watch(consumer, names)
            made.append(Part("broker watch", watch.run, watch.stop, attention=watch.attention))
        if "relay" in names and isinstance(self._broker, MemoryBroker):
            readers = _Readers(self._broker)
            made.append(Part("group watch", readers.run, readers.stop))
        return made

    def _watches(self, consumer: Consumer | None) -> list[Part]:
        """Make what looks at the others; what costs a question only where somebody listens."""
        loop = LagWatch(name=self._name)
        made = [Part("loop watch", loop.run, loop.stop)]
        if self._pulse.wants(DepthsSeen):
            depths = DepthsWatch(self._database, self._pulse)
            made.append(Part("depths", depths.run, depths.stop))
        broker = self._broker
        if consumer is not None and isinstance(broker, Measures) and self._pulse.wants(QueuesSeen):
            topics, clock = consumer.handlers.topics, self._database.clock
            queues = QueuesWatch(broker, topics, self._name, clock, self._pulse)
            made.append(Part("queues", queues.run, queues.stop))
        return made

    def _broker_watch(self, consumer: Consumer, names: frozenset[str]) -> BrokerWatch:
        def topics() -> set[str]:
            read = consumer.handlers.topics if "consume" in names else ()
            return {*read, *consumer.registry.topics} if "relay" in names else set(read)

        group = self._name if "consume" in names else None
        return BrokerWatch(self._broker, topics, group, self._settings.consumer, self._database.clock)

    def _listener(self) -> Hearing | None:
        """Make what hears of other processes' commits; None: nothing does, or it is not wanted."""
        if self._notifier is not None:
            return Listener(self._database)
        return FileWatch(self._database) if self._settings.wakeups and FileWatch.serves(self._database) else None

    def _consumer_part(self, consumer: Consumer) -> Part:
        told = self._pulse.heard(CONSUMER, Handled, DuplicatePrevented, HandlerFailed)

        async def drained(drain: Drain) -> bool:
            return await consumer.caught_up(await drain.moment())

        return Part(
            CONSUMER,
            consumer.run,
            consumer.stop,
            heard=lambda: min(told(), consumer.held_up_since()),
            attention=consumer.attention,
            drained=drained,
        )

    def _sagas_and_tcc(self, listener: Hearing | None) -> list[Part]:
        made: list[Part] = []
        if self.engine is not None:
            made.append(self._saga_part(self.engine))
        if self._coordinator is not None:
            made.append(self._tcc_part(self._coordinator))
        for part in (self.engine, self._coordinator):
            if part is not None and listener is not None:
                part.listen(listener)
        return made

    def _saga_part(self, engine: SagaEngine) -> Part:
        async def drained(drain: Drain) -> bool:
            return await engine.caught_up(await drain.moment())

        heard = self._pulse.heard(SAGAS, StepDone, StepRaised, SagaEnded)
        return Part(SAGAS, engine.run, engine.stop, heard=heard, attention=engine.attention, drained=drained)

    def _tcc_part(self, coordinator: TccCoordinator) -> Part:
        async def drained(drain: Drain) -> bool:
            return await coordinator.caught_up(await drain.moment())

        heard = self._pulse.heard(TCC, BranchDone, BranchRaised, TccEnded)
        return Part(
            TCC, coordinator.run, coordinator.stop, heard=heard, attention=coordinator.attention, drained=drained
        )

    def _make_relay(self) -> Relay:
        return Relay(
            self._database,
            self._broker,
            settings=self._settings.relay,
            policies=self._policies,
            hooks=self._pulse,
        )

    def _relay_part(self, relay: Relay) -> Part:
        def wake() -> bool:
            relay.wake()
            return self._pulse.owned.get(SCOPE) == BUCKETS  # every key is ours

        async def drained(_: Drain) -> bool:
            await relay.drained()
            return False  # what it gives to handlers comes to them through the broker

        return Part(
            RELAY,
            relay.run,
            relay.stop,
            heard=self._pulse.heard(RELAY, Published, PublishFailed, Ownership),
            postponed=lambda: relay.postponed,
            wake=wake,
            drained=drained,
        )

    def _tell_of_no_handlers(self, *, relay: bool, others: bool) -> None:
        if relay and not others and isinstance(self._broker, MemoryBroker) and not self._broker.has_groups:
            logger.warning("nobody reads memory:// in this process: what is sent is gone. %s", NO_HANDLERS)
        else:
            level = logging.INFO if relay or others else logging.WARNING
            logger.log(level, "no handlers are registered, so nothing is consumed. %s", NO_HANDLERS)

    async def _stop(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.stop(self._settings.stop_within)
        finally:
            self._running = ()

    def health(self) -> Health:
        """Say how the parts are."""
        return Health((), _PATIENCE) if self._supervisor is None else self._supervisor.health(_PATIENCE)

    async def drained(self) -> None:
        """Wait until what is committed by now is published, by whichever relay, and what is due here was tried again.

        Each part is asked at least twice, for it may have come by something through another one that was asked after
        it. What waits for a later time is not waited for.
        """
        asked = [part.drained for part in reversed(self._running) if part.drained is not None]
        if not asked:
            raise ConfigurationError("No relay runs here.", fix="Use drained() inside `async with app.running():`.")
        drain, once_more = Drain(self._database), len(asked) > 1
        while any([await drained(drain) for drained in asked]) or once_more:
            once_more = False

    async def close(self) -> None:
        """Close the wake-up's connection, and give back a worker number that a thread keeps."""
        if self._notifier is not None:
            self._notifier.close()
        if self.numbers is not None:
            await asyncio.to_thread(self.numbers.close)

    def after_fork(self) -> None:
        """Forget the parent's tasks and sockets: a forked child starts with nothing running."""
        self._supervisor, self.engine, self._coordinator, self._running = None, None, None, ()
        self._database.after_fork()
        if self._notifier is not None:
            self._notifier.after_fork()


class _Readers:
    """Tells when a declared group of the in-memory broker is not read: its messages wait, and so do their keys."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        try:
            async with asyncio.timeout(_ARRIVAL.total_seconds()):
                await self._stopping.wait()
        except TimeoutError:
            missing = self._broker.missing_groups()
            if missing:
                logger.warning("nobody reads for %s in this process: their messages wait", ", ".join(missing))
            await self._stopping.wait()

    def stop(self) -> None:
        self._stopping.set()
