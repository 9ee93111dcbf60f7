"""What the benchmarks of every broker have in common: our side, and the messages."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from txpatterns.messages import Message, new_id
from txpatterns.transport import Broker, Verdict

KEYS, PAYLOAD = 977, b"x" * 479


def message(topic: str, number: int) -> Message:
    """Make one of many messages, over many keys."""
    key = f"key-{number % KEYS}"
    return Message(new_id(), topic, "bench.happened", PAYLOAD, key, occurred_at=datetime.now(UTC))


def batches(topic: str, count: int, size: int) -> list[list[Message]]:
    """Make batches, no key twice in one: so the relay sends to brokers that keep no prefix."""
    return [[message(topic, batch * size + number) for number in range(size)] for batch in range(count)]


async def publish(broker: Broker, given: list[list[Message]]) -> None:
    """Publish batch after batch, each when the last is confirmed."""
    for batch in given:
        confirmed = 0
        async for told in broker.publish(batch):
            confirmed += sum(outcome.verdict is Verdict.CONFIRMED for outcome in told.values())
        everything(confirmed, len(batch))


async def read(broker: Broker, topic: str, group: str, count: int) -> float:
    """Read, look at and acknowledge so many messages; gives how many a second, from the first batch on."""
    async with broker.subscribe([topic], group=group) as deliveries:
        started, seen, size = 0.0, 0, 0
        async for batch in deliveries:
            started = started or time.perf_counter()
            for delivery in batch:
                size += len(delivery.message.payload)
                await delivery.ack()
            seen += len(batch)
            if seen >= count:
                break
        everything(size, seen * len(PAYLOAD))
        return seen / (time.perf_counter() - started)


def everything(found: int, wanted: int) -> None:
    """Stop where something is missing: a figure of half the work is none."""
    if found != wanted:
        raise RuntimeError(f"{found} of {wanted}")
