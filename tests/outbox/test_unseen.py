"""Which places have to be read again, held against a model of PostgreSQL's transactions and snapshots."""

from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from txpatterns.outbox.relay.unseen import Snapshot, Unseen


@dataclass
class Server:
    """Transactions take numbers, draw positions and end, in any order; a snapshot shows what has ended."""

    next_number: int = 700
    next_position: int = 1
    latest_ended: int = 699
    running: dict[int, list[int]] = field(default_factory=dict)
    visible: set[int] = field(default_factory=set)

    def begin(self):
        self.running[self.next_number] = []
        self.next_number += 1

    def draw(self, which):
        if self.running:
            numbers = sorted(self.running)
            self.running[numbers[which % len(numbers)]].append(self.next_position)
            self.next_position += 1

    def end(self, which, *, commit):
        if self.running:
            number = sorted(self.running)[which % len(self.running)]
            written = self.running.pop(number)
            self.visible.update(written if commit else ())
            self.latest_ended = max(self.latest_ended, number)

    def savepoint(self):
        """A savepoint that writes has a number of its own, which no snapshot lists."""
        self.next_number += 1

    @property
    def snapshot(self):
        unlisted = self.latest_ended + 1
        listed = [number for number in self.running if number < unlisted]
        text = f"{min(listed, default=unlisted)}:{unlisted}:{','.join(map(str, listed))}"
        return Snapshot.of(text, self.next_number - unlisted)


def starts_at(unseen, snapshot, cursor):
    """What the relay's statement does with its parameters."""
    ended = [low for n, low in unseen.listed.items() if n < snapshot.unlisted and n not in snapshot.listed]
    return min([cursor, *ended, *([unseen.low] if snapshot.unlisted > unseen.first else [])])


def is_seen(steps):
    server, unseen, seen, highest = Server(), Unseen(), set(), 0
    for step, which in steps:
        match step:
            case "look":
                snapshot = server.snapshot
                start = starts_at(unseen, snapshot, highest)
                missed = {position for position in server.visible if position <= start} - seen
                assert not missed, f"{missed} are visible and not read"
                seen |= server.visible
                unseen = unseen.after(snapshot, highest)
                highest = max(seen, default=0)
            case "commit" | "abort":
                server.end(which, commit=step == "commit")
            case "draw":
                server.draw(which)
            case _:
                getattr(server, step)()


STEPS = st.sampled_from(["begin", "begin", "draw", "draw", "commit", "abort", "savepoint", "look", "look"])


LATE_AND_YOUNG = list(
    zip(["begin", "begin", "draw", "draw", "commit", "look", "commit", "look"], [0, 0, 1, 0, 0, 0, 0, 0], strict=True)
)
"""A transaction younger than the last that has ended, so in no list, commits below what was read."""


@settings(max_examples=400)
@example(LATE_AND_YOUNG)
@given(st.lists(st.tuples(STEPS, st.integers(0, 3)), min_size=12, max_size=80))
def test_nothing_comes_to_light_where_nobody_looks(steps):
    """P1, P3, H7, H190: whatever has become visible since the last look lies where the next look reads."""
    is_seen(steps)


def test_an_old_transaction_is_read_after_once():
    """P7, H9: one that stays open for long costs one longer look when it ends, and none before."""
    server, unseen, highest = Server(), Unseen(), 0
    server.begin()
    server.draw(0)
    starts = []
    for _ in range(50):
        server.begin()
        server.draw(1)
        server.end(1, commit=True)
        snapshot = server.snapshot
        starts.append((starts_at(unseen, snapshot, highest), highest))
        unseen, highest = unseen.after(snapshot, highest), max(server.visible)
    server.end(0, commit=True)
    assert starts_at(unseen, server.snapshot, highest) == 0
    assert all(start == cursor for start, cursor in starts[2:])
