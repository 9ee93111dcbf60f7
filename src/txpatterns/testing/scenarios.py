"""What the broker suite is made of: scenarios in a loop of their own, members that read, publications under way."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import ClassVar, Concatenate, ParamSpec, Protocol, TypeVar, cast

import pytest

from txpatterns.messages import Message, new_id
from txpatterns.transport import Broker, Delivery, Outcome, Verdict

S = TypeVar("S", bound="Patient")
P = ParamSpec("P")


class Patient(Protocol):
    """A suite that says how long a test may take, and counts its tests."""

    patience: ClassVar[timedelta]
    ran: ClassVar[int]
    left_out: ClassVar[int]


def scenario(test: Callable[Concatenate[S, P], Awaitable[None]]) -> Callable[Concatenate[S, P], None]:
    """Run an async test method in a new event loop, for at most the suite's ``patience``."""

    @functools.wraps(test)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(self.patience.total_seconds()):
                await test(self, *args, **kwargs)

        type(self).ran += 1
        try:
            asyncio.run(bounded())
        except pytest.skip.Exception:
            type(self).left_out += 1
            raise

    return cast("Callable[Concatenate[S, P], None]", run)


def message(
    topic: str, key: str | None = None, *, payload: bytes = b"{}", headers: Mapping[str, str] | None = None
) -> Message:
    """Make a message with an id of its own."""
    return Message(new_id(), topic, "suite.happened", payload, key, headers or {})


class Reader:
    """A member of a group, reading one delivery after the other."""

    def __init__(self, batches: AsyncIterator[Sequence[Delivery]]) -> None:
        self._batches = batches
        self._came: list[Delivery] = []

    async def next(self) -> Delivery:
        """Give the next delivery, waiting for it."""
        while not self._came:
            self._came.extend(await anext(self._batches))
        return self._came.pop(0)

    async def take(self, count: int, *, ack: bool) -> list[Delivery]:
        """Give so many deliveries, each acknowledged as it comes, or none.

        A copy of what was acknowledged here is acknowledged too, and not counted: it may come from any broker.
        """
        taken, seen = list[Delivery](), set[str]()
        while len(taken) < count:
            delivery = await self.next()
            if ack:
                await delivery.ack()
                if delivery.message.id in seen:
                    continue
            taken.append(delivery)
            seen.add(delivery.message.id)
        return taken

    async def until(self, wanted: Iterable[str]) -> list[str]:
        """Acknowledge what comes until each wanted id was among it; gives the ids, each where it came first."""
        missing, came = set(wanted), dict[str, None]()
        while missing:
            delivery = await self.next()
            await delivery.ack()
            came[delivery.message.id] = None
            missing.discard(delivery.message.id)
        return list(came)


class Publishing:
    """Publishes in a task of its own, because some brokers confirm only what was handled.

    As the relay does, it has one message of a key under way where the broker keeps no prefix in order.
    """

    def __init__(self, broker: Broker, messages: Sequence[Message]) -> None:
        self.messages = messages
        self.outcomes: dict[str, Outcome] = {}
        self.first = asyncio.Event()
        self.task = asyncio.create_task(self._run(broker))

    async def _run(self, broker: Broker) -> dict[str, Outcome]:
        for together in _waves(self.messages, ordered_prefix=broker.capabilities.ordered_prefix):
            await self._publish(broker, together)
        return self.outcomes

    async def _publish(self, broker: Broker, messages: Sequence[Message]) -> None:
        async for told in broker.publish(messages):
            repeated = told.keys() & self.outcomes.keys()
            assert not repeated, f"told more than once: {sorted(repeated)}"
            unknown = told.keys() - {each.id for each in messages}
            assert not unknown, f"told of messages that were not given: {sorted(unknown)}"
            self.outcomes.update(told)
            self.first.set()

    async def verdicts(self) -> list[Verdict]:
        """Wait for the end; an id that was not told is unknown."""
        outcomes = await self.task
        return [outcomes[m.id].verdict if m.id in outcomes else Verdict.UNKNOWN for m in self.messages]

    async def confirmed(self) -> None:
        """Wait for the end, and insist that everything is confirmed."""
        verdicts = await self.verdicts()
        assert set(verdicts) == {Verdict.CONFIRMED}, f"not everything was confirmed: {self.outcomes}"


def _waves(messages: Sequence[Message], *, ordered_prefix: bool) -> Iterator[Sequence[Message]]:
    """Divide what is to be sent into publications, one after the other."""
    waiting: Sequence[Message] = messages
    while True:
        together = waiting if ordered_prefix else firsts_of_keys(waiting)
        yield together
        sent = {id(each) for each in together}
        waiting = [each for each in waiting if id(each) not in sent]
        if not waiting:
            return


def firsts_of_keys(messages: Sequence[Message]) -> list[Message]:
    """Give the first message of each key, and those that have none."""
    firsts: dict[object, Message] = {}
    for each in messages:
        firsts.setdefault(id(each) if each.key is None else each.key, each)
    return list(firsts.values())
