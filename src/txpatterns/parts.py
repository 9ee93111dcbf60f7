"""The background parts of one App in one process: which may run, how they start and stop, and what wakes them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from txpatterns.admin.depths import DepthsWatch
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database.agreement import check_sessions
from txpatterns.database.database import Database
from txpatterns.database.listening import Listener
from txpatterns.database.wakeup import Notifier
from txpatterns.errors import ConfigurationError, UnsafeSettings
from txpatterns.inbox.consumer import Consumer
from txpatterns.inbox.moments import DuplicatePrevented, Handled, HandlerFailed
from txpatterns.messages import BUCKETS
from txpatterns.outbox.moments import Published, PublishFailed
from txpatterns.outbox.relay import Relay
from txpatterns.outbox.schema import SCOPE
from txpatterns.retries import FailurePolicies
from txpatterns.runtime.forks import forget_after_fork
from txpatterns.runtime.lag import LagWatch
from txpatterns.runtime.moments import CONSUMER, RELAY, DepthsSeen, Ownership
from txpatterns.runtime.pulse import Pulse
from txpatterns.runtime.supervisor import Health, Supervisor
from txpatterns.settings import AppSettings
from txpatterns.transport import Broker

logger = logging.getLogger("txpatterns.app")

NO_HANDLERS = "Where there are handlers, import their modules before the App starts"
"""What to do about an App that has none."""

_PATIENCE = timedelta(minutes=1)
_ARRIVAL = timedelta(seconds=10)


class Parts:
    """Starts, watches and stops the relay and the consumer, and carries wake-ups between commits and relays."""

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
        self._relay: Relay | None = None
        self._consumer: Consumer | None = None
        self._notifier = Notifier(database.engine) if database.dialect == "postgresql" and settings.wakeups else None
        forget_after_fork(self)

    def committed(self) -> None:
        """A transaction with messages was committed, in any thread: wake the relays. Never raises."""
        try:
            relay = self._relay
            if relay is not None:
                relay.wake()
                if self._pulse.owned.get(SCOPE) == BUCKETS:
                    return  # every key is ours: no other process needs to know
            if self._notifier is not None:
                self._notifier.notify()
        except Exception:
            logger.exception("a wake-up failed; the message is committed and will be found by polling")

    def check(self, *, relay: bool, consume: bool) -> None:
        """Refuse parts that cannot run here.

        Raises:
            UnsafeSettings: a relay alone on a broker that lives in this process.
            ConfigurationError: the parts run already.
        """
        if self._supervisor is not None:
            raise ConfigurationError("This App runs already.", fix="One running() at a time for each App.")
        if relay and not consume and self._broker.capabilities.confirms_handling:
            raise UnsafeSettings(
                "On memory:// the process that relays must also handle: nobody else can hear it.",
                fix="Run both (txp run), or name a broker of its own process (TXP_BROKER_URL).",
            )

    @asynccontextmanager
    async def running(self, consumer: Consumer | None, *, relay: bool) -> AsyncIterator[None]:
        """Run the parts for as long as the block lasts, then stop them: the relay first, for others to go on."""
        if consumer is None:
            async with self._started(None, relay=relay):
                yield
            return
        with consumer.handlers.in_use():
            if not consumer.handlers.topics:
                self._tell_of_no_handlers(relay=relay)
                consumer = None
            else:
                consumer.check()
                kinds = {handler.is_async for handler in consumer.handlers}
                await check_sessions(self._database, asynchronous=True in kinds, plain=False in kinds)
            async with self._started(consumer, relay=relay):
                yield

    @asynccontextmanager
    async def _started(self, consumer: Consumer | None, *, relay: bool) -> AsyncIterator[None]:
        supervisor = self._supervisor = Supervisor(clock=self._database.clock)
        try:
            async with self._broker:
                try:
                    self._start(supervisor, consumer, relay=relay)
                    yield
                finally:
                    await self._stop(supervisor)
        finally:
            if self._supervisor is supervisor:
                self._supervisor = None

    def _start(self, supervisor: Supervisor, consumer: Consumer | None, *, relay: bool) -> None:
        self._consumer = consumer
        if consumer is not None:
            told = self._pulse.heard(CONSUMER, Handled, DuplicatePrevented, HandlerFailed)

            def heard() -> float:
                return min(told(), consumer.held_up_since())

            supervisor.start("consumer", consumer.run, stop=consumer.stop, heard=heard, attention=consumer.attention)
        if relay:
            made = self._relay = Relay(
                self._database,
                self._broker,
                settings=self._settings.relay,
                policies=self._policies,
                hooks=self._pulse,
            )
            if self._notifier is not None:
                listener = Listener(self._database, made.wake, made.rebalance)
                supervisor.start("wake-up listener", listener.run, stop=listener.stop)
            heard = self._pulse.heard(RELAY, Published, PublishFailed, Ownership)
            supervisor.start("relay", made.run, stop=made.stop, heard=heard)
        if consumer is not None or relay:
            watch = LagWatch(name=self._name)
            supervisor.start("loop watch", watch.run, stop=watch.stop)
        if (consumer is not None or relay) and self._pulse.wants(DepthsSeen):
            depths = DepthsWatch(self._database, self._pulse)
            supervisor.start("depths", depths.run, stop=depths.stop)
        if relay and isinstance(self._broker, MemoryBroker):
            readers = _Readers(self._broker)
            supervisor.start("group watch", readers.run, stop=readers.stop)

    def _tell_of_no_handlers(self, *, relay: bool) -> None:
        if relay and isinstance(self._broker, MemoryBroker) and not self._broker.has_groups:
            logger.warning("nobody reads memory:// in this process: what is sent is gone. %s", NO_HANDLERS)
        else:
            level = logging.INFO if relay else logging.WARNING
            logger.log(level, "no handlers are registered, so nothing is consumed. %s", NO_HANDLERS)

    async def _stop(self, supervisor: Supervisor) -> None:
        try:
            await supervisor.stop(self._settings.stop_within)
        finally:
            self._relay = self._consumer = None

    def health(self) -> Health:
        """Say how the parts are."""
        if self._supervisor is None:
            return Health((), _PATIENCE)
        postponed = self._relay.postponed if self._relay is not None else {}
        return replace(self._supervisor.health(_PATIENCE), postponed=postponed)

    async def drained(self) -> None:
        """Wait until what is committed by now is published, by whichever relay, and what is due here was tried again.

        What waits for a later time is not waited for.
        """
        if self._consumer is None:
            await self._relay_here().drained()
            return
        if self._relay is not None:
            await self._relay.drained()
        await self._consumer.caught_up()
        if self._relay is not None:
            await self._relay.drained()  # what those attempts have emitted

    def _relay_here(self) -> Relay:
        if self._relay is None:
            raise ConfigurationError("No relay runs here.", fix="Use drained() inside `async with app.running():`.")
        return self._relay

    def close(self) -> None:
        """Close the wake-up's connection."""
        if self._notifier is not None:
            self._notifier.close()

    def after_fork(self) -> None:
        """Forget the parent's tasks and sockets: a forked child starts with nothing running."""
        self._supervisor = self._relay = self._consumer = None
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
