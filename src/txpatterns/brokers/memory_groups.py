"""The queues of the in-memory broker: per group, one lane for each key."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from txpatterns.messages import Message
from txpatterns.transport import CONFIRMED, Outcome

_BATCH = 100


class Publication:
    """One call of publish: which groups still have to acknowledge which message."""

    __slots__ = ("_queued", "changed", "open", "told", "withdrawn")

    def __init__(self) -> None:
        self.open: dict[str, int] = {}
        self.told: dict[str, Outcome] = {}
        self.changed = asyncio.Event()
        self.withdrawn = False
        self._queued: dict[Lane, Group] = {}

    def add(self, message: Message, readers: Sequence[Group]) -> None:
        """Queue a message for its groups; without any, it is confirmed."""
        if not readers:
            self.told[message.id] = CONFIRMED
            return
        self.open[message.id] = self.open.get(message.id, 0) + len(readers)
        for group in readers:
            self._queued[group.enqueue(message, self)] = group

    def withdraw(self) -> None:
        """Take back what no member has; what one has is acknowledged to nobody."""
        self.withdrawn = True
        if self.open:
            for lane, group in self._queued.items():
                group.sweep(lane)

    def acknowledged(self, message_id: str) -> None:
        """One more group is done with a message."""
        self.open[message_id] -= 1
        if not self.open[message_id]:
            del self.open[message_id]
            self.told[message_id] = CONFIRMED
            self.changed.set()


@dataclass(slots=True, eq=False)
class Lane:
    """The messages of one key: waiting in order, and how many are out with the member that has the lane."""

    key: tuple[str, str] | None  # topic and key; None for a message without a key, whose lane is its own
    waiting: deque[Item] = field(default_factory=deque)
    owner: Member | None = None
    out: int = 0
    listed: bool = False


@dataclass(slots=True, eq=False)
class Item:
    """One message in one group's queue."""

    number: int
    message: Message
    publication: Publication
    lane: Lane
    redelivered: bool = False

    def __lt__(self, other: Item) -> bool:
        return self.number < other.number


class Member:
    """One subscriber of a group."""

    def __init__(self, topics: frozenset[str], room: int) -> None:
        self.topics = topics
        self.room = room
        self.out: dict[Item, None] = {}
        self.wanted = asyncio.Event()
        self.left = False


class Group:
    """What one group has still to acknowledge, and who is there to do it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.topics: set[str] = set()
        self._members: list[Member] = []
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._ready: deque[Lane] = deque()
        self._numbers = count()

    @property
    def is_read(self) -> bool:
        """Whether each of its topics has a member."""
        return self.topics <= {topic for member in self._members for topic in member.topics}

    def enqueue(self, message: Message, publication: Publication) -> Lane:
        """Append a message to the lane of its key; `wake` tells the members."""
        lane = self._lane_of(message)
        lane.waiting.append(Item(next(self._numbers), message, publication, lane))
        self._list(lane)
        return lane

    def _lane_of(self, message: Message) -> Lane:
        if message.key is None:
            return Lane(None)
        key = (message.topic, message.key)
        if key not in self._lanes:
            self._lanes[key] = Lane(key)
        return self._lanes[key]

    def sweep(self, lane: Lane) -> None:
        """Drop what was withdrawn from a lane."""
        lane.waiting = deque(item for item in lane.waiting if not item.publication.withdrawn)
        self._forget_if_empty(lane)

    def wake(self) -> None:
        """Tell the members that there may be something to take."""
        for member in self._members:
            member.wanted.set()

    def join(self, member: Member) -> None:
        """Count a member in."""
        self._members.append(member)
        member.wanted.set()

    def leave(self, member: Member) -> None:
        """Put what the member has not acknowledged back to the front, in order."""
        member.left = True
        member.wanted.set()
        if member in self._members:
            self._members.remove(member)
        for item in list(member.out):
            if not item.publication.withdrawn:
                item.redelivered = True
                insort(item.lane.waiting, item)
            self.give_up(member, item)
            self._list(item.lane)

    def take(self, member: Member) -> list[Item]:
        """Give the member the next messages that it may have; empty when there are none, or no room for them."""
        taken: list[Item] = []
        passed: list[Lane] = []
        room = min(_BATCH, member.room - len(member.out))
        while self._ready and len(taken) < room and not member.left:
            lane = self._ready.popleft()
            lane.listed = False
            if lane.owner in (None, member) and self._fits(lane, member):
                self._take_from(lane, member, room, taken)
            if lane.waiting:
                passed.append(lane)
        for lane in passed:
            self._list(lane)
        return taken

    def give_up(self, member: Member, item: Item) -> bool:
        """The member no longer has the item; says whether it had it."""
        if item not in member.out:
            return False
        if len(member.out) >= member.room:
            member.wanted.set()
        del member.out[item]
        lane = item.lane
        lane.out -= 1
        if not lane.out:
            lane.owner = None
            self._forget_if_empty(lane)
            if lane.waiting:
                self.wake()
        return True

    def done(self, item: Item) -> None:
        """This group has acknowledged the item."""
        item.publication.acknowledged(item.message.id)

    def _take_from(self, lane: Lane, member: Member, room: int, taken: list[Item]) -> None:
        while lane.waiting and len(taken) < room:
            item = lane.waiting.popleft()
            if item.publication.withdrawn:
                continue
            lane.owner = member
            lane.out += 1
            member.out[item] = None
            taken.append(item)
        self._forget_if_empty(lane)

    def _fits(self, lane: Lane, member: Member) -> bool:
        return bool(lane.waiting) and lane.waiting[0].message.topic in member.topics

    def _list(self, lane: Lane) -> None:
        if lane.waiting and not lane.listed:
            lane.listed = True
            self._ready.append(lane)

    def _forget_if_empty(self, lane: Lane) -> None:
        if lane.key is None or lane.waiting or lane.out:
            return
        if self._lanes.get(lane.key) is lane:  # a lane that was forgotten before has a successor
            del self._lanes[lane.key]
