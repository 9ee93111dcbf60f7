"""Bugs that people do write, each put into a process of the explorer to see that it is found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from crash import planted_ids as id_bugs
from crash import planted_sagas as saga_bugs
from crash import planted_tcc as tcc_bugs
from crash.ids_flows import IDS_FLOWS
from crash.inbox_flows import INBOX_FLOWS
from crash.outbox_flows import OUTBOX_FLOWS
from crash.saga_flows import SAGA_FLOWS
from crash.tcc_flows import TCC_FLOWS
from rig.planting import instead_of
from txpatterns.coordination import Held, Leases
from txpatterns.coordination.schema import lease_table
from txpatterns.database.deferred.units import Unit
from txpatterns.execution import Execution, Result, Run
from txpatterns.inbox import attempts, batches
from txpatterns.inbox.attempts import Attempts
from txpatterns.inbox.claims import Claims
from txpatterns.inbox.deliveries import Deliveries
from txpatterns.inbox.entries import Entry, WaitingEntry
from txpatterns.inbox.lane_store import LaneStore, waiting_of
from txpatterns.outbox.outbox import Outbox, _Added
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.due import Due, DueStore
from txpatterns.outbox.relay.holding_store import Failure, HoldingStore
from txpatterns.outbox.relay.publication import Publication
from txpatterns.outbox.relay.rows import Lane, Row
from txpatterns.outbox.relay.sending import Conclude, Sending
from txpatterns.outbox.relay.serving import Serving
from txpatterns.outbox.relay.store import OutboxStore, Page, Place
from txpatterns.outbox.relay.unseen import Unseen
from txpatterns.outbox.relay.verdicts import Verdicts
from txpatterns.outbox.schema import Waiting as OutboxWaiting
from txpatterns.outbox.schema import waiting_table
from txpatterns.testing.explorer import Flow, Mode, Surroundings
from txpatterns.testing.explorer.wire import record_of
from txpatterns.transport import CONFIRMED, Delivery, Outcome, Verdict

_ALL: list[Flow[Any]] = [*OUTBOX_FLOWS, *INBOX_FLOWS, *SAGA_FLOWS, *TCC_FLOWS, *IDS_FLOWS]
_FLOWS = {flow.name: flow for flow in _ALL}
LATE = "saga that begins anew and is late"
UNDONE = _FLOWS["saga in threads, undone"]
_PATCH = pytest.MonkeyPatch()
"""Nobody undoes it: a process of the explorer ends with its bug."""


@dataclass(frozen=True)
class Planted:
    """A bug, the flow and faults that show it, and the invariants of which one must break."""

    name: str
    plant: Callable[[Surroundings], None]
    flow: Flow[Any]
    breaks: str
    modes: Sequence[Mode] = (Mode.KILL_BEFORE, Mode.KILL_AFTER)
    points: str = ""
    postgresql: bool = False

    @property
    def story(self) -> Flow[Any]:
        return replace(self.flow, plant=self.plant)


def acknowledges_first(_: Surroundings) -> None:
    handle = Deliveries.handle

    @instead_of(_PATCH, Deliveries, handle)
    async def early(self: Deliveries, delivery: Delivery) -> None:
        await delivery.ack()
        await handle(self, delivery)


def settles_before_the_confirmation(_: Surroundings) -> None:
    outcomes = Sending._outcomes

    @instead_of(_PATCH, Sending, outcomes)
    async def early(self: Sending, publication: Publication, conclude: Conclude) -> None:
        await OutboxStore(self.state.database).settle(publication.rows)
        await outcomes(self, publication, conclude)


def takes_silence_for_a_confirmation(_: Surroundings) -> None:
    conclude = Backlog.conclude

    @instead_of(_PATCH, Backlog, conclude)
    def hopeful(self: Backlog, rows: Sequence[Row], outcomes: Mapping[str, Outcome], *, alone: bool) -> Verdicts:
        refused = {i: outcome for i, outcome in outcomes.items() if outcome.verdict is Verdict.REJECTED}
        told = {row.message.id: refused.get(row.message.id, CONFIRMED) for row in rows}
        return conclude(self, rows, told, alone=alone)


def does_not_look_at_the_epoch(_: Surroundings) -> None:
    instead_of(_PATCH, Leases, Leases.guard)(lambda self, connection, slots: set(slots))


def does_not_lock_the_lease(_: Surroundings) -> None:
    @instead_of(_PATCH, Leases, Leases.guard)
    def guard(self: Leases, connection: Connection, slots: Held) -> set[int]:
        mine = (lease_table.c.scope == self.scope, lease_table.c.owner == self.owner)
        found = connection.execute(sa.select(lease_table.c.slot, lease_table.c.epoch).where(*mine))
        return {row.slot for row in found if slots.get(row.slot) == row.epoch}


def claims_in_a_transaction_of_its_own(_: Surroundings) -> None:
    execute = Execution.run

    @instead_of(_PATCH, Execution, execute)
    async def split(self: Execution, run: Run) -> Result:
        def opening(connection: Connection) -> bool:
            first = run.opening(connection)
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            return first

        return await execute(self, replace(run, opening=opening))


def sends_after_the_commit(around: Surroundings) -> None:
    kept: list[_Added] = []
    instead_of(_PATCH, Outbox, Outbox._write)(lambda self, connection, added: kept.extend(added))

    @instead_of(_PATCH, Outbox, Outbox._committed)
    def committed(self: Outbox, _added: Sequence[_Added]) -> None:
        for entry in kept:
            around.points.leave(around.points.arrive("after the commit"))
            around.log.write("stored", **record_of(entry.message))


def remembers_only_a_cursor(around: Surroundings) -> None:
    page, file = OutboxStore.page, around.log.path.with_name("cursor")

    @instead_of(_PATCH, OutboxStore, page)
    async def onward(self: OutboxStore, place: Place, buckets: Sequence[int], limit: int, room: int) -> Page:
        before = int(file.read_text()) if file.exists() and around.life > 0 else 0
        cursor = Place(max(place.after, before), Unseen(first=1 << 62))
        found = await page(self, cursor, buckets, limit, room)
        if found.rows:
            file.write_text(str(found.rows[-1].position))
        return found


def forgets_the_followers_of_a_dead_letter(_: Surroundings) -> None:
    end = DueStore._end

    @instead_of(_PATCH, DueStore, end)
    def harsh(self: DueStore, connection: Connection, due: Due, error: str, *, permanent: bool) -> None:
        end(self, connection, due, error, permanent=permanent)
        key = due.row.message.key
        connection.execute(sa.delete(waiting_table).where(waiting_table.c.key == key))


def lets_followers_overtake(_: Surroundings) -> None:
    move_out, fail = HoldingStore._move_out, HoldingStore.fail

    @instead_of(_PATCH, HoldingStore, move_out)
    def loose(self: HoldingStore, connection: Connection, ids: Sequence[str], state: OutboxWaiting) -> set[str]:
        return move_out(self, connection, ids, OutboxWaiting.SKIPPED if state is OutboxWaiting.RETRYING else state)

    @instead_of(_PATCH, HoldingStore, fail)
    async def free(self: HoldingStore, held: Held, failures: Sequence[Failure]) -> set[Lane]:
        await fail(self, held, failures)
        return set()


def counts_attempts_in_memory(_: Surroundings) -> None:
    counts: dict[int, int] = {}
    stored: dict[int, int] = {}
    update, begin, read = Attempts._update, Attempts.begin, waiting_of

    @instead_of(_PATCH, Attempts, update)
    def forgetful(self: Attempts, connection: Connection, waiting: WaitingEntry, **values: Any) -> None:
        if "attempts" in values:
            counts[waiting.id] = values.pop("attempts")
        update(self, connection, waiting, **values)

    @instead_of(_PATCH, attempts, read)
    def recalled(row: sa.RowMapping) -> WaitingEntry:
        waiting = read(row)
        stored[waiting.id] = waiting.attempts
        return replace(waiting, attempts=counts.get(waiting.id, waiting.attempts))

    instead_of(_PATCH, Attempts, Attempts._fence)(lambda self, connection, waiting: True)
    instead_of(_PATCH, Attempts, begin)(
        lambda self, connection, waiting, limit: begin(
            self, connection, replace(waiting, attempts=stored.get(waiting.id, waiting.attempts)), limit
        )
    )


def does_not_promote_the_next(_: Surroundings) -> None:
    instead_of(_PATCH, LaneStore, LaneStore.promote)(lambda self, connection, entry: False)


def does_not_look_who_waits(_: Surroundings) -> None:
    """Takes a message from the broker although an earlier one of its key waits in the database."""
    instead_of(_PATCH, Claims, Claims.take)(
        lambda self, connection, entry, limit: self.claim(
            connection, entry.consumer, entry.message.id, entry.fingerprint, limit
        )
    )


def does_not_look_who_waits_for_a_batch(_: Surroundings) -> None:
    """The same for the messages of a batch."""

    @instead_of(_PATCH, Claims, Claims.take_all)
    def take_all(self: Claims, connection: Connection, entries: Sequence[Entry], limit: timedelta | None) -> set[str]:
        ids = [(entry.message.id, entry.fingerprint) for entry in entries]
        return {id_ for id_, digest in ids if self.claim(connection, entries[0].consumer, id_, digest, limit)}


def claims_one_for_all(_: Surroundings) -> None:
    take_all = Claims.take_all

    @instead_of(_PATCH, Claims, take_all)
    def first(self: Claims, connection: Connection, entries: Sequence[Entry], limit: timedelta | None) -> set[str]:
        taken = take_all(self, connection, entries[:1], limit)
        return taken and {entry.message.id for entry in entries}


def goes_on_behind_what_failed_in_a_batch(_: Surroundings) -> None:
    _PATCH.setattr(batches, "_STOPS", frozenset())


def keeps_what_a_savepoint_undid(_: Surroundings) -> None:
    instead_of(_PATCH, Unit, Unit.drop)(lambda self, savepoint: None)


def never_settles(_: Surroundings) -> None:
    @instead_of(_PATCH, Serving, Serving._settle)
    async def settle(self: Serving) -> None:
        rows = list(self.state.confirmed)
        self.state.confirmed.clear()
        self.backlog.unfinished.finish(rows)


PAUSE = (Mode.PAUSE,)
PLANTED = [
    Planted("acknowledge before the commit", acknowledges_first, _FLOWS["handle"], "I1"),
    Planted("settle before the confirmation", settles_before_the_confirmation, _FLOWS["publish and settle"], "I1"),
    Planted(
        "take silence for a confirmation",
        takes_silence_for_a_confirmation,
        _FLOWS["publish and settle"],
        "I1",
        (Mode.ERROR_BEFORE,),
        "broker",
    ),
    Planted(
        "write under a stale epoch",
        does_not_look_at_the_epoch,
        _FLOWS["attempts used up, parked"],
        "I9",
        PAUSE,
        "broker: publish",
    ),
    Planted(
        "look at the epoch without a lock",
        does_not_lock_the_lease,
        _FLOWS["attempts used up, parked"],
        "I9",
        PAUSE,
        "_delete",
        postgresql=True,
    ),
    Planted("claim in a transaction of its own", claims_in_a_transaction_of_its_own, _FLOWS["handle"], "I1"),
    Planted("send after the commit", sends_after_the_commit, _FLOWS["enqueue one"], "I1"),
    Planted("remember only a cursor", remembers_only_a_cursor, _FLOWS["publish and settle"], "I15"),
    Planted(
        "forget the followers of a dead letter",
        forgets_the_followers_of_a_dead_letter,
        _FLOWS["attempts used up, parked"],
        "I1",
    ),
    Planted("let followers overtake", lets_followers_overtake, _FLOWS["hold, retry, release"], "I4"),
    Planted("count attempts in memory", counts_attempts_in_memory, _FLOWS["handler fails for ever"], "I10"),
    Planted("promote nobody", does_not_promote_the_next, _FLOWS["handler fails, then succeeds"], "I1"),
    Planted("pass by those who wait", does_not_look_who_waits, _FLOWS["handler fails, then succeeds"], "I4"),
    Planted(
        "pass by those who wait, in batches", does_not_look_who_waits_for_a_batch, _FLOWS["poison in a batch"], "I4"
    ),
    Planted("claim one for all of a batch", claims_one_for_all, _FLOWS["poison in a batch"], "I3"),
    Planted("go on behind a poison", goes_on_behind_what_failed_in_a_batch, _FLOWS["poison in a batch"], "I4"),
    Planted("keep what a savepoint undid", keeps_what_a_savepoint_undid, _FLOWS["enqueue with savepoints"], "I1"),
    Planted("write the fact behind the commit", saga_bugs.writes_the_fact_behind_the_commit, UNDONE, "I20"),
    Planted("undo in the order of doing", saga_bugs.undoes_in_the_order_of_doing, _FLOWS["saga that fails"], "I22"),
    Planted("forget what is undone", saga_bugs.forgets_what_is_undone, _FLOWS["saga that fails"], "I20"),
    Planted("undo without a fact", saga_bugs.undoes_without_a_fact, _FLOWS["saga that fails"], "I20"),
    Planted("forget what a saga sends", saga_bugs.forgets_what_the_code_sends, _FLOWS["saga of steps"], "I1"),
    Planted("leave children alone", saga_bugs.leaves_children_alone, _FLOWS["saga of others"], "I19"),
    Planted("free a lock for nobody", saga_bugs.frees_a_lock_for_nobody, _FLOWS["saga of others, undone"], "I19"),
    Planted("begin anew without the facts", saga_bugs.begins_anew_without_the_facts, _FLOWS[LATE], "I20"),
    Planted("forget what was under way at the deadline", saga_bugs.forgets_what_was_under_way, _FLOWS[LATE], "I22"),
    Planted(
        "forget which events it has had", saga_bugs.forgets_which_events_it_has_had, _FLOWS["saga of events"], "I24"
    ),
    Planted(
        "send a command before it waits",
        saga_bugs.sends_a_command_before_it_waits,
        _FLOWS["saga of others"],
        "I1",
        (Mode.KILL_BEFORE,),
        "txp_saga_wait",
    ),
    Planted(
        "write that a call is undone before it is",
        saga_bugs.writes_that_a_call_is_undone_before_it_is,
        _FLOWS["saga of calls, undone"],
        "I22",
        (Mode.KILL_BEFORE,),
        "outside: refund",
    ),
    Planted(
        "go on after a write that may be lost",
        saga_bugs.goes_on_after_a_write_that_may_be_lost,
        _FLOWS["saga of steps at once"],
        "I21",
        (Mode.ERROR_BEFORE, Mode.REPLY_LOST),
    ),
    Planted(
        "write for a saga of another epoch",
        saga_bugs.does_not_look_at_the_epoch,
        _FLOWS["saga of steps"],
        "I20",
        PAUSE,
        postgresql=True,
    ),
    Planted("begin at the clock", id_bugs.begins_at_the_clock, IDS_FLOWS[0], "I29"),
    Planted("trust the lease", id_bugs.trusts_its_lease, IDS_FLOWS[0], "I29", PAUSE, "commit"),
    Planted(
        "go on before the commit",
        id_bugs.goes_on_before_the_commit,
        IDS_FLOWS[0],
        "I29",
        (Mode.ERROR_BEFORE,),
        "renew",
    ),
    Planted("forget the mark of who leaves", id_bugs.forgets_the_mark_of_who_leaves, IDS_FLOWS[0], "I29"),
    Planted(
        "note a branch behind its commit",
        tcc_bugs.notes_behind_the_commit,
        _FLOWS["tcc, confirmed"],
        "I20",
        (Mode.KILL_AFTER,),
        "commit",
    ),
    Planted(
        "forget a call in doubt",
        tcc_bugs.forgets_what_is_in_doubt,
        _FLOWS["tcc outside"],
        "I26",
        (Mode.KILL_AFTER,),
        "outside",
    ),
    Planted(
        "take a lost answer for a no",
        tcc_bugs.takes_a_lost_answer_for_a_no,
        _FLOWS["tcc, confirmed"],
        "I26",
        (Mode.REPLY_LOST,),
        "commit",
    ),
    Planted("never settle", never_settles, _FLOWS["publish and settle"], "I15"),
]
