"""How much waits at each topic and each handler, and how much of what was handled died."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.database import Database
from txpatterns.database.queues import MOST
from txpatterns.database.schema import Instant
from txpatterns.deadletters.schema import dead_letter_table
from txpatterns.inbox.schema import State, inbox_table, inbox_waiting_table
from txpatterns.messages import EPOCH
from txpatterns.outbox.schema import outbox_table, waiting_table

LATELY = timedelta(hours=1)
"""What ``handled`` and ``died`` count."""

_outbox, _scheduled, _dead = outbox_table.c, waiting_table.c, dead_letter_table.c
_inbox, _waiting = inbox_table.c, inbox_waiting_table.c


@dataclass(slots=True)
class TopicFigures:
    """One topic, as the outbox sees it. Each number goes up to 100,000 in all."""

    topic: str
    pending: int = 0
    """Messages to be published now."""
    waiting: int = 0
    """Messages that wait for their time, their next attempt or their key."""
    dead: int = 0
    """Messages that could not be published."""
    oldest: timedelta | None = None
    """How long the oldest that is to be published now has waited."""
    read_by: list[str] = field(default_factory=list)
    """The handlers of this App that read it."""


@dataclass(slots=True)
class ConsumerFigures:
    """One handler, as the inbox sees it. Each number goes up to 100,000 in all."""

    consumer: str
    topics: list[str] = field(default_factory=list)
    retrying: int = 0
    """Messages that failed and are tried again."""
    behind: int = 0
    """Messages that wait behind such a one, or behind a dead letter of their key."""
    oldest: timedelta | None = None
    """The age of the oldest of these."""
    dead: int = 0
    """Dead letters that wait for a decision."""
    handled: int = 0
    """Messages that were handled in the last hour."""
    died: int = 0
    """Messages that became dead letters in the last hour, and still are."""

    @property
    def dead_rate(self) -> float | None:
        """The share of the last hour's messages that died; None: there were none."""
        return self.died / (self.handled + self.died) if self.handled + self.died else None


async def topic_figures(database: Database, readers: Iterable[tuple[str, str]] = ()) -> list[TopicFigures]:
    """Tell of every topic that has something in the outbox, or that ``readers``, pairs of topic and handler, name."""
    return await database.read(partial(_topics, now=database.now(), readers=list(readers)))


async def consumer_figures(database: Database, readers: Iterable[tuple[str, str]] = ()) -> list[ConsumerFigures]:
    """Tell of every handler that something waits for, or that ``readers``, pairs of topic and handler, name."""
    since = database.now(-LATELY)
    return await database.read(partial(_consumers, now=database.now(), since=since, readers=list(readers)))


def _topics(connection: Connection, now: sa.ColumnElement[Any], readers: list[tuple[str, str]]) -> list[TopicFigures]:
    moment = connection.execute(sa.select(sa.type_coerce(now, Instant))).scalar_one()
    found: dict[str, TopicFigures] = {}

    def at(topic: str) -> TopicFigures:
        return found.setdefault(topic, TopicFigures(topic))

    some = sa.select(_outbox.topic, _outbox.occurred_at).order_by(_outbox.position).limit(MOST).subquery().c
    oldest = sa.func.min(some.occurred_at, type_=Instant)
    for topic, count, began in connection.execute(sa.select(some.topic, sa.func.count(), oldest).group_by(some.topic)):
        at(topic).pending, at(topic).oldest = count, max(moment - began, timedelta(0))
    for topic, count in _counted(connection, _scheduled.topic):
        at(topic).waiting = count
    for topic, count in _counted(connection, _dead.topic, _dead.consumer.is_(None)):
        at(topic).dead = count
    for topic, consumer in readers:
        at(topic).read_by.append(consumer)
    return [found[topic] for topic in sorted(found)]


def _consumers(
    connection: Connection,
    now: sa.ColumnElement[Any],
    since: sa.ColumnElement[Any],
    readers: list[tuple[str, str]],
) -> list[ConsumerFigures]:
    moment = connection.execute(sa.select(sa.type_coerce(now, Instant))).scalar_one()
    found: dict[str, ConsumerFigures] = {}

    def at(consumer: str) -> ConsumerFigures:
        return found.setdefault(consumer, ConsumerFigures(consumer))

    for topic, consumer in readers:
        at(consumer).topics.append(topic)
    tried = sa.case((_waiting.state.in_((State.RETRYING, State.SKIPPED)), 1), else_=0).label("tried")
    age = sa.case((_waiting.occurred_at > EPOCH, _waiting.occurred_at)).label("began")
    some = sa.select(_waiting.consumer, tried, age).limit(MOST).subquery().c
    figures = sa.func.count(), sa.func.sum(some.tried), sa.func.min(some.began, type_=Instant)
    for consumer, count, tries, began in connection.execute(sa.select(some.consumer, *figures).group_by(some.consumer)):
        one = at(consumer)
        one.retrying, one.behind = tries, count - tries
        one.oldest = None if began is None else max(moment - began, timedelta(0))
    for consumer, count in _counted(connection, _dead.consumer, _dead.consumer.is_not(None)):
        at(consumer).dead = count
    for consumer, count in _counted(connection, _dead.consumer, _dead.consumer.is_not(None), _dead.died_at >= since):
        at(consumer).died = count
    for consumer, count in _counted(connection, _inbox.consumer, _inbox.processed_at >= since):
        at(consumer).handled = count
    return [found[consumer] for consumer in sorted(found)]


def _counted(connection: Connection, column: sa.Column[Any], *conditions: sa.ColumnElement[bool]) -> list[Any]:
    some = sa.select(column.label("name")).where(*conditions).limit(MOST).subquery().c
    return list(connection.execute(sa.select(some.name, sa.func.count()).group_by(some.name)).all())
