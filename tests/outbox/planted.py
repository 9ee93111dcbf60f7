"""Bugs to plant: each takes one guard out of the library, and names the test that must turn red for it.

A guard whose absence no test notices is no guard. ``test_planted.py`` plants them one at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import sqlalchemy as sa

from coordination import test_leases
from database import test_deferred
from outbox import test_add, test_backlog, test_failures, test_relay, test_unseen
from txpatterns.coordination import ownership
from txpatterns.coordination.leases import Leases
from txpatterns.coordination.schema import lease_table, member_table
from txpatterns.database.deferred import engine_events, session_events, units
from txpatterns.database.deferred.units import Commit, Unit
from txpatterns.database.identity import Identity
from txpatterns.outbox import writer
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.due import DueStore
from txpatterns.outbox.relay.holding import Holding
from txpatterns.outbox.relay.reading import Reading
from txpatterns.outbox.relay.serving import Serving
from txpatterns.outbox.relay.store import OutboxStore, Place
from txpatterns.outbox.relay.unseen import Unseen
from txpatterns.outbox.relay.waiting import WaitingTable
from txpatterns.outbox.schema import outbox_table
from txpatterns.retries import OnFailure
from txpatterns.transport import CONFIRMED


@dataclass(frozen=True)
class Bug:
    """``plant`` is given pytest's monkeypatch; ``shows`` is a test; ``given`` are its parameters."""

    plant: Callable
    shows: Callable
    driver: str = "sqlite"
    given: tuple[tuple[str, object], ...] = ()


def settle_before_confirm(patch):
    """H21: every message counts as stored as soon as it was handed over."""
    real = Backlog.conclude
    patch.setattr(Backlog, "conclude", _conclude_all(real))


def _conclude_all(real):
    return lambda self, rows, _, alone: real(self, rows, {row.message.id: CONFIRMED for row in rows}, alone=alone)


def settle_by_position(patch):
    """Positions used as identity, though SQLite may give one twice."""

    async def settle(self, rows):
        wanted = outbox_table.c.position.in_([row.position for row in rows])
        await self.database.execute(sa.delete(outbox_table).where(wanted))

    patch.setattr(OutboxStore, "settle", settle)


def no_epoch_check(patch):
    """H18: a relay trusts what it remembers to own."""
    patch.setattr(Leases, "guard", lambda self, connection, slots: set(slots))


def guard_without_lock(patch):
    """H18: the epoch is looked at, but not held until the write is committed."""

    def guard(self, connection, slots):
        query = sa.select(lease_table.c.slot, lease_table.c.epoch).where(
            lease_table.c.scope == self.scope, lease_table.c.owner == self.owner
        )
        return {slot for slot, epoch in connection.execute(query) if slots.get(slot) == epoch}

    patch.setattr(Leases, "guard", guard)


def _read_on_only(patch):
    page = OutboxStore.page

    async def onward(self, place, *bounds):
        return await page(self, Place(place.after, Unseen(first=1 << 62)), *bounds)

    patch.setattr(OutboxStore, "page", onward)


def cursor_only(patch):
    """H7, E1: what was read is behind us for ever."""

    def begin(self, now, asked):
        self._asked, self._at_end = asked, False

    patch.setattr(Reading, "_begin_pass", begin)
    _read_on_only(patch)


def late_rows_are_found_by_and_by(patch):
    """H7: each pass reads on from where it is, and what committed late is left to the next one from the start."""
    begin = Reading._begin_pass

    def begin_at_the_start(self, now, asked):
        self._full_at = 0.0
        begin(self, now, asked)

    patch.setattr(Reading, "_begin_pass", begin_at_the_start)
    _read_on_only(patch)


def only_listed_transactions_run(patch):
    """H7: a snapshot does not list what is younger than the last transaction that has ended."""
    after = Unseen.after
    patch.setattr(Unseen, "after", lambda self, snapshot, highest: replace(after(self, snapshot, highest), low=1 << 62))


def others_are_forgotten(patch):
    """P7: drained is who has nothing left in its own buckets."""
    patch.setattr(Serving, "_tell_drained", lambda self: self.state.drains.end(self.state.drains.asked))


def handed_over_in_one_try(patch):
    """H30: a link that breaks at the end leaves the buckets to a lease."""
    patch.setattr(ownership, "_LEAVE_AGAIN", ())


def early_takeover(patch):
    """H19: whoever is not me is dead."""

    def bury(self, connection):
        others = connection.execute(sa.select(member_table.c.owner).where(member_table.c.owner != self.owner))
        self._free(connection, None, list(others.scalars()))

    patch.setattr(Leases, "_bury", bury)


def own_time_counts_from_the_answer(patch):
    """H19: a slow answer lengthens the lease."""
    patch.setattr(Leases, "is_safe", property(lambda self: bool(self.owner)))


def savepoint_rollback_ignored(patch):
    """H2: what was added in a savepoint outlives it."""
    patch.setattr(Unit, "drop", lambda self, savepoint: None)


def savepoint_release_ignored(patch):
    """H2: a released savepoint keeps its messages, and loses them."""
    patch.setattr(Unit, "release", lambda self, savepoint: None)


def savepoints_by_hand_ignored(patch):
    """H2: only the session's own savepoints count for what is added to it."""
    patch.setattr(session_events, "savepoints_on", lambda connection: ())


def kinds_out_of_order(patch):
    """H280: the messages are written first, before the rows that others lock."""
    patch.setattr(units, "_kind_of", lambda writer: -writer.kind)


def refused_write_is_forgotten(patch):
    """H281: what could not be written is gone, and the next commit does without it."""
    real = Commit.write

    def write(self, connection, which):
        try:
            real(self, connection, which)
        except Exception:
            for unit in self.units:
                unit.clear()
            raise

    patch.setattr(Commit, "write", write)


def refused_commit_stays_open(patch):
    """H6: SQLAlchemy is left to roll back a commit that our listener refused; it does not."""
    patch.setattr(engine_events, "_abandon", lambda connection, error: None)


def autocommit_accepted(patch):
    """H4: nobody asks the driver."""
    patch.setattr(units, "refuse_autocommit", lambda connection: None)


def bare_write_before_begin(patch):
    """H4: the driver is used although SQLAlchemy has not sent its BEGIN."""
    real = writer.BARE["asyncpg"]

    class Told:
        def __init__(self, driver):
            self.execute = driver.execute

        def is_in_transaction(self):
            return True

    patch.setitem(writer.BARE, "asyncpg", lambda driver, table, rows: real(Told(driver), table, rows))


def any_database_will_do(patch):
    """H3: nobody looks which database a transaction is in."""
    patch.setattr(Identity, "check", lambda self, connection: None)


def attempts_counted_afterwards(patch):
    """H25: a process that dies during the attempt has made none."""
    real = DueStore.claim_due

    async def claim(self, held, limit, but):
        claimed = await real(self, held, limit, but)
        for due in claimed:
            await self.give_back(held, due, -self.leases.ttl)
        return claimed

    patch.setattr(DueStore, "claim_due", claim)


def outage_burns_attempts(patch):
    """H26: an attempt counts although the broker was away."""

    async def keep(self, held, due, pause):
        pass

    patch.setattr(DueStore, "give_back", keep)


def followers_forgotten(patch):
    """P7: nobody lets the followers of a held key go."""
    patch.setattr(Holding, "begin_release", lambda self, bucket, lane: None)


def key_not_held(patch):
    """H23: the followers of a failing message go out before it."""
    real = Backlog.thaw
    patch.setattr(Backlog, "thaw", lambda self, lane, position, held: real(self, lane, position, held=False))


def failure_does_not_stop_the_batch(patch):
    """H23: what was confirmed behind a failure of its key counts, and the failed one goes out after it."""
    real = Backlog.conclude

    def conclude(self, rows, outcomes, *, alone):
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

    patch.setattr(Backlog, "conclude", conclude)


def lane_reads_on_after_a_gap(patch):
    """P3: rows of a lane are accepted although earlier ones were left out."""
    real = Backlog.take_in

    def take_in(self, rows):
        self.dropped = {}
        return real(self, rows)

    patch.setattr(Backlog, "take_in", take_in)


def left_out_is_read_again_once(patch):
    """P1: what lies behind a page that was read again is nobody's."""
    real = Backlog.take_in_again
    patch.setattr(Backlog, "take_in_again", lambda self, rows, first, last, seen: real(self, rows, first, None, seen))


def reads_again_ahead_of_a_pass(patch):
    """P3: a lane is read again from a place that the pass from the beginning has not come to."""
    real = Backlog.next_left_out
    patch.setattr(Backlog, "next_left_out", lambda self, seen: real(self, 1 << 62))
    again = Backlog.take_in_again
    patch.setattr(Backlog, "take_in_again", lambda self, rows, first, last, _: again(self, rows, first, last, 1 << 62))


def retried_beside_itself(patch):
    """I9: nobody remembers what is out for another attempt."""
    due, claim = DueStore.due, DueStore.claim_due
    patch.setattr(DueStore, "due", lambda self, held, but, resting: due(self, held, (), resting))
    patch.setattr(DueStore, "claim_due", lambda self, held, limit, but, resting: claim(self, held, limit, (), resting))


def parked_until_restart(patch):
    """H24: that a key is parked is known to one process only."""
    patch.setattr(WaitingTable, "_park", lambda self, connection, lane: None)


ONE_BY_ONE = (("ordered", False),)
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
