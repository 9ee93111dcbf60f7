"""Lanes that do not flow: taking a failing message out, putting its followers aside, letting them back in."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from itertools import accumulate, islice

from txpatterns.coordination.ownership import Ownership
from txpatterns.deadletters.moments import Dead
from txpatterns.hooks import HookList
from txpatterns.outbox.moments import PublishFailed
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.holding_store import Failure, HoldingStore
from txpatterns.outbox.relay.rows import Lane, Row, bucket_of_lane

_TOGETHER, _BYTES = 500, 8_000_000
"""Failing messages, and bytes of theirs, that one transaction writes: while it lasts, their leases are not renewed."""


class Holding:
    """What this relay still has to write about failing messages and their lanes."""

    def __init__(self, backlog: Backlog, store: HoldingStore, ownership: Ownership, hooks: HookList) -> None:
        self.backlog = backlog
        self.store = store
        self.ownership = ownership
        self.hooks = hooks
        self.aside: list[Row] = []
        self.failing: deque[Failure] = deque()
        self.releases: deque[tuple[int, Lane]] = deque()
        self._lowest: dict[Lane, int] = {}
        self._moving = asyncio.Lock()

    @property
    def is_busy(self) -> bool:
        """Whether something is left to write."""
        return bool(self.aside or self.failing or self.releases)

    def concerns(self, buckets: set[int]) -> bool:
        """Whether something about these buckets is left to write."""
        rows = [*self.aside, *(failure.row for failure in self.failing)]
        return any(row.bucket in buckets for row in rows) or any(bucket in buckets for bucket, _ in self.releases)

    def failing_topics(self) -> Counter[str]:
        """Say of which topics something has failed that is not written yet, and how much."""
        return Counter(failure.row.message.topic for failure in self.failing)

    async def adopt(self, buckets: Sequence[int]) -> None:
        """Learn which lanes of newly owned buckets are held up, and go on with releases that a crash cut short."""
        lanes = await self.store.lanes(buckets)
        mine = set(buckets)
        before = {lane for lane in self.backlog.held if bucket_of_lane(lane) in mine}
        self.backlog.held -= before - lanes.held  # another relay may have let them go meanwhile
        self.backlog.held |= lanes.held - self.backlog.frozen
        for bucket, lane in lanes.orphaned:
            if lane not in self.backlog.frozen:
                self.begin_release(bucket, lane)

    async def set_aside(self) -> None:
        """Put the rows of held lanes behind the message that they wait for."""
        async with self._moving:
            rows = list(self.aside)
            if rows:
                free = await self.store.set_aside(self.ownership.held, rows)
                del self.aside[: len(rows)]
                for lane in free:
                    self.begin_release(bucket_of_lane(lane), lane)

    def fail(self, failure: Failure) -> None:
        """Stop a message's lane until it is written what becomes of the message."""
        self.backlog.freeze(failure.row.lane)
        self.failing.append(failure)

    async def write_failures(self) -> None:
        """Take failing messages out of the outbox, and hold up their lanes or let them go on."""
        while self.failing:
            failures = self._first_failing()
            held = await self.store.fail(self.ownership.held, failures)
            for failure in failures:
                self.failing.popleft()
                row, error = failure.row, failure.error
                self.backlog.unfinished.finish([row])
                self.backlog.judge.doubts.forget([row])
                self.backlog.thaw(row.lane, row.position, held=row.lane in held)
                self.hooks.tell(PublishFailed(row.message, error, 1))
                if failure.permanent:
                    self.hooks.tell(Dead(row.message, None, str(error)))

    def _first_failing(self) -> list[Failure]:
        """Give as many as one transaction may write, at least one."""
        first = list(islice(self.failing, _TOGETHER))
        sizes = accumulate(len(failure.row.message.payload) for failure in first)
        return first[: max(sum(size <= _BYTES for size in sizes), 1)]

    def begin_release(self, bucket: int, lane: Lane) -> None:
        """Let the followers of a lane back into the outbox."""
        self.backlog.freeze(lane)
        self.releases.append((bucket, lane))

    async def release(self) -> None:
        """Move followers back, a chunk at a time; a lane goes on when none is left, from the lowest that came back."""
        while self.releases:
            bucket, lane = self.releases[0]
            while any(row.lane == lane for row in self.aside):
                await self.set_aside()  # put aside after the last chunk came back, they would wait for ever
            position, free = await self.store.release(self.ownership.held, bucket, lane)
            if position is not None:
                self._lowest.setdefault(lane, position)
            if free or position is None:
                # Not free, and nothing came back: another failing message of the lane waits, or an operator decides.
                self.releases.popleft()
                self.backlog.thaw(lane, self._lowest.pop(lane, 0), held=not free)
