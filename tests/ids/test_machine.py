"""The rows of worker numbers against a model of a few lines, whatever is done in whatever order."""

import asyncio
from datetime import timedelta
from itertools import pairwise

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from ids.support import HandClock, prepared, rows
from txpatterns.ids.layout import EPOCH, millisecond_of
from txpatterns.ids.worker_store import DatabaseWorkers


class WorkerNumbersMachine(RuleBasedStateMachine):
    """Owners take, renew and give back; the database's clock goes where it likes; some never hear an answer."""

    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = HandClock()
        self.database = self.loop.run_until_complete(prepared(self.url, self.clock))
        self.store = DatabaseWorkers(self.database)
        self.drawn = 0
        self.held: dict[str, tuple[int, int]] = {}
        """By the last token: the worker number, and when the lease ends."""
        self.marks: dict[int, int] = {}
        self.given: dict[int, list[tuple[int, int]]] = {}
        """By worker number: above which and up to which mark each holder makes ids."""

    url = ""

    @property
    def now(self) -> int:
        return millisecond_of(self.clock.at)

    def token(self) -> str:
        self.drawn += 1
        return str(self.drawn)

    @rule(target=tokens)
    def take(self) -> str:
        token = self.token()
        grant = self.loop.run_until_complete(self.store.take("owner", [], token))
        free = {worker for worker in self.marks if all(w != worker or e <= self.now for w, e in self.held.values())}
        fresh = {worker for worker in free if self.marks[worker] < self.now}
        if fresh:
            lowest = min(self.marks[worker] for worker in fresh)
            assert grant.worker in fresh
            assert self.marks[grant.worker] == lowest
        else:
            assert grant.worker not in self.marks
        assert self.marks.get(grant.worker, 0) <= grant.above
        self.held = {t: (w, e) for t, (w, e) in self.held.items() if w != grant.worker}
        self.held[token] = grant.worker, self.now + 15_000
        self.marks[grant.worker] = grant.mark
        self.given.setdefault(grant.worker, []).append((grant.above, grant.mark))
        return token

    @rule(target=tokens, former=tokens, more=st.booleans())
    def renew(self, former: str, more: bool) -> str:
        token = self.token()
        worker = self.held[former][0] if former in self.held else 0
        tokens = [former, "never"] if more else [former]
        renewal = self.loop.run_until_complete(self.store.renew(worker, "owner", tokens, token))
        assert (renewal is not None) == (former in self.held)
        if renewal is not None:
            del self.held[former]
            self.held[token] = worker, self.now + 15_000
            assert renewal.mark == max(self.marks[worker], self.now + 3000)
            self.marks[worker] = renewal.mark
            self.given[worker][-1] = self.given[worker][-1][0], renewal.mark
        return token

    @rule(token=tokens)
    def give_back(self, token: str) -> None:
        self.loop.run_until_complete(self.store.release("owner", [token]))
        if token in self.held:
            self.held[token] = self.held[token][0], self.now

    @rule(seconds=st.sampled_from((0.001, 1, 4, 16, 3600, -2, -20, -3600)))
    def time_passes(self, seconds: float) -> None:
        self.clock.at = max(self.clock.at + timedelta(seconds=seconds), EPOCH)

    @precondition(lambda self: self.marks)
    @invariant()
    def the_rows_are_those_of_the_model(self) -> None:
        found = self.loop.run_until_complete(rows(self.database))
        assert {worker: row.mark for worker, row in found.items()} == self.marks
        assert {row.token for row in found.values()} == set(self.held)

    @invariant()
    def nobody_makes_ids_where_another_does(self) -> None:
        for turns in self.given.values():
            for (_, mark), (above, _) in pairwise(turns):
                assert mark <= above

    def teardown(self) -> None:
        self.loop.run_until_complete(self.database.close())
        self.loop.close()


def test_worker_numbers_keep_to_the_model(tmp_path_factory):
    """P6, H136, H137, I29: random calls against a model; marks never fall, and holders never overlap."""
    steps = settings(max_examples=15, stateful_step_count=25, suppress_health_check=list(HealthCheck), deadline=None)

    class OnAFile(WorkerNumbersMachine):
        @property
        def url(self) -> str:
            return f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('numbers')}/ids.db"

    run_state_machine_as_test(OnAFile, settings=steps)
