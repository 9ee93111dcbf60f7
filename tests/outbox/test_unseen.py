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
    relays: set[int] = field(default_factory=set)
    """The transactions of the relay, which draw nothing."""
    visible: set[int] = field(default_factory=set)

    def begin(self):
        self.running[self.next_number] = []
        self.next_number += 1

    def draw(self, which):
        numbers = sorted(self.running.keys() - self.relays)
        if numbers:
            self.running[numbers[which % len(numbers)]].append(self.next_position)
            self.next_position += 1

    def end(self, which, *, commit):
        if self.running:
            number = sorted(self.running)[which % len(self.running)]
            written = self.running.pop(number)
            self.visible.update(written if commit else ())
            self.latest_ended = max(self.latest_ended, number)

    def settle(self):
        """The relay deletes what it has sent, in one transaction at a time."""
        if not self.relays & self.running.keys():
            self.relays.add(self.next_number)
            self.begin()

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
    server, unseen, seen, highest, ours, told, asked = Server(), Unseen(), set(), 0, set(), set(), None
    for step, which in steps:
        match step:
            case "look" if asked is None:
                snapshot = server.snapshot
                start = starts_at(unseen, snapshot, highest)
                missed = {position for position in server.visible if position <= start} - seen
                assert not missed, f"{missed} are visible and not read"
                asked = snapshot, set(server.visible)
            case "answer" if asked is not None:
                snapshot, found = asked
                seen, asked = seen | found, None
                ours = {number for number in ours if snapshot.may_run(number)}
                unseen = unseen.after(snapshot, highest).without(ours)
                highest = max(seen, default=0)
            case "settled":
                ended = server.relays - server.running.keys() - told
                told, ours = told | ended, ours | ended
                unseen = unseen.without(ours)
            case "commit" | "abort":
                server.end(which, commit=step == "commit")
            case "draw":
                server.draw(which)
            case "begin" | "settle" | "savepoint":
                getattr(server, step)()


STEPS = st.sampled_from(
    ["begin", "begin", "draw", "draw", "commit", "abort", "savepoint", "settle", "settled"] + 3 * ["look", "answer"]
)


LATE_AND_YOUNG = list(
    zip(
        ["begin", "begin", "draw", "draw", "commit", "look", "answer", "commit", "look"],
        [0, 0, 1, 0, 0, 0, 0, 0, 0],
        strict=True,
    )
)
"""A transaction younger than the last that has ended, so in no list, commits below what was read."""


TOLD_WHILE_ASKED = [
    *[("settle", 0), ("look", 0), ("answer", 0), ("begin", 0), ("draw", 0), ("look", 0)],
    *[("commit", 0), ("settled", 0), ("answer", 0)],
    *[("begin", 0), ("draw", 1), ("commit", 1), ("look", 0), ("answer", 0), ("commit", 0), ("look", 0)],
]
"""Our own transaction is known to have ended when an older look is answered, which shows it beside another's."""


@settings(max_examples=400)
@example(LATE_AND_YOUNG)
@example(TOLD_WHILE_ASKED)
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


def test_our_own_transactions_are_not_read_after():
    """P7, H190: what the relay deletes while it reads brings nothing to light, so nothing is read twice for it."""
    server, unseen, highest = Server(), Unseen(), 0
    for _ in range(3):
        server.begin()
        server.draw(0)
        server.end(0, commit=True)
        server.settle()
        (ours,) = server.running
        snapshot = server.snapshot
        unseen, highest = unseen.after(snapshot, highest), max(server.visible)
        server.end(0, commit=True)
        assert starts_at(unseen, server.snapshot, highest) < highest
        assert starts_at(unseen.without({ours}), server.snapshot, highest) == highest


def test_our_own_numbers_are_kept_until_a_snapshot_shows_their_end():
    """P7: a relay that runs for months remembers the few that may still turn up, and no more."""
    snapshot = Snapshot.of("10:15:12", 3)
    assert [number for number in range(9, 19) if snapshot.may_run(number)] == [12, 15, 16, 17, 18]
