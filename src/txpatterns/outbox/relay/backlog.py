"""What the relay has read and not finished: which message may go out next. Pure; it does no I/O.

The table is read in passes, from a low position to the end. In each pass the rows of a lane are taken in order, and
once one is left out, so are all that follow it, until a pass begins at or below that position, or a page is read again
from there for the lanes that were left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from txpatterns.outbox.relay.doubts import Doubts
from txpatterns.outbox.relay.lanes import LaneState, Turns
from txpatterns.outbox.relay.rows import Lane, Row
from txpatterns.outbox.relay.unfinished import Unfinished
from txpatterns.outbox.relay.verdicts import Judge, Verdicts
from txpatterns.transport import Outcome


class Backlog:
    """The rows between reading and settling, and the rule of what may be sent.

    ``limit`` bounds how many rows are kept, ``lane_limit`` how many of them may be of one lane; ``max_bytes`` bounds
    their payloads, of which an eighth may be of one lane. Only the last row taken in may go beyond a bound in bytes.
    """

    def __init__(
        self,
        *,
        limit: int,
        lane_limit: int,
        ordered_prefix: bool,
        max_bytes: int = 1 << 26,
        doubts: Doubts | None = None,
    ) -> None:
        self.limit = limit
        self.lane_limit = lane_limit
        self.max_bytes = max_bytes
        self.ordered_prefix = ordered_prefix
        self.unfinished = Unfinished()
        self.held: set[Lane] = set()
        self.frozen: set[Lane] = set()
        self.dropped: dict[Lane, int] = {}
        """From where on a lane was left out; whose turn it is to be read again stands first."""
        self._passed_over: dict[Lane, int] = {}
        """Where a pass first met a lane while it was frozen."""
        self._thawed: set[Lane] = set()
        """The lanes that were thawed since the last reading began: what it has left out of them is read again."""
        self.turns = Turns()
        self.judge = Judge(doubts or Doubts(), ordered_prefix=ordered_prefix)
        self._lanes: dict[Lane, LaneState] = {}
        self._shut: dict[str, int] = {}
        """The topics that are not to be read, and how many messages are kept of each."""

    @property
    def room(self) -> int:
        """How many more rows may be read."""
        return max(self.limit - len(self.unfinished.rows), 0) if self.unfinished.bytes < self.max_bytes else 0

    @property
    def room_bytes(self) -> int:
        """How many bytes of payload may still be read."""
        return max(self.max_bytes - self.unfinished.bytes, 0)

    @property
    def is_empty(self) -> bool:
        """Whether nothing that was read is unfinished."""
        return not self.unfinished.rows

    @property
    def shut_topics(self) -> list[str]:
        """The topics that are not to be read."""
        return list(self._shut)

    def waits(self, topic: str) -> bool:
        """Whether something of a topic is read and not under way."""
        return bool(self.turns.apart(topic)) or topic in self.turns.alone

    @property
    def share(self) -> int:
        """How many rows a topic that is published apart may have when there is no room left."""
        return max(self.limit // (2 * (1 + self.turns.topics_apart)), 1)

    def is_crowded_by(self, topic: str) -> bool:
        """Whether there is no room left, and this topic fills more than its share of it."""
        return not self.room and sum(row.message.topic == topic for row in self.unfinished.rows.values()) > self.share

    def next_left_out(self, seen: int) -> int | None:
        """Say from where on to read again for a lane that was left out and has room now, each in its turn.

        Not beyond the position up to which passes have ``seen`` everything: more may have been left out before.
        """
        places = (
            p for lane, p in self.dropped.items() if p <= seen and lane not in self.frozen and self._has_room(lane)
        )
        return next(places, None)

    def room_of_left_out(self) -> int:
        """Say how many rows those lanes can take that were left out."""
        kept = [len(self._lanes[lane].rows) if lane in self._lanes else 0 for lane in self.dropped]
        return sum(max(self.lane_limit - rows, 0) for rows in kept)

    def _has_room(self, lane: Lane) -> bool:
        state = self._lanes.get(lane)
        return state is None or (len(state.rows) <= self.lane_limit // 2 and state.bytes <= self.max_bytes // 16)

    def reading_began(self) -> dict[str, int]:
        """Note that a page is being read: it leaves out what is known now. Give the note to ``reading_ended``."""
        self._thawed.clear()
        return self.unfinished.reading_began()

    def begin_pass(self, low: int) -> None:
        """Start reading from ``low``: what was left out at or above it will be found."""
        self.dropped = {lane: position for lane, position in self.dropped.items() if position < low}

    def take_in_again(self, rows: Sequence[Row], first: int, last: int | None, seen: int) -> list[Row]:
        """Accept rows read again for lanes that were left out, from ``first`` to ``last`` (None: to the end).

        What comes behind is still left out, or for a pass beyond what was ``seen``. Gives the rows of held lanes, as
        ``take_in`` does.
        """
        end = seen if last is None else min(last, seen)
        but = self.frozen | self._thawed
        again = [lane for lane, p in self.dropped.items() if first <= p <= end and lane not in but]
        for lane in again:
            del self.dropped[lane]
        behind = self.take_in(rows)
        if last is not None and last < seen:
            for lane in again:
                self.dropped.setdefault(lane, last + 1)
        return behind

    def take_in(self, rows: Iterable[Row]) -> list[Row]:
        """Accept rows in the order of a pass; gives those of held lanes, which are to be set aside."""
        behind: list[Row] = []
        unfinished, lanes, limit, lane_bytes = self.unfinished, self._lanes, self.lane_limit, self.max_bytes // 8
        known, settled_lately, shut = unfinished.rows, unfinished.settled_lately, self._shut
        held, frozen, dropped = self.held, self.frozen, self.dropped
        for row in rows:
            message, lane = row.message, row.lane
            message_id = message.id
            if message_id in known or settled_lately.get(message_id) == row.position:
                continue
            if shut and message.topic in shut:
                continue  # it is read again, with all of its topic, when that flows
            if held and lane in held:  # hashing a lane costs more than seeing that nothing is held
                behind.append(row)
            elif frozen and lane in frozen:
                self._passed_over[lane] = min(row.position, self._passed_over.get(lane, row.position))
            elif dropped and lane in dropped:
                dropped[lane] = min(row.position, dropped[lane])
            else:
                state = lanes.get(lane)
                if state is None:
                    state = lanes[lane] = LaneState(lane, message.topic)
                else:
                    row.lane = state.lane  # its hash is known, and there is one object less to collect
                waiting = state.rows
                if len(waiting) >= limit or state.bytes >= lane_bytes:
                    dropped[lane] = row.position
                    continue
                if not waiting and not state.busy:
                    self.turns.add(state)
                known[message_id] = row
                waiting.append(row)
                size = len(message.payload)
                state.bytes += size
                unfinished.bytes += size
        return behind

    def next_batch(self, size: int, max_bytes: int, *, apart: str | None = None) -> list[Row]:
        """Take what may be sent now, of one topic ``apart`` or of all the others, and mark its lanes busy."""
        ready = self.turns.together if apart is None else self.turns.apart(apart)
        batch: list[Row] = []
        room = max_bytes
        while ready and len(batch) < size and room > 0:
            state = ready.popleft()
            state.busy = True
            while True:
                row = state.rows.pop(0)
                batch.append(row)
                taken = len(row.message.payload)
                state.bytes -= taken
                room -= taken
                if not (self.ordered_prefix and state.rows and len(batch) < size and room > 0):
                    break
        return batch

    def next_alone(self, topic: str) -> list[Row]:
        """Take one message of this topic that must be sent all by itself."""
        state = self.turns.next_alone(topic)
        state.busy = True
        row = state.rows.pop(0)
        state.bytes -= len(row.message.payload)
        return [row]

    def rejoin(self, topic: str) -> None:
        """Publish a topic together with the others again. If it was shut, everything has to be read again."""
        self._shut.pop(topic, None)
        self.turns.rejoin(topic)

    def shut(self, topic: str, keep: int) -> None:
        """Keep so many messages of a topic, forget what else of it is not under way, and take in nothing more."""
        self.turns.set_apart(topic)
        self._shut[topic] = keep
        for lane, state in [(lane, state) for lane, state in self._lanes.items() if state.topic == topic]:
            self.turns.remove(state)
            self._trim(state, 0 if state.busy else keep)
            keep -= len(state.rows)
            if state.rows:
                self.turns.add(state)
            elif not state.busy:
                del self._lanes[lane]

    def conclude(self, rows: Sequence[Row], outcomes: Mapping[str, Outcome], *, alone: bool) -> Verdicts:
        """Decide what each row of a publication's lanes came to, and put back what must go out again, in order."""
        found = self.judge.verdicts(rows, outcomes, alone=alone)
        for lane in found.alone & self._lanes.keys():
            self._lanes[lane].alone = True
        for lane in dict.fromkeys([row.lane for row in rows]):
            self._put_back(lane, found.again.get(lane, ()))
        if len(self._lanes) > 2 * self.limit:  # most keys come again, and a lane takes longer to make than to find
            self._lanes = {lane: state for lane, state in self._lanes.items() if state.rows or state.busy}
        return found

    def _put_back(self, lane: Lane, rows: Sequence[Row]) -> None:
        state = self._lanes.get(lane)
        if state is None:  # frozen meanwhile: what was not confirmed is read again
            self.unfinished.forget(rows)
            return
        state.busy = False
        if rows:
            state.rows[:0] = rows
            state.bytes += sum(len(row.message.payload) for row in rows)
        else:
            state.alone = False
        if state.topic in self._shut:
            others = sum(len(other.rows) for other in self._lanes.values() if other.topic == state.topic)
            self._trim(state, self._shut[state.topic] - others + len(state.rows))
        if state.rows:
            self.turns.add(state)
        elif not lane[0]:  # without a key nothing comes in it again
            del self._lanes[lane]
        else:
            state.alone = False

    def _trim(self, state: LaneState, keep: int) -> None:
        """Keep the first rows only of a lane whose topic is shut. What takes nothing now is tried with any message."""
        state.alone = state.alone and self._shut[state.topic] > 1
        gone = [state.rows.pop() for _ in range(len(state.rows) - max(keep, 0))]
        state.bytes -= sum(len(row.message.payload) for row in gone)
        if gone:
            self.unfinished.forget(gone)

    def freeze(self, lane: Lane) -> None:
        """Leave a lane's rows in the outbox for now, until it is written what becomes of it."""
        self.held.discard(lane)
        self.frozen.add(lane)
        state = self._lanes.pop(lane, None)
        if state is not None:
            self.turns.remove(state)
            self.unfinished.forget(state.rows)

    def thaw(self, lane: Lane, position: int, *, held: bool) -> None:
        """Let a pass find a frozen lane's rows again, from ``position`` on: to go out, or if held to be set aside."""
        self.frozen.discard(lane)
        self._thawed.add(lane)
        if held:
            self.held.add(lane)
        position = min(position, self._passed_over.pop(lane, position))
        first = max(position, _FIRST_POSITION)  # a pass begins there at the lowest, and would not clear what is below
        self.dropped[lane] = min(first, self.dropped.get(lane, first))

    def forget_buckets(self, buckets: Iterable[int]) -> None:
        """Drop what is not under way of buckets that are not ours any more."""
        gone = set(buckets)
        for lane, state in list(self._lanes.items()):
            if state.rows and state.rows[0].bucket in gone:
                self.turns.remove(state)
                self.unfinished.forget(state.rows)
                state.rows.clear()
                state.bytes = 0
                if not state.busy:
                    del self._lanes[lane]

    def under_way(self, buckets: Iterable[int]) -> bool:
        """Whether something of these buckets is read and not settled."""
        wanted = set(buckets)
        return any(row.bucket in wanted for row in self.unfinished.rows.values())


_FIRST_POSITION = 1
