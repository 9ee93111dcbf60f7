"""What must hold when everything has come to rest. An invariant is a function that raises AssertionError.

The ids are those of the documentation's list of invariants.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from txpatterns.testing.explorer.ledger import TABLE
from txpatterns.testing.explorer.wire import Sent, WireLog
from txpatterns.testing.remains import what_is_left

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class State:
    """What is left of a case: the database, the broker's log, and what the processes noted of themselves."""

    connection: Connection
    log: WireLog
    journal: Sequence[dict[str, Any]]

    def rows(self, query: str) -> Rows:
        """Run a query on the database of the case; gives rows by column name."""
        return [dict(row) for row in self.connection.execute(sa.text(query)).mappings()]

    @cached_property
    def strikes(self) -> int:
        """How many faults have struck."""
        return sum("fired" in record for record in self.journal)

    @cached_property
    def committed(self) -> Rows:
        """Every message that was committed: message_id, position, topic, message_key, payload, scheduled, cancelled."""
        return self.rows(f"SELECT * FROM {TABLE} ORDER BY position")

    @cached_property
    def published(self) -> list[Sent]:
        """Every copy that the broker has stored, in order."""
        return self.log.published

    @cached_property
    def dead(self) -> Rows:
        """All dead letters."""
        return self.rows("SELECT * FROM txp_dead_letter ORDER BY id")

    @cached_property
    def handled(self) -> Rows:
        """All rows of the inbox."""
        return self.rows("SELECT * FROM txp_inbox")

    @cached_property
    def pending(self) -> list[str]:
        """Ids in the outbox, and those that wait to go back into it."""
        found = self.rows("SELECT message_id FROM txp_outbox UNION ALL SELECT message_id FROM txp_outbox_waiting")
        return [row["message_id"] for row in found]


Invariant = Callable[[State], None]


def nothing_is_lost(state: State) -> None:
    """I1: every committed message was published, or waits, or is a dead letter."""
    found = {sent.message.id for sent in state.published} | set(state.pending)
    found |= {row["message_id"] for row in state.dead if row["consumer"] is None}
    lost = [row["message_id"] for row in state.committed if row["message_id"] not in found and not row["cancelled"]]
    assert not lost, f"I1: committed, and lost: {lost}"


def nothing_is_invented(state: State) -> None:
    """I2: every published message was committed."""
    committed = {row["message_id"] for row in state.committed if not row["cancelled"]}
    invented = {sent.message.id for sent in state.published} - committed
    assert not invented, f"I2: published, and never committed: {sorted(invented)}"


def publications_are_in_order(state: State) -> None:
    """I4: per topic and key, first publications keep the order of positions. Scheduled messages have no place in it."""
    first: dict[str, int] = {}
    for sent in state.published:
        first.setdefault(sent.message.id, sent.number)
    lanes: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in state.committed:
        if row["message_key"] is not None and not row["scheduled"] and row["message_id"] in first:
            lanes[row["topic"], row["message_key"]].append(row)
    for (_, key), rows in lanes.items():
        for earlier, later in pairwise(sorted(rows, key=lambda row: row["position"])):
            assert first[earlier["message_id"]] < first[later["message_id"]], (
                f"I4: of key {key!r}, {later['message_id']} was published before {earlier['message_id']}"
            )


def copies_are_identical(state: State) -> None:
    """I5: every copy of a message has the bytes that were committed."""
    bodies = {row["message_id"]: bytes(row["payload"]) for row in state.committed}
    changed = {
        s.message.id for s in state.published if bodies.get(s.message.id, s.message.payload) != s.message.payload
    }
    assert not changed, f"I5: published with other bytes than committed: {sorted(changed)}"


def one_state_each(state: State) -> None:
    """I9: a message is pending, or a dead letter, or settled; at a consumer it waits, or is dead, or is handled."""
    dead = [row["message_id"] for row in state.dead if row["consumer"] is None]
    twice = _repeated([*state.pending, *dead])
    assert not twice, f"I9: in two states at once: {twice}"
    waiting = state.rows("SELECT consumer, message_id FROM txp_inbox_waiting WHERE state <> 'parked'")
    buried = [row for row in state.dead if row["consumer"] is not None and row["reason"] != "id reused"]
    consumed = _repeated([(row["consumer"], row["message_id"]) for row in [*state.handled, *waiting, *buried]])
    assert not consumed, f"I9: at a consumer in two states at once: {consumed}"


def confirmed_is_not_dead(state: State) -> None:
    """I9, I11: what the broker has confirmed did not become a dead letter of the relay later.

    Two processes in a row may end between a confirmation and its note. When these were the last attempts, nobody
    knows of either.
    """
    confirmed = {record["id"] for record in state.log.records("confirmed")}
    unknown = ("attempts used up",) if state.strikes > 1 else ()
    dead = {row["message_id"] for row in state.dead if row["consumer"] is None and row["reason"] not in unknown}
    assert not confirmed & dead, f"I9: confirmed, and a dead letter all the same: {sorted(confirmed & dead)}"


def nothing_is_left(state: State) -> None:
    """I15: nothing waits any more, but for what an operator decides about."""
    left = [str(each) for each in what_is_left(state.connection, but_held=True)]
    assert not left, f"I15: never finished: {left}"


def nothing_leaked(state: State) -> None:
    """I14: no connection, transaction or task was left behind by a process that ended by itself."""
    leaks = [record["leak"] for record in state.journal if "leak" in record]
    assert not leaks, f"I14: {leaks}"


def recovery_succeeded(state: State) -> None:
    """P7: a new process that nothing disturbs ends without an error."""
    ended = [record for record in state.journal if "ended" in record and record["life"] > 0]
    errors = [record["ended"] for record in ended if not record.get("struck")]
    assert not errors, f"P7: the recovery failed:\n{errors[0]}"


INVARIANTS: tuple[Invariant, ...] = (
    recovery_succeeded,
    nothing_is_lost,
    nothing_is_invented,
    publications_are_in_order,
    copies_are_identical,
    one_state_each,
    confirmed_is_not_dead,
    nothing_is_left,
    nothing_leaked,
)
"""What holds for every application."""


DOUBTS = 3
"""How often the relay sends a message before an unanswered first attempt counts as failed."""


def attempts_at_most(most: int) -> Invariant:
    """Make I10: a dead letter had at most so many attempts, and no message was sent more often than they explain.

    While the broker confirms nothing else to a process, its silence is an outage, which uses up no attempt: that is not
    counted. What it confirms to another process tells nothing of this one's link.
    """
    return partial(_attempts_are_bounded, most=most)


def _attempts_are_bounded(state: State, *, most: int) -> None:
    above = [row["message_id"] for row in state.dead if row["attempts"] > most]
    assert not above, f"I10: more than {most} attempts are written: {above}"
    sent = _sent_to_a_working_broker(state.log)
    # The doubts of a first attempt are not written down: each process begins them anew. That they are used up is
    # written, and when that write is struck, one more silence follows.
    first = {message: len(times) * DOUBTS + state.strikes for message, times in sent.items()}
    often = {message: times for message, times in sent.items() if times.total() > most - 1 + first[message]}
    assert not often, f"I10: sent more often than attempts and doubts explain, by process: {often}"


def _sent_to_a_working_broker(log: WireLog) -> dict[str, Counter[int]]:
    """Count how often each process sent each message for the first time since the broker confirmed something to it."""
    times: dict[str, Counter[int]] = defaultdict(Counter)
    seen: dict[tuple[str, int], int] = {}
    confirmed: Counter[int] = Counter()
    for record in log.records("sent", "confirmed"):
        message, process = record["id"], record["process"]
        if record["kind"] == "confirmed":
            confirmed[process] += 1
        elif seen.get((message, process)) != confirmed[process]:
            times[message][process] += 1
            seen[message, process] = confirmed[process]
    return times


def _repeated(items: Sequence[Any]) -> list[Any]:
    return [item for item, times in Counter(items).items() if times > 1]
