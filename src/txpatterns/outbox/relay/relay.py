"""The background part of the outbox: publishes what is committed, at least once and in order per key."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress
from random import Random

import sqlalchemy as sa

from txpatterns.coordination import Hearing
from txpatterns.coordination.wakeup import MEMBERS, OUTBOX
from txpatterns.database.database import Database
from txpatterns.database.dialects import may_pass
from txpatterns.database.finishing import finish
from txpatterns.errors import LeaseLost
from txpatterns.hooks import HookList, Hooks
from txpatterns.outbox.queues import PENDING, WAITING
from txpatterns.outbox.relay.serving import Serving
from txpatterns.outbox.relay.settings import RelaySettings
from txpatterns.outbox.relay.state import RelayState
from txpatterns.retries import FailurePolicies
from txpatterns.runtime.outages import Stopped
from txpatterns.transport import Publisher


class Relay:
    """Publishes the outbox. Any number may run: each owns a share of the keys, under a lease.

    At least once: a message is forgotten only after the broker has confirmed it, so a crash in between sends it
    again, with the same id and bytes. Per key, first publications keep the order of positions. No transaction is
    open while the broker is awaited; memory is bounded by ``read_ahead`` and ``read_ahead_bytes``.
    """

    def __init__(
        self,
        database: Database,
        broker: Publisher,
        *,
        settings: RelaySettings | None = None,
        policies: FailurePolicies | None = None,
        hooks: HookList | Hooks | None = None,
        random: Random | None = None,
    ) -> None:
        self._state = RelayState(
            database,
            broker,
            settings or RelaySettings(),
            policies or FailurePolicies(),
            HookList.of(hooks),
            random or Random(),
        )
        self._serving: Serving | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    @property
    def stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._state.stopping

    @property
    def postponed(self) -> Mapping[str, str]:
        """The topics that take nothing now, each with the broker's reason."""
        return dict(self._state.postponed)

    def wake(self) -> None:
        """Say that something was committed. May be called from any thread; costs next to nothing."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        if threading.get_ident() == self._thread:
            self._wake()
        else:
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._serving is not None:
            self._serving.wake()
        self._state.changed.set()

    def rebalance(self) -> None:
        """Look at once which buckets are due to this relay: another has come or gone. In the relay's own loop."""
        if self._serving is not None:
            self._serving.membership.tending.members_changed = True
        self._state.changed.set()

    def listen(self, listener: Hearing) -> None:
        """Be woken by what other processes do; while that is known to arrive, look five times as seldom unasked."""
        listener.on(OUTBOX, self._wake, sign=sa.select(*PENDING.signs, *WAITING.signs))
        listener.on(MEMBERS, self.rebalance, sign=self._state.ownership.leases.sign())
        self._state.pace.follow(listener)

    def stop(self) -> None:
        """End ``run`` gracefully: what is under way is finished, and the buckets are handed over at once.

        Before ``run``, it lets that end at once.
        """
        self._state.stop.set()
        self._state.changed.set()

    async def run(self) -> None:
        """Publish until ``stop`` is called. An outage of the database or broker is waited out."""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        try:
            await self._serve()
        finally:
            self._state.stop.clear()
            self._state.postponed.clear()
            self._state.drains.stopped()

    async def _serve(self) -> None:
        while not self.stopping:
            serving = self._serving = Serving(self._state)
            try:
                await serving.run()
            except asyncio.CancelledError:
                serving.hurry()
                raise
            except Exception as error:
                if not isinstance(error, LeaseLost) and not may_pass(error):
                    raise
                with suppress(Stopped):
                    await self._state.outages.pause(error)
            finally:
                self._serving = None
                await finish(serving.close())

    async def drained(self) -> None:
        """Wait until all that was committed before this call is published, or waits for a later time.

        By whichever relay: where another one has died, its lease has to run out first.

        Raises:
            ConfigurationError: the relay stopped before that.
        """
        drain = self._state.drains.ask()
        self._wake()
        await drain

    async def run_once(self) -> bool:
        """Publish everything that is due now, and hand the buckets over again; says whether all was published.

        That is all that was committed before this call, also what another relay has taken: if that one has died, its
        lease is waited for, and so is an outage. False: ``stop`` ended it before.
        """
        self._state.stop.clear()
        running = asyncio.ensure_future(self.run())
        drained = asyncio.ensure_future(self.drained())
        try:
            await asyncio.wait((running, drained), return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            await running
            return drained.done() and drained.exception() is None
        finally:
            # Cancelled, or failed: nothing goes on behind the caller's back.
            running.cancel()
            drained.cancel()
            await asyncio.gather(running, drained, return_exceptions=True)
