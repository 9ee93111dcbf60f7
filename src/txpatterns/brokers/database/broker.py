"""The database as the broker, for whoever has one database and several processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Self

import sqlalchemy as sa

from txpatterns.brokers.database import looking
from txpatterns.brokers.database.member import READERS, Member, MemberSettings, QueueDelivery
from txpatterns.brokers.database.schema import queue_table
from txpatterns.brokers.database.store import NEWS, QueueStore
from txpatterns.checks import INSTANT, LEAST_LEASE, check_at_least
from txpatterns.coordination import Hearing
from txpatterns.coordination.schema import lease_table, member_table
from txpatterns.database import Database
from txpatterns.database.dialects import last_number, may_pass
from txpatterns.errors import BrokerUnavailable, ConfigurationError, PublishRejected
from txpatterns.findings import Finding, Severity
from txpatterns.messages import Message
from txpatterns.runtime.forks import forget_after_fork
from txpatterns.text import error_line, one_line
from txpatterns.transport import CONFIRMED, Capabilities, Depth, Outcome, Verdict


class DatabaseBroker:
    """Carries messages through tables of a database, between any number of processes.

    A publication is one transaction: each group of the topic gets a row of its own, which goes when the message is
    handled. Groups are rows, too: from the moment that one is declared, what is published waits for it, whether it
    runs or not. What is published to a topic that no group has ever read is postponed: it stays in its sender's outbox
    until there is one. Per key the order is kept; of each part of the keys one member of a group has messages at a
    time, under a lease.

    Args:
        database: where the tables are; left out, the one of the App that is given this broker.
        max_in_flight: how many messages a member has read and not handled, at most.
        max_bytes: how many bytes of payloads those may have; the last may go beyond it.
        poll: the longest wait between two looks, and five times that while wake-ups are known to arrive.
        lease: how long a process that died keeps its parts from the others.
        max_payload: the largest message in bytes; None, the default, has no limit.
    """

    def __init__(
        self,
        database: Database | None = None,
        *,
        max_in_flight: int = 2000,
        max_bytes: int = 64_000_000,
        poll: timedelta = timedelta(milliseconds=500),
        lease: timedelta = timedelta(seconds=15),
        max_payload: int | None = None,
    ) -> None:
        self.capabilities = Capabilities(ordered_prefix=True, max_batch=500, max_payload=max_payload, retains=False)
        self._settings = MemberSettings(max_in_flight, max_bytes, poll, lease)
        check_at_least(1, self._settings, "max_in_flight", "max_bytes")
        check_at_least(INSTANT, self._settings, "poll")
        check_at_least(LEAST_LEASE, self._settings, "lease")
        self._database = database
        self._declared: dict[str, set[str]] = {}
        self._begin_anew()
        forget_after_fork(self)

    def _begin_anew(self) -> None:
        self._store: QueueStore | None = None
        self._made: dict[str, set[str]] = {}
        self._members: list[Member] = []
        self._entered = 0
        self._hearing: Hearing | None = None
        self._turn = asyncio.Lock()

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        max_in_flight: int = 2000,
        max_bytes: int = 64_000_000,
        poll: timedelta = timedelta(milliseconds=500),
        lease: timedelta = timedelta(seconds=15),
        max_payload: int | None = None,
    ) -> DatabaseBroker:
        """Make a broker for ``database://``, in the database of the App that is given it.

        Raises:
            ConfigurationError: the URL says more than ``database://``.
        """
        if url != "database://":
            raise ConfigurationError(
                "The database as a broker has no address of its own.",
                fix='Write "database://" for that of the App, or give broker=DatabaseBroker(Database(...)).',
            )
        return cls(max_in_flight=max_in_flight, max_bytes=max_bytes, poll=poll, lease=lease, max_payload=max_payload)

    def use(self, database: Database) -> None:
        """Take this database where none was given: the first App that is given this broker does that with its own."""
        if self._database is None:
            self._database = database

    @property
    def database(self) -> Database:
        """Where the tables are.

        Raises:
            ConfigurationError: no App was given this broker, and no database.
        """
        if self._database is None:
            raise ConfigurationError(
                "This DatabaseBroker has no database.", fix="Give it to an App, or write DatabaseBroker(Database(...))."
            )
        return self._database

    def declare(self, group: str, topics: Sequence[str]) -> None:
        """Say that a group is going to read these topics: its row is made when the broker is entered, or next used."""
        self._declared.setdefault(group, set()).update(topics)

    async def __aenter__(self) -> Self:
        self._entered += 1
        try:
            await self._ready()
        except BaseException:
            self._entered -= 1
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._entered = max(self._entered - 1, 0)
        if not self._entered:
            store, self._store = self._store, None
            self._hearing, self._made, self._turn = None, {}, asyncio.Lock()
            if store is not None:
                await store.close()

    def after_fork(self) -> None:
        """In a forked child: groups stay declared, but members and connections are the parent's."""
        self._begin_anew()

    def listen(self, hearing: Hearing) -> None:
        """Be woken by what other processes publish, and by their coming and going."""
        scope = member_table.c.scope.startswith("queue:", autoescape=True)
        owners = sa.select(sa.func.group_concat(member_table.c.owner)).where(scope).scalar_subquery()
        free = lease_table.c.scope.startswith("queue:", autoescape=True), lease_table.c.owner.is_(None)
        unowned = sa.select(sa.func.count()).select_from(lease_table).where(*free).scalar_subquery()
        hearing.on(NEWS, self._wake, sign=sa.select(last_number(queue_table)))
        hearing.on(READERS, self._rebalance, sign=sa.select(owners, unowned))
        self._hearing = hearing
        for member in self._members:
            member.follow(hearing)

    def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Store the messages for every group of their topics in one transaction, and tell each outcome."""
        return self._publish(messages)

    async def _publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        if not messages:
            return
        limit = self.capabilities.max_payload
        if limit is None or all(message.size <= limit for message in messages):
            try:
                yield await self._publish_together(messages)
                return
            except Exception as error:
                if may_pass(error):
                    raise
        stopped: set[tuple[str, str]] = set()
        for message in messages:  # one of them cannot be stored: it must not keep the others from it
            lane = (message.topic, message.key or "")
            if message.key is not None and lane in stopped:
                yield {message.id: Outcome(Verdict.UNKNOWN)}
                continue
            outcome = await self._publish_alone(message)
            if outcome.verdict is not Verdict.CONFIRMED:
                stopped.add(lane)
            yield {message.id: outcome}

    async def _publish_alone(self, message: Message) -> Outcome:
        limit = self.capabilities.max_payload
        if limit is not None and message.size > limit:
            said = f"The message has {message.size} bytes, {limit} are allowed."
            return Outcome(Verdict.REJECTED, PublishRejected(said))
        try:
            return (await self._publish_together([message]))[message.id]
        except Exception as error:
            if may_pass(error):
                raise
            said = f"The message cannot be stored: {error_line(error)}"
            return Outcome(Verdict.REJECTED, PublishRejected(said))

    async def _publish_together(self, messages: Sequence[Message]) -> dict[str, Outcome]:
        store = await self._ready()
        unread = await store.publish(messages)
        self._wake()
        if not unread:
            return dict.fromkeys((message.id for message in messages), CONFIRMED)
        return {m.id: _postponed(m.topic) if m.topic in unread else CONFIRMED for m in messages}

    async def _ready(self) -> QueueStore:
        """Give the store, in which every group is known that was declared by now."""
        if self._store is not None and self._made == self._declared:
            return self._store
        async with self._turn:
            if self._store is None:
                self._store = QueueStore(self.database)
            wanted = {group: set(topics) for group, topics in self._declared.items()}
            if wanted != self._made:
                await self._store.declare(wanted)
                self._made = wanted
            return self._store

    async def check(self, topics: Sequence[str], group: str | None = None) -> Sequence[Finding]:
        """Look at the tables, these topics and every group; nothing is made or changed."""
        database = self.database
        look = partial(looking.findings, database=database, topics=topics, group=group)
        try:
            return await database.read(look)
        except Exception as error:
            if not may_pass(error):
                raise
            return [Finding(Severity.ERROR, "database://", error_line(error), "Look at the database.")]

    async def depths(self, topics: Sequence[str], group: str) -> Sequence[Depth]:
        """Say how much waits for a group, topic by topic, in flight or not.

        Raises:
            BrokerUnavailable: the database does not answer.
        """
        database = self.database
        try:
            return await database.read(partial(looking.depths, database=database, topics=topics, group=group))
        except Exception as error:
            if not may_pass(error):
                raise
            raise BrokerUnavailable(f"The queues cannot be read: {error_line(error)}") from error

    def subscribe(
        self, topics: Sequence[str], *, group: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[QueueDelivery]]]:
        """Join a group, which is declared by that if it was not. Leaving gives back what is not acknowledged."""
        return self._subscribe(topics, group)

    @asynccontextmanager
    async def _subscribe(
        self, topics: Sequence[str], group: str
    ) -> AsyncIterator[AsyncIterator[Sequence[QueueDelivery]]]:
        self.declare(group, topics)
        member = Member(await self._ready(), group, topics, self._settings)
        if self._hearing is not None:
            member.follow(self._hearing)
        self._members.append(member)
        try:
            await member.join()
            self._rebalance()
            yield member.batches()
        finally:
            await member.leave()
            self._members.remove(member)
            self._rebalance()

    def _wake(self) -> None:
        for member in self._members:
            member.wake()

    def _rebalance(self) -> None:
        for member in self._members:
            member.rebalance()


def _postponed(topic: str) -> Outcome:
    return Outcome(
        Verdict.POSTPONED,
        PublishRejected(f"No group has ever read {one_line(topic)}: start a consumer of it once."),
    )
