"""The backlog alone, driven through random passes, outcomes, failures and releases: the order of each lane holds."""

from collections import defaultdict
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from txpatterns.messages import Message, bucket_of
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.rows import Row, bucket_of_lane, lane_of
from txpatterns.transport import CONFIRMED, Outcome, Verdict


def row(position, key, size, topic="t"):
    message = Message(id=f"m{position}", topic=topic, type="x", payload=b"x" * size, key=key)
    return Row(position, message.bucket, message, lane_of(message))


class Simulation:
    """The table, a broker and what the relay does with the backlog, a step at a time and in any order."""

    def __init__(self, random, *, keys, rows, ordered) -> None:
        self.random = random
        self.ordered = ordered
        self.backlog = Backlog(limit=12, lane_limit=4, ordered_prefix=ordered, max_bytes=64)
        topics = random.choice(["t", "tu"])
        self.table = {
            n: row(n, f"k{random.randrange(keys)}" if keys else None, random.randrange(10), random.choice(topics))
            for n in range(1, rows + 1)
        }
        self.all = dict(self.table)
        self.cursor, self.at_end = 0, True
        self.page = self.again = None
        self.flying, self.confirmed, self.aside, self.failing, self.releases = [], [], [], [], []
        self.behind, self.retrying, self.dead, self.first = {}, {}, [], []
        self.calm = False

    def step(self) -> None:
        moves = [
            self.begin_read,
            self.end_read,
            self.send,
            self.answer,
            self.settle,
            self.set_aside,
            self.write_failure,
        ]
        self.random.choice([*moves, self.retry, self.release])()
        assert len(self.backlog.unfinished.rows) <= self.backlog.limit, "memory is bounded"
        assert self.backlog.unfinished.bytes == sum(
            len(one.message.payload) for one in self.backlog.unfinished.rows.values()
        )

    def begin_read(self) -> None:
        if self.page is not None or not self.backlog.room:
            return
        self.again = self.backlog.next_left_out(self.cursor) if self.random.random() < 0.5 else None
        if self.again is None and self.at_end:
            if self.random.random() < 0.2 or self.calm:
                self.cursor = 0
            self.at_end = False
            self.backlog.begin_pass(self.cursor + 1)
        limit = min(5, self.backlog.room)
        but = self.backlog.shut_topics
        after = self.cursor if self.again is None else self.again - 1
        known = set(self.backlog.unfinished.positions(0))  # which the statement leaves out
        waiting = [self.table[n] for n in sorted(self.table) if n > after and n not in known]
        found = [one for one in waiting if one.message.topic not in but][:limit]
        self.page = (
            self.backlog.reading_began(),
            limit,
            [row(one.position, one.message.key, len(one.message.payload), one.message.topic) for one in found],
        )

    def end_read(self) -> None:
        if self.page is None:
            return
        note, limit, found = self.page
        self.page = None
        if self.again is not None:
            last = None if len(found) < limit else found[-1].position
            self.aside += self.backlog.take_in_again(found, self.again, last, self.cursor)
            self.backlog.unfinished.reading_ended(note)
            return
        self.aside += self.backlog.take_in(found)
        self.backlog.unfinished.reading_ended(note)
        if found:
            self.cursor = found[-1].position
        self.at_end = len(found) < limit

    def send(self) -> None:
        if len(self.flying) >= 3:
            return
        for topic in ("t", "u"):
            if topic in self.backlog.shut_topics and not self.backlog.waits(topic) and not self.of(topic):
                self.flow(topic)
        ways = [lambda: self.backlog.next_batch(4, 1000)] if self.backlog.turns.together else []
        ways += [lambda t=t: self.backlog.next_alone(t) for t in set(self.backlog.turns.alone)]
        for topic in ("t", "u"):
            if self.backlog.turns.apart(topic):
                size = 1 if topic in self.backlog.shut_topics else 4
                ways.append(lambda t=topic, n=size: self.backlog.next_batch(n, 1000, apart=t))
        if ways:
            rows = self.random.choice(ways)()
            self.flying.append((rows, len(rows) == 1))

    def of(self, topic) -> bool:
        return any(one.message.topic == topic for rows, _ in self.flying for one in rows)

    def flow(self, topic) -> None:
        """It took a message, or what it was to be tried with has gone: a page that is under way is not taken in."""
        self.backlog.rejoin(topic)
        self.page, self.cursor, self.at_end = None, 0, False
        self.backlog.begin_pass(1)

    def answer(self) -> None:
        if not self.flying:
            return
        rows, alone = self.lanes_told()
        outcomes, broken = {}, set()
        for one in rows:
            verdict = CONFIRMED if self.calm else self.random.choice([CONFIRMED] * 4 + FAILURES)
            if self.ordered and one.lane in broken:
                verdict = self.random.choice([Outcome(Verdict.UNKNOWN), CONFIRMED])  # it may even say so
            if verdict is not CONFIRMED:
                broken.add(one.lane)
            if verdict is CONFIRMED and one.lane not in broken:
                self.publish(one)
            if verdict.verdict is not Verdict.UNKNOWN or self.random.random() < 0.5:
                outcomes[one.message.id] = verdict
            else:
                broken.add(one.lane)
        found = self.backlog.conclude(rows, outcomes, alone=alone)
        self.confirmed += found.settled
        for topic in {one.message.topic for one in found.settled} & set(self.backlog.shut_topics):
            self.flow(topic)
        for topic in found.postponed:
            self.backlog.shut(topic, self.random.choice([1, 1, 2, 3, 5]))
        for topic in sorted(found.unanswered):
            self.backlog.turns.set_apart(topic)
            if topic not in self.backlog.shut_topics and self.random.random() < 0.5:
                self.backlog.rejoin(topic)
        for one, _ in [*found.rejected, *found.doubtful]:
            self.backlog.freeze(one.lane)
            self.failing.append((one, self.random.random() < 0.4))

    def lanes_told(self):
        """A publication, or those of its lanes of which all is told now; the others stay under way."""
        rows, alone = self.flying.pop(self.random.randrange(len(self.flying)))
        later = {one.lane for one in rows if self.random.random() < 0.3}
        if later:
            self.flying.append(([one for one in rows if one.lane in later], alone))
        return [one for one in rows if one.lane not in later], alone

    def publish(self, one) -> None:
        if one.message.id not in self.first:
            self.first.append(one.message.id)

    def settle(self) -> None:
        for one in self.confirmed:
            self.table.pop(one.position, None)
        self.backlog.unfinished.finish(self.confirmed)
        self.confirmed = []

    def set_aside(self) -> None:
        for one in self.aside:
            if self.table.pop(one.position, None) is not None:
                self.behind[one.position] = one
        self.aside = []

    def write_failure(self) -> None:
        if not self.failing:
            return
        one, permanent = self.failing.pop(0)
        self.table.pop(one.position)
        if permanent:
            self.dead.append(one.message.id)
        else:
            self.retrying[one.position] = one
        self.backlog.unfinished.finish([one])
        self.backlog.thaw(one.lane, one.position, held=not permanent)

    def retry(self) -> None:
        if not self.retrying:
            return
        one = self.retrying.pop(self.random.choice(sorted(self.retrying)))
        if self.calm or self.random.random() < 0.5:
            self.publish(one)
        else:
            self.dead.append(one.message.id)
        self.backlog.freeze(one.lane)
        self.releases.append((one.lane, []))

    def release(self) -> None:
        if not self.releases:
            return
        lane, came = self.releases[0]
        if any(one.lane == lane for one in self.aside):
            return
        back = sorted(n for n, one in self.behind.items() if one.lane == lane)[:3]
        came += back
        for n in back:
            self.table[n] = self.behind.pop(n)
        if not any(one.lane == lane for one in self.behind.values()):
            self.releases.pop(0)
            self.backlog.thaw(lane, min(came, default=0), held=False)

    def finish(self) -> None:
        self.calm = True
        for _ in range(1000):
            if not self.table and not self.behind and not self.retrying and self.backlog.is_empty:
                break
            for move in (self.begin_read, self.end_read, self.send, self.answer, self.settle, self.set_aside):
                move()
            for move in (self.write_failure, self.retry, self.release):
                move()


FAILURES = [Outcome(verdict) for verdict in Verdict if verdict is not Verdict.CONFIRMED]


@settings(max_examples=1500)
@given(
    seed=st.integers(0, 2**32),
    keys=st.integers(0, 4),
    rows=st.integers(1, 40),
    ordered=st.booleans(),
    steps=st.integers(0, 250),
)
def test_order_and_completeness(seed, keys, rows, ordered, steps):
    """P1, P3, H23, H24, I4, I16: first confirmations of a lane in order of position, nothing lost, memory bounded."""
    simulation = Simulation(Random(seed), keys=keys, rows=rows, ordered=ordered)
    for _ in range(steps):
        simulation.step()
    simulation.finish()
    ended = set(simulation.first) | set(simulation.dead)
    assert ended == {one.message.id for one in simulation.all.values()}
    assert simulation.backlog.is_empty
    lanes = defaultdict(list)
    for message_id in simulation.first:
        one = simulation.all[int(message_id[1:])]
        lanes[one.lane].append(one.position)
    assert all(positions == sorted(positions) for positions in lanes.values())


def test_bytes_bound_a_batch():
    """H36: a batch ends with the message that fills it, in one lane or over many."""
    for ordered in (True, False):
        backlog = Backlog(limit=100, lane_limit=100, ordered_prefix=ordered)
        message = Message(id="", topic="t", type="x", payload=b"x" * 100)
        backlog.take_in(
            [
                Row(
                    n,
                    0,
                    message._replace(id=str(n), key="k" if ordered else str(n)),
                    ("t", "kk" if ordered else str(n)),
                )
                for n in range(1, 51)
            ]
        )
        assert len(backlog.next_batch(50, 1000)) == 10


def test_a_lane_knows_its_bucket():
    """H16: the bucket of a lane is that of its messages, with a key and without."""
    for key in ("order-1", "", "k", "käse", None):
        message = Message(id="an-id", topic="t", type="x", payload=b"", key=key)
        assert bucket_of_lane(lane_of(message)) == message.bucket
    assert bucket_of("order-1") == Message(id="x", topic="t", type="x", payload=b"", key="order-1").bucket


def test_a_lane_that_is_thawed_while_a_page_is_read_is_read_again():
    """P7, H374: the page has left out what was known when it began, and is not known any more."""
    backlog = Backlog(limit=12, lane_limit=4, ordered_prefix=False)
    failing, follower = row(9, "k", 1), row(10, "k", 1)
    assert backlog.take_in([failing, follower]) == []
    backlog.next_batch(1, 1000)
    note = backlog.reading_began()
    backlog.freeze(failing.lane)
    backlog.unfinished.finish([failing])
    backlog.thaw(failing.lane, 9, held=True)
    assert backlog.take_in_again([], 5, None, 20) == []
    backlog.unfinished.reading_ended(note)
    assert backlog.next_left_out(20) == 9
    backlog.reading_began()
    assert backlog.take_in_again([follower], 9, None, 20) == [follower]
    assert backlog.next_left_out(20) is None


def test_what_is_sent_again_is_not_what_was_settled():
    """P1, P3, H251: a reading that begins when a message has died, and brings it as an operator has sent it again."""
    backlog = Backlog(limit=12, lane_limit=4, ordered_prefix=True, max_bytes=64)
    before, other = row(1, "k", 1), row(2, "k", 1)
    backlog.take_in([before])
    backlog.unfinished.finish([before])
    note = backlog.unfinished.reading_began()
    again = replace(before, position=3)
    backlog.take_in([before, other, again])
    backlog.unfinished.reading_ended(note)
    assert [one.position for one in backlog.unfinished.rows.values()] == [2, 3]
    assert backlog.unfinished.settled_lately == {}


def test_lanes_are_kept_for_their_keys_and_not_for_ever():
    """H36, H378: a key that comes again finds its lane; of keys that do not come again, few lanes are kept."""
    backlog = Backlog(limit=10, lane_limit=10, ordered_prefix=True)

    def publish(sent):
        assert backlog.take_in([sent]) == []
        assert backlog.next_batch(10, 1000) == [sent]
        assert backlog.conclude([sent], {sent.message.id: CONFIRMED}, alone=False).settled == [sent]
        backlog.unfinished.finish([sent])
        assert not backlog.turns.has_any

    first, again = row(1, "again", 1), row(2, "again", 1)
    publish(first)
    publish(row(3, None, 1))
    publish(again)
    assert again.lane is first.lane
    assert list(backlog._lanes) == [first.lane]
    for n in range(4, 1000):
        publish(row(n, f"k{n}", 1))
        assert len(backlog._lanes) <= 2 * backlog.limit
