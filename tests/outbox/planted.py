"""Bugs to plant: each takes one guard out of the library, and names the test that must turn red for it.

A guard whose absence no test notices is no guard. ``test_planted.py`` plants them one at a time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, TwoPhaseTransaction

from coordination import test_leases
from database import test_deferred
from outbox import test_add, test_backlog, test_failures, test_relay, test_unseen
from rig.planting import instead_of
from txpatterns.coordination import Held, Leases, ownership
from txpatterns.coordination.schema import lease_table, member_table
from txpatterns.database.deferred import engine_events, session_events, units
from txpatterns.database.deferred.units import Commit, Unit
from txpatterns.database.engines import refuse_autocommit
from txpatterns.database.identity import Identity
from txpatterns.outbox import writer
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.due import Due, DueStore
from txpatterns.outbox.relay.holding import Holding
from txpatterns.outbox.relay.reading import Reading
from txpatterns.outbox.relay.rows import Row
from txpatterns.outbox.relay.serving import Serving
from txpatterns.outbox.relay.store import OutboxStore, Page, Place
from txpatterns.outbox.relay.unseen import Unseen
from txpatterns.outbox.relay.verdicts import Verdicts
from txpatterns.outbox.relay.waiting import WaitingTable
from txpatterns.outbox.schema import outbox_table
from txpatterns.retries import OnFailure
from txpatterns.transport import CONFIRMED, Outcome


@dataclass(frozen=True)
class Bug:
    """``plant`` is given pytest's monkeypatch; ``shows`` is a test; ``given`` are its parameters."""

    plant: Callable[[pytest.MonkeyPatch], None]
    shows: Callable[..., object]
    driver: str = "sqlite"
    given: tuple[tuple[str, object], ...] = ()


def settle_before_confirm(patch: pytest.MonkeyPatch) -> None:
    """H21: every message counts as stored as soon as it was handed over."""
    real = Backlog.conclude

    @instead_of(patch, Backlog, real)
    def conclude(self: Backlog, rows: Sequence[Row], outcomes: Mapping[str, Outcome], *, alone: bool) -> Verdicts:
        return real(self, rows, {row.message.id: CONFIRMED for row in rows}, alone=alone)


def settle_by_position(patch: pytest.MonkeyPatch) -> None:
    """Positions used as identity, though SQLite may give one twice."""

    @instead_of(patch, OutboxStore, OutboxStore.settle)
    async def settle(self: OutboxStore, rows: Sequence[Row]) -> int | None:
        wanted = outbox_table.c.position.in_([row.position for row in rows])
        await self.database.execute(sa.delete(outbox_table).where(wanted))
        return None


def no_epoch_check(patch: pytest.MonkeyPatch) -> None:
    """H18: a relay trusts what it remembers to own."""
    instead_of(patch, Leases, Leases.guard)(lambda self, connection, slots: set(slots))


def guard_without_lock(patch: pytest.MonkeyPatch) -> None:
    """H18: the epoch is looked at, but not held until the write is committed."""

    @instead_of(patch, Leases, Leases.guard)
    def guard(self: Leases, connection: Connection, slots: Held) -> set[int]:
        query = sa.select(lease_table.c.slot, lease_table.c.epoch).where(
            lease_table.c.scope == self.scope, lease_table.c.owner == self.owner
        )
        return {slot for slot, epoch in connection.execute(query) if slots.get(slot) == epoch}


def _read_on_only(patch: pytest.MonkeyPatch) -> None:
    page = OutboxStore.page

    @instead_of(patch, OutboxStore, page)
    async def onward(self: OutboxStore, place: Place, buckets: Sequence[int], limit: int, room: int) -> Page:
        return await page(self, Place(place.after, Unseen(first=1 << 62)), buckets, limit, room)


def cursor_only(patch: pytest.MonkeyPatch) -> None:
    """H7, E1: what was read is behind us for ever."""

    @instead_of(patch, Reading, Reading._begin_pass)
    def begin(self: Reading, now: float, asked: int) -> None:
        self._asked, self._at_end = asked, False

    _read_on_only(patch)


def late_rows_are_found_by_and_by(patch: pytest.MonkeyPatch) -> None:
    """H7: each pass reads on from where it is, and what committed late is left to the next one from the start."""
    begin = Reading._begin_pass

    @instead_of(patch, Reading, begin)
    def begin_at_the_start(self: Reading, now: float, asked: int) -> None:
        self._full_at = 0.0
        begin(self, now, asked)

    _read_on_only(patch)


def only_listed_transactions_run(patch: pytest.MonkeyPatch) -> None:
    """H7: a snapshot does not list what is younger than the last transaction that has ended."""
    after = Unseen.after
    instead_of(patch, Unseen, after)(
        lambda self, snapshot, highest: replace(after(self, snapshot, highest), low=1 << 62)
    )


def others_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """P7: drained is who has nothing left in its own buckets."""
    instead_of(patch, Serving, Serving._tell_drained)(lambda self: self.state.drains.end(self.state.drains.asked))


def handed_over_in_one_try(patch: pytest.MonkeyPatch) -> None:
    """H30: a link that breaks at the end leaves the buckets to a lease."""
    patch.setattr(ownership, "_LEAVE_AGAIN", ())


def early_takeover(patch: pytest.MonkeyPatch) -> None:
    """H19: whoever is not me is dead."""

    @instead_of(patch, Leases, Leases._bury)
    def bury(self: Leases, connection: Connection) -> None:
        others = connection.execute(sa.select(member_table.c.owner).where(member_table.c.owner != self.owner))
        self.slots.free(connection, list(others.scalars()))


def own_time_counts_from_the_answer(patch: pytest.MonkeyPatch) -> None:
    """H19: a slow answer lengthens the lease."""
    patch.setattr(Leases, "is_safe", property(lambda self: bool(self.owner)))


def savepoint_rollback_ignored(patch: pytest.MonkeyPatch) -> None:
    """H2: what was added in a savepoint outlives it."""
    instead_of(patch, Unit, Unit.drop)(lambda self, savepoint: None)


def savepoint_release_ignored(patch: pytest.MonkeyPatch) -> None:
    """H2: a released savepoint keeps its messages, and loses them."""
    instead_of(patch, Unit, Unit.release)(lambda self, savepoint: None)


def savepoints_by_hand_ignored(patch: pytest.MonkeyPatch) -> None:
    """H2: only the session's own savepoints count for what is added to it."""
    instead_of(patch, session_events, engine_events.savepoints_on)(lambda connection: ())


def kinds_out_of_order(patch: pytest.MonkeyPatch) -> None:
    """H280: the messages are written first, before the rows that others lock."""
    instead_of(patch, units, units._kind_of)(lambda writer: -writer.kind)


def refused_write_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """H281: what could not be written is gone, and the next commit does without it."""
    real = Commit.write

    @instead_of(patch, Commit, real)
    def write(self: Commit, connection: Connection, which: Callable[[Unit], bool]) -> None:
        try:
            real(self, connection, which)
        except Exception:
            for unit in self.units:
                unit.clear()
            raise


def refused_commit_stays_open(patch: pytest.MonkeyPatch) -> None:
    """H6: SQLAlchemy is left to roll back a commit that our listener refused; it does not."""
    instead_of(patch, engine_events, engine_events._abandon)(lambda connection, error: None)


def told_before_the_outer_commit(patch: pytest.MonkeyPatch) -> None:
    """H10: a session on somebody's connection tells at its own commit, though nobody can see its messages yet."""
    instead_of(patch, session_events, session_events._tell)(lambda session, unit: unit.committed())


def outer_commit_tells_nobody(patch: pytest.MonkeyPatch) -> None:
    """H10: the commit that makes the messages of a session visible wakes no relay."""
    instead_of(patch, engine_events, engine_events._tell)(lambda connection, units: None)


def prepared_without_what_a_connection_added(patch: pytest.MonkeyPatch) -> None:
    """H306: at PREPARE TRANSACTION only sessions write; after it nothing more can be written."""
    real = Commit.write

    @instead_of(patch, Commit, real)
    def write(self: Commit, connection: Connection, which: Callable[[Unit], bool]) -> None:
        prepares = isinstance(connection.get_transaction(), TwoPhaseTransaction)
        real(self, connection, lambda unit: which(unit) and (unit.session is not None or not prepares))


def two_phase_rollback_forgets_nothing(patch: pytest.MonkeyPatch) -> None:
    """H306: what a two-phase transaction had is sent by the connection's next one."""
    instead_of(patch, engine_events, engine_events._on_rollback)(lambda connection: None)


def autocommit_accepted(patch: pytest.MonkeyPatch) -> None:
    """H4: nobody asks the driver."""
    instead_of(patch, units, refuse_autocommit)(lambda connection: None)


def bare_write_before_begin(patch: pytest.MonkeyPatch) -> None:
    """H4: the driver is used although SQLAlchemy has not sent its BEGIN."""
    real = writer.BARE["asyncpg"]

    class Told:
        def __init__(self, driver: asyncpg.Connection) -> None:
            self.execute = driver.execute

        def is_in_transaction(self) -> bool:
            return True

    patch.setitem(writer.BARE, "asyncpg", lambda driver, table, rows: real(Told(driver), table, rows))


def any_database_will_do(patch: pytest.MonkeyPatch) -> None:
    """H3: nobody looks which database a transaction is in."""
    instead_of(patch, Identity, Identity.check)(lambda self, connection: None)


def attempts_counted_afterwards(patch: pytest.MonkeyPatch) -> None:
    """H25: a process that dies during the attempt has made none."""
    real = DueStore.claim_due

    @instead_of(patch, DueStore, real)
    async def claim(
        self: DueStore, held: Held, limit: int, but: Iterable[str], resting: Sequence[str] = ()
    ) -> list[Due]:
        claimed = await real(self, held, limit, but, resting)
        for due in claimed:
            await self.give_back(held, due, -self.leases.ttl)
        return claimed


def outage_burns_attempts(patch: pytest.MonkeyPatch) -> None:
    """H26: an attempt counts although the broker was away."""

    @instead_of(patch, DueStore, DueStore.give_back)
    async def keep(self: DueStore, held: Held, due: Due, pause: timedelta) -> None:
        return


def followers_forgotten(patch: pytest.MonkeyPatch) -> None:
    """P7: nobody lets the followers of a held key go."""
    instead_of(patch, Holding, Holding.begin_release)(lambda self, bucket, lane: None)


def key_not_held(patch: pytest.MonkeyPatch) -> None:
    """H23: the followers of a failing message go out before it."""
    real = Backlog.thaw
    instead_of(patch, Backlog, real)(lambda self, lane, position, *, held: real(self, lane, position, held=False))


def failure_does_not_stop_the_batch(patch: pytest.MonkeyPatch) -> None:
    """H23: what was confirmed behind a failure of its key counts, and the failed one goes out after it."""
    real = Backlog.conclude

    @instead_of(patch, Backlog, real)
    def conclude(self: Backlog, rows: Sequence[Row], outcomes: Mapping[str, Outcome], *, alone: bool) -> Verdicts:
        self.judge.ordered_prefix, kept = False, self.judge.ordered_prefix
        found = real(
            self, [row for row in rows if outcomes.get(row.message.id) is not CONFIRMED], outcomes, alone=alone
        )
        found.settled += [row for row in rows if outcomes.get(row.message.id) is CONFIRMED]
        for row in found.settled:
            if row.lane in self._lanes and self._lanes[row.lane].busy:
                self._put_back(row.lane, ())
        self.judge.ordered_prefix = kept
        return found


def lane_reads_on_after_a_gap(patch: pytest.MonkeyPatch) -> None:
    """P3: rows of a lane are accepted although earlier ones were left out."""
    real = Backlog.take_in

    @instead_of(patch, Backlog, real)
    def take_in(self: Backlog, rows: Iterable[Row]) -> list[Row]:
        self.dropped = {}
        return real(self, rows)


def left_out_is_read_again_once(patch: pytest.MonkeyPatch) -> None:
    """P1: what lies behind a page that was read again is nobody's."""
    real = Backlog.take_in_again
    instead_of(patch, Backlog, real)(lambda self, rows, first, last, seen: real(self, rows, first, None, seen))


def reads_again_ahead_of_a_pass(patch: pytest.MonkeyPatch) -> None:
    """P3: a lane is read again from a place that the pass from the beginning has not come to."""
    next_place, again = Backlog.next_left_out, Backlog.take_in_again
    instead_of(patch, Backlog, next_place)(lambda self, seen: next_place(self, 1 << 62))
    instead_of(patch, Backlog, again)(lambda self, rows, first, last, seen: again(self, rows, first, last, 1 << 62))


def retried_beside_itself(patch: pytest.MonkeyPatch) -> None:
    """I9: nobody remembers what is out for another attempt."""
    due, claim = DueStore.due, DueStore.claim_due
    instead_of(patch, DueStore, due)(lambda self, held, but, resting=(): due(self, held, (), resting))
    instead_of(patch, DueStore, claim)(lambda self, held, limit, but, resting=(): claim(self, held, limit, (), resting))


def parked_until_restart(patch: pytest.MonkeyPatch) -> None:
    """H24: that a key is parked is known to one process only."""
    instead_of(patch, WaitingTable, WaitingTable._park)(lambda self, connection, lane: None)


ONE_BY_ONE = (("ordered", False),)
COMMITTED = (("end", "commit"),)
ON_ASYNCPG = (*ONE_BY_ONE, ("driver", "asyncpg"))

BUGS = [
    Bug(settle_before_confirm, test_relay.test_replies_lost_cost_duplicates_only, given=ONE_BY_ONE),
    Bug(settle_by_position, test_failures.test_positions_used_again_delete_nothing),
    Bug(no_epoch_check, test_failures.test_replaced_relay_can_write_nothing),
    Bug(guard_without_lock, test_failures.test_replaced_relay_cannot_write_during_the_takeover, "asyncpg"),
    Bug(cursor_only, test_relay.test_a_late_commit_is_found_without_being_asked, "asyncpg"),
    Bug(
        late_rows_are_found_by_and_by, test_relay.test_a_late_commit_is_not_overtaken_by_its_key, "asyncpg", ON_ASYNCPG
    ),
    Bug(only_listed_transactions_run, test_unseen.test_nothing_comes_to_light_where_nobody_looks),
    Bug(others_are_forgotten, test_relay.test_run_once_keeps_its_word),
    Bug(handed_over_in_one_try, test_relay.test_a_hand_over_that_fails_is_made_again),
    Bug(early_takeover, test_leases.test_only_a_lease_that_ran_out_is_taken_over, given=(("ahead", test_leases.TTL),)),
    Bug(own_time_counts_from_the_answer, test_leases.test_own_time_counts_from_before_the_request),
    Bug(savepoint_rollback_ignored, test_add.test_core_inner_release_outer_rollback),
    Bug(savepoint_release_ignored, test_add.test_a_plain_session_serves_alike),
    Bug(savepoints_by_hand_ignored, test_deferred.test_savepoints_by_hand_on_a_sessions_connection),
    Bug(kinds_out_of_order, test_deferred.test_kinds_are_written_in_one_order, given=(("owner", "session"),)),
    Bug(
        refused_write_is_forgotten,
        test_deferred.test_who_goes_on_after_a_refused_write_cannot_commit_without_it,
        given=(("goes_on", "outer commit alone"),),
    ),
    Bug(refused_commit_stays_open, test_add.test_commit_that_was_refused_leaves_nothing_in_the_driver),
    Bug(told_before_the_outer_commit, test_deferred.test_the_outer_commit_tells, given=COMMITTED),
    Bug(outer_commit_tells_nobody, test_deferred.test_the_outer_commit_tells, given=COMMITTED),
    Bug(
        prepared_without_what_a_connection_added,
        test_deferred.test_two_phase_committed,
        "psycopg",
        (("owner", "connection"), ("is_prepared", True)),
    ),
    Bug(
        two_phase_rollback_forgets_nothing,
        test_deferred.test_two_phase_rolled_back,
        "psycopg",
        (("is_prepared", False),),
    ),
    Bug(autocommit_accepted, test_add.test_autocommit_is_refused, "psycopg", (("way", "engine"),)),
    Bug(bare_write_before_begin, test_add.test_emit_only_is_undone_when_the_commit_fails_behind_the_write, "asyncpg"),
    Bug(any_database_will_do, test_add.test_another_database_is_refused),
    Bug(attempts_counted_afterwards, test_failures.test_processes_that_die_during_attempts_use_them_up),
    Bug(outage_burns_attempts, test_failures.test_a_long_outage_makes_no_dead_letters),
    Bug(followers_forgotten, test_failures.test_held_key_goes_on_in_order_when_the_retry_is_confirmed),
    Bug(key_not_held, test_backlog.test_order_and_completeness),
    Bug(failure_does_not_stop_the_batch, test_backlog.test_order_and_completeness),
    Bug(lane_reads_on_after_a_gap, test_backlog.test_order_and_completeness),
    Bug(reads_again_ahead_of_a_pass, test_backlog.test_order_and_completeness),
    Bug(left_out_is_read_again_once, test_backlog.test_order_and_completeness),
    Bug(retried_beside_itself, test_failures.test_an_attempt_that_takes_long_is_not_made_twice),
    Bug(parked_until_restart, test_failures.test_the_ladder_is_climbed_once, given=(("policy", OnFailure.PARK),)),
]
