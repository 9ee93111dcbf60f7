"""Bugs to plant: each takes one guard out, and names the test that must turn red for it."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any

import pybreaker
import pytest

from resilience import test_breaker, test_bulkhead, test_cache, test_limits
from rig.planting import instead_of
from txpatterns.resilience.breaker import Call, CircuitBreaker, State
from txpatterns.resilience.bulkhead import Bulkhead, _Waiting
from txpatterns.resilience.cache import Cache
from txpatterns.resilience.entries_redis import RedisEntries
from txpatterns.resilience.flights import Flight, Landed
from txpatterns.resilience.guards import Passage
from txpatterns.resilience.limits import MemoryBuckets
from txpatterns.resilience.questions import Flow
from txpatterns.resilience.rates import Rate


@dataclass(frozen=True)
class Bug:
    """``plant`` is given pytest's monkeypatch; ``shows`` is a test."""

    plant: Callable[[pytest.MonkeyPatch], None]
    shows: Callable[..., object]

    @property
    def name(self) -> str:
        return f"{self.plant.__name__}-{getattr(self.shows, '__name__', '')}"


class Plain(Passage):
    """One call behind a plain pybreaker."""

    def __init__(self, breaker: pybreaker.CircuitBreaker) -> None:
        self._block: Any = breaker.calling()

    def __enter__(self) -> None:
        self._block.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._block.__exit__(kind, error, at)


def pybreaker_by_its_defaults(patch: pytest.MonkeyPatch) -> None:
    """H176: the plain library, with a clock of its own that stands at the end of the time."""
    plain: dict[CircuitBreaker, pybreaker.CircuitBreaker] = {}

    def of(breaker: CircuitBreaker) -> pybreaker.CircuitBreaker:
        return plain.setdefault(breaker, pybreaker.CircuitBreaker(fail_max=breaker.failures, reset_timeout=0))

    def passing(self: CircuitBreaker) -> Any:
        return Plain(of(self))

    def call(self: CircuitBreaker, function: Callable[..., Any]) -> Callable[..., Any]:
        def guarded() -> Any:
            return of(self).call(function)

        return guarded

    patch.setattr(CircuitBreaker, "passing", passing)
    patch.setattr(CircuitBreaker, "__call__", call)
    patch.setattr(CircuitBreaker, "state", property(lambda self: State(of(self).current_state)))


def probes_by_the_crowd(patch: pytest.MonkeyPatch) -> None:
    """H176: at half-open everybody is let through."""
    real = CircuitBreaker.begin

    @instead_of(patch, CircuitBreaker, real)
    def begin(self: CircuitBreaker) -> int:
        return self._generation if self._state is State.HALF_OPEN else real(self)


def every_end_counts(patch: pytest.MonkeyPatch) -> None:
    """H176: also that of a call which began in another state."""
    real = CircuitBreaker.end

    @instead_of(patch, CircuitBreaker, real)
    def end(self: CircuitBreaker, generation: int, error: BaseException | None) -> None:
        real(self, self._generation, error)


def cancelled_probe_keeps_the_gate(patch: pytest.MonkeyPatch) -> None:
    """H176: a probe that is cancelled leaves the breaker half-open."""

    @instead_of(patch, CircuitBreaker, CircuitBreaker._free_the_gate)
    def _free_the_gate(self: CircuitBreaker) -> None:
        return


def cancelled_calls_are_failures(patch: pytest.MonkeyPatch) -> None:
    """H176: whoever goes away says that the other side is away."""
    real = Call.__exit__

    @instead_of(patch, Call, real)
    def ended(
        self: Call, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        real(self, kind, error if error is None or isinstance(error, Exception) else TimeoutError(), at)


def lock_held_during_the_call(patch: pytest.MonkeyPatch) -> None:
    """H176: callers wait for each other."""
    begin, end = CircuitBreaker.begin, CircuitBreaker.end

    @instead_of(patch, CircuitBreaker, begin)
    def begun(self: CircuitBreaker) -> int:
        self._lock.acquire()
        return begin(self)

    @instead_of(patch, CircuitBreaker, end)
    def ended(self: CircuitBreaker, generation: int, error: BaseException | None) -> None:
        self._lock.release()
        end(self, generation, error)


def cancelled_waiter_keeps_the_place(patch: pytest.MonkeyPatch) -> None:
    """H344: whoever is cancelled behind the giving leaves with the place."""

    @instead_of(patch, Bulkhead, Bulkhead._go)
    def _go(self: Bulkhead, waiting: _Waiting) -> None:
        with self._lock:
            if not waiting.has_place:
                self._queue.remove(waiting)


def parts_of_tokens_are_lost(patch: pytest.MonkeyPatch) -> None:
    """H328: what has come in since the last call counts in whole tokens only."""
    real = Rate.admit

    @instead_of(patch, Rate, real)
    def admit(self: Rate, missing: float, cost: int) -> float | None:
        return real(self, math.ceil(missing / self.interval - 1e-9) * self.interval, cost)


def a_flood_pushes_out_the_oldest(patch: pytest.MonkeyPatch) -> None:
    """H328: memory has a bound, and a bucket that is not full is forgotten for it."""

    @instead_of(patch, MemoryBuckets, MemoryBuckets._has_too_many)
    def _has_too_many(self: MemoryBuckets, now: float) -> bool:
        if len(self._full_at) >= self.most:
            del self._full_at[next(iter(self._full_at))]
        return False


def a_write_only_deletes(patch: pytest.MonkeyPatch) -> None:
    """H329: as caches are mostly told of a write; what is being loaded just then comes back behind it."""

    @instead_of(patch, Cache, Cache._writing)
    def _writing(self: Cache[Any], key: str, version: int | None) -> Flow[None]:
        yield self._entries.dropping(self._place(key))


def who_loads_is_cancelled_for_all(patch: pytest.MonkeyPatch) -> None:
    """H343: as in a task that all of them await."""
    real = Flight.land

    @instead_of(patch, Flight, real)
    def land(self: Flight, landed: Landed | None) -> None:
        stopped: Any = asyncio.CancelledError()
        real(self, landed or Landed(error=stopped))


def what_was_written_meanwhile_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """H327, H329: Redis is away when it is told of a write, and nobody tells it later."""

    @instead_of(patch, RedisEntries, RedisEntries._owe)
    def _owe(self: RedisEntries, written: dict[str, tuple[int, timedelta]]) -> None:
        return


BUGS = [
    Bug(pybreaker_by_its_defaults, test_breaker.test_a_call_that_was_made_is_never_reported_as_not_made),
    Bug(pybreaker_by_its_defaults, test_breaker.test_one_call_is_let_through_at_half_open),
    Bug(pybreaker_by_its_defaults, test_breaker.test_who_is_cancelled_counts_nothing_and_is_told_so),
    Bug(pybreaker_by_its_defaults, test_breaker.test_an_end_counts_only_for_the_state_that_it_began_in),
    Bug(pybreaker_by_its_defaults, test_breaker.test_callers_do_not_wait_for_each_other),
    Bug(probes_by_the_crowd, test_breaker.test_one_call_is_let_through_at_half_open),
    Bug(every_end_counts, test_breaker.test_an_end_counts_only_for_the_state_that_it_began_in),
    Bug(every_end_counts, test_breaker.test_a_probe_without_an_end_is_given_up),
    Bug(cancelled_probe_keeps_the_gate, test_breaker.test_a_cancelled_probe_opens_it_again_and_frees_the_gate),
    Bug(cancelled_calls_are_failures, test_breaker.test_who_is_cancelled_counts_nothing_and_is_told_so),
    Bug(lock_held_during_the_call, test_breaker.test_callers_do_not_wait_for_each_other),
    Bug(cancelled_waiter_keeps_the_place, test_bulkhead.test_a_place_given_to_one_who_is_cancelled_is_passed_on),
    Bug(parts_of_tokens_are_lost, test_limits.test_a_burst_and_then_the_rate),
    Bug(a_flood_pushes_out_the_oldest, test_limits.test_a_flood_of_keys_frees_nobody),
    Bug(a_write_only_deletes, test_cache.test_who_has_written_reads_it_also_while_an_older_one_is_loaded),
    Bug(who_loads_is_cancelled_for_all, test_cache.test_when_the_one_who_loads_is_cancelled_another_one_does),
    Bug(what_was_written_meanwhile_is_forgotten, test_cache.test_redis_that_goes_away_in_the_middle),
]
