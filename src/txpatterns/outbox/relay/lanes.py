"""The lanes of what the relay has read: what waits in each, and which of them may send now. Pure."""

from __future__ import annotations

from collections import deque

from txpatterns.outbox.relay.rows import Lane, Row


class LaneState:
    """The rows of one lane that wait, and whether something of it is under way."""

    __slots__ = ("alone", "busy", "bytes", "lane", "rows", "topic")

    def __init__(self, lane: Lane, topic: str) -> None:
        self.lane = lane
        self.topic = topic
        self.rows: list[Row] = []  # most lanes hold one or two, for which a deque takes long to make
        self.bytes = 0
        self.busy = False
        self.alone = False
        """Its first message goes out all by itself next: a transport that batches may blame it for its neighbours."""


class Turns:
    """The lanes that have something to send and nothing under way, each in its turn."""

    def __init__(self) -> None:
        self.together: deque[LaneState] = deque()
        """Those that may send together with others."""
        self._alone: deque[LaneState] = deque()
        self._apart: dict[str, deque[LaneState]] = {}

    @property
    def has_any(self) -> bool:
        """Whether any lane may send, together with others or apart."""
        return bool(self.together) or any(self._apart.values())

    @property
    def alone(self) -> list[str]:
        """The topics of the lanes that must send their first message all by itself, lane by lane."""
        return [lane.topic for lane in self._alone] if self._alone else []

    @property
    def topics_apart(self) -> int:
        """How many topics are published apart from the others."""
        return len(self._apart)

    def apart(self, topic: str) -> deque[LaneState]:
        """Give the lanes that have something to send of a topic that is published apart."""
        return self._apart.get(topic, deque())

    def add(self, lane: LaneState) -> None:
        """Let a lane have its turn."""
        self._queue(lane).append(lane)

    def remove(self, lane: LaneState) -> None:
        """Take a lane's turn away, if it has one."""
        if lane.rows and not lane.busy:
            self._queue(lane).remove(lane)

    def _queue(self, lane: LaneState) -> deque[LaneState]:
        if lane.alone:
            return self._alone
        return self._apart.get(lane.topic, self.together) if self._apart else self.together

    def next_alone(self, topic: str) -> LaneState:
        """Take the first lane of this topic that must send its first message all by itself."""
        lane = next(lane for lane in self._alone if lane.topic == topic)
        self._alone.remove(lane)
        return lane

    def set_apart(self, topic: str) -> None:
        """Publish a topic apart from the others."""
        if topic in self._apart:
            return
        self._apart[topic] = deque(lane for lane in self.together if lane.topic == topic)
        if self._apart[topic]:
            self.together = deque(lane for lane in self.together if lane.topic != topic)

    def rejoin(self, topic: str) -> None:
        """Publish a topic together with the others again."""
        self.together.extend(self._apart.pop(topic, ()))
