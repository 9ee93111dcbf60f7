"""A child that relays to Kafka and stops itself in the middle of a publication, as SIGSTOP stops a process anywhere.

python -m outbox.pausing DATABASE BOOTSTRAP PLACE WAY
"""

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rig.planting import instead_of
from rig.stopping import has_stopped, stop
from txpatterns import Hooks
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.brokers.kafka.channel import Batch, Channel
from txpatterns.brokers.kafka.producer import KafkaPublisher
from txpatterns.brokers.kafka.settings import KafkaSettings
from txpatterns.database import Database
from txpatterns.hooks import on
from txpatterns.messages import Message
from txpatterns.outbox import Relay, RelaySettings
from txpatterns.outbox.relay.store import OutboxStore
from txpatterns.runtime.moments import Ownership
from txpatterns.runtime.signals import stop_on_signals

SETTINGS = RelaySettings(batch=4, read_ahead=40, lease=timedelta(seconds=1), poll=timedelta(milliseconds=50))
LINGER = 700
"""Milliseconds for which the driver keeps what it was handed, so that it is surely in its queue: less than a lease."""

_sent: list[int] = []
_patch = pytest.MonkeyPatch()


def before(owner: object, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
    real = getattr(owner, name)

    def replaced(*given: Any, **named: Any) -> Any:
        stop(when(*given))
        return real(*given, **named)

    setattr(owner, name, replaced)


def after(owner: object, name: str, when: Callable[[Any], bool] = lambda _: True) -> None:
    real = getattr(owner, name)

    async def replaced(*given: Any, **named: Any) -> Any:
        found = await real(*given, **named)
        stop(when(found))
        return found

    setattr(owner, name, replaced)


def in_the_middle_of_handing_over() -> None:
    send = Channel.send

    @instead_of(_patch, Channel, send)
    def in_two_parts(self: Channel, batch: Batch, messages: deque[Message]) -> None:
        first = deque([messages.popleft()])
        send(self, batch, first)
        stop()
        send(self, batch, messages)


def with_all_in_the_drivers_queue() -> None:
    send = Channel.send

    @instead_of(_patch, Channel, send)
    def and_stop(self: Channel, batch: Batch, messages: deque[Message]) -> None:
        send(self, batch, messages)
        stop()


def with_all_in_flight() -> None:
    """The driver says when nothing is left in its queue, and answers are outstanding: the server reads nothing now."""
    send = Channel.send

    @instead_of(_patch, Channel, send)
    def when_the_server_stands_still(self: Channel, batch: Batch, messages: deque[Message]) -> None:
        if _sent:  # the first lets it connect
            print("is about to send", flush=True)
            while not has_stopped() and not Path("send").exists():
                time.sleep(0.01)
        _sent.append(len(messages))
        send(self, batch, messages)


def look_at_statistics(told: str) -> None:
    brokers = json.loads(told)["brokers"].values()
    stop(len(_sent) > 1 and any(broker["waitresp_msg_cnt"] for broker in brokers))


PLACES: dict[str, Callable[[], None]] = {
    "with a page read": lambda: after(OutboxStore, "page", lambda page: bool(page.rows)),
    "before asking for the topic": lambda: before(KafkaPublisher, "_refused"),
    "before handing over": lambda: before(Channel, "send"),
    "in the middle of handing over": in_the_middle_of_handing_over,
    "with all in the driver's queue": with_all_in_the_drivers_queue,
    "with all in flight": with_all_in_flight,
    "with reports not looked at": lambda: before(
        Channel, "_digest", lambda channel, _: any(batch._stored for batch in channel._batches)
    ),
    "before settling": lambda: before(OutboxStore, "settle"),
    "after settling": lambda: after(OutboxStore, "settle"),
}


class Teller(Hooks):
    @on(Ownership)
    def ownership(self, moment: Ownership) -> None:
        print(f"owns {moment.buckets}", flush=True)


async def main(database: str, bootstrap: str, place: str, way: str) -> None:
    PLACES[place]()
    linger = LINGER if place == "with all in the driver's queue" else 0
    options: dict[str, Any] = {"linger.ms": linger}
    if place == "with all in flight":
        options |= {"statistics.interval.ms": 50, "stats_cb": look_at_statistics}
    broker = KafkaBroker(KafkaSettings(bootstrap, producer=options))
    if way == "one by one":
        broker.capabilities = replace(broker.capabilities, ordered_prefix=False)
    async with Database(database) as store, broker:
        relay = Relay(store, broker, settings=SETTINGS, hooks=Teller())
        running = asyncio.ensure_future(relay.run())
        with stop_on_signals() as stopping:
            await stopping.wait()
        relay.stop()
        await running


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
