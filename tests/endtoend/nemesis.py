"""What is done to the processes, the servers and the network of a run, one fault after the other.

A fault counts when it was seen to have happened: the proxy counts what it did to bytes or connections, a process or a
server is seen to have stopped or ended. One that did not happen fails the run.
"""

from __future__ import annotations

import asyncio
import operator
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from endtoend.application import LEASE
from endtoend.fleet import Fleet
from endtoend.ground import Ground
from endtoend.traffic import FUNDS, KEYS, Allowance
from endtoend.verdict import UNDER_WAY, Story
from rig.proxy import TO_CLIENT, TO_SERVER, Proxy
from rig.servers.base import Server

DONE = "SELECT count(*) FROM effect"
BEYOND_LEASE = 1.5 * LEASE
AWHILE = LEASE / 3
AT_ONCE = timedelta(0)


@dataclass(frozen=True)
class Fault:
    """A kind of fault at one place; ``strike`` returns when it has happened and is over."""

    kind: str
    where: str
    strike: Callable[[Fleet], Awaitable[None]]

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}"


@dataclass(frozen=True)
class OnLink:
    """A fault of the network: what the proxy counts, how it begins, how often it has to hit and how long it lasts."""

    counted: str
    begin: Callable[[Proxy], None]
    lasts: timedelta = AT_ONCE
    hits: int = 1

    def strike(self, proxy: Proxy) -> None:
        """Begin, wait until it has hit something, let it last, and heal."""
        before = proxy.fired[self.counted]
        try:
            self.begin(proxy)
            proxy.wait_fired(self.counted, before + self.hits)
            time.sleep(self.lasts.total_seconds())
        finally:
            proxy.heal()


def _cut(proxy: Proxy, *, reset: bool) -> None:
    before = proxy.fired["cut"]
    while proxy.fired["cut"] == before:  # a moment without any connection has nothing to cut
        proxy.cut(reset=reset)


def _refuse(proxy: Proxy) -> None:
    proxy.refuse()
    proxy.cut()


NETWORK = {
    "connections reset": OnLink("cut", lambda proxy: _cut(proxy, reset=True)),
    "connections closed": OnLink("cut", lambda proxy: _cut(proxy, reset=False)),
    "half-open": OnLink("silence", lambda proxy: proxy.silence(), BEYOND_LEASE),
    "requests held up": OnLink("silence", lambda proxy: proxy.silence(TO_SERVER), BEYOND_LEASE),
    "replies held up": OnLink("silence", lambda proxy: proxy.silence(TO_CLIENT), BEYOND_LEASE),
    "delayed": OnLink("delay", lambda proxy: proxy.delay(AWHILE / 10, jitter=AWHILE / 10), AWHILE, hits=5),
    "throttled": OnLink("throttle", lambda proxy: proxy.throttle(20_000), AWHILE, hits=5),
    "sliced into bytes": OnLink("slice", lambda proxy: proxy.slice(), hits=5),
    "reply lost": OnLink("lose reply", lambda proxy: proxy.lose_reply()),
    "reply lost after 200 bytes": OnLink("lose reply", lambda proxy: proxy.lose_reply(after=200)),
    "request lost after 200 bytes": OnLink("lose request", lambda proxy: proxy.lose_request(after=200)),
    "connections refused": OnLink("refuse", _refuse, AWHILE),
}
LOST_COMMIT = OnLink("lose reply", lambda proxy: proxy.lose_reply(to=b"COMMIT"))

PROCESSES = {
    "process killed": Fleet.kill,
    "process stopped beyond its lease": Fleet.pause_beyond_lease,
    "process restarted": Fleet.restart,
}
NAMES = ("relay 1", "relay 2", "consume 1", "consume 2")


def _kill(server: Server) -> None:
    server.kill()
    server.start()


def _pause(server: Server) -> None:
    server.pause()
    time.sleep(BEYOND_LEASE.total_seconds())
    server.resume()


def plan(ground: Ground, count: int, seed: int) -> list[Fault]:
    """Draw faults at random places, in random order: no kind again before every other kind has been."""
    draw = random.Random(f"{seed} {ground.name}")
    kinds: dict[str, list[Fault]] = {}
    for fault in _all(ground):
        kinds.setdefault(fault.kind, []).append(fault)
    faults: list[Fault] = []
    while len(faults) < count:
        faults += [draw.choice(kinds[kind]) for kind in draw.sample(sorted(kinds), len(kinds))]
    return faults[:count]


async def strike(fleet: Fleet, faults: Sequence[Fault], story: Story, allowance: Allowance) -> None:
    """One fault after the other, each when a share of the effects is there: so each falls into running work.

    After each the money is counted, what is under way included.
    """
    share = story.messages // (len(faults) + 1)
    for number, fault in enumerate(faults, 1):
        await allowance.raise_to(share * (number + 1))
        due = share * number
        await fleet.until(DONE, partial(operator.le, due), f"{due} effects")
        story.fault(f"{number} {fault}")
        await fault.strike(fleet)
        story.fired[fault.kind] += 1
        found = await fleet.until(UNDER_WAY, lambda n: n >= 0, "the money to be counted")
        story.snapshots.append(KEYS * FUNDS - found)
    await allowance.raise_to(story.messages)


def _all(ground: Ground) -> list[Fault]:
    """Every fault that there is on a ground."""
    faults = [Fault(kind, name, _of_process(strike, name)) for kind, strike in PROCESSES.items() for name in NAMES]
    for where, proxy in ground.links.items():
        kinds = NETWORK | ({"reply to a COMMIT lost": LOST_COMMIT} if where.startswith("database") else {})
        faults += [Fault(kind, where, _in_thread(on.strike, proxy)) for kind, on in kinds.items()]
    faults += [Fault("server stopped", server.name, _to_server("pause", _pause, server)) for server in ground.servers]
    for server in ground.mortal:
        faults.append(Fault("server killed", server.name, _to_server("kill", _kill, server)))
        faults.append(Fault("server restarted", server.name, _to_server("stop", Server.restart, server)))
    return faults


def _of_process(strike: Callable[[Fleet, str], Awaitable[None]], name: str) -> Callable[[Fleet], Awaitable[None]]:
    return lambda fleet: strike(fleet, name)


def _in_thread(strike: Callable[[Proxy], None], proxy: Proxy) -> Callable[[Fleet], Awaitable[None]]:
    return lambda _: asyncio.to_thread(strike, proxy)


def _to_server(counted: str, strike: Callable[[Server], None], server: Server) -> Callable[[Fleet], Awaitable[None]]:
    async def struck(_: Fleet) -> None:
        before = server.faults[counted]
        await asyncio.to_thread(strike, server)
        assert server.faults[counted] > before, f"{server.name} was not seen to {counted}"

    return struck
