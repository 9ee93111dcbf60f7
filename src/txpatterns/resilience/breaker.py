"""A circuit breaker: it stops calling somebody who is away, and sees by one call at a time whether they are back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from enum import StrEnum
from types import TracebackType

from txpatterns.checks import INSTANT, check_at_least
from txpatterns.clock import Clock, SystemClock
from txpatterns.errors import CircuitOpen, MissingExtra
from txpatterns.hooks import HookList, Hooks, Moment
from txpatterns.resilience.guards import Guard, Passage
from txpatterns.resilience.moments import CallRefused, CircuitClosed, CircuitHalfOpened, CircuitOpened
from txpatterns.resilience.outages import is_outage, was_not_made

try:
    import pybreaker
except ImportError as missing:
    raise MissingExtra("pybreaker is not installed.", fix="pip install 'txpatterns[resilience]'") from missing

logger = logging.getLogger("txpatterns")

_NOW = timedelta(0)


class State(StrEnum):
    """Whether calls are made."""

    CLOSED = "closed"
    """They are."""
    OPEN = "open"
    """They are not; from ``retry_at`` on the next one is let through."""
    HALF_OPEN = "half-open"
    """They are not but for one, which shows whether it is answered."""


class CircuitBreaker(Guard["Call"]):
    """Stands in front of calls to somebody else: ``with breaker:``, ``async with breaker:``, or ``@breaker``.

    After ``failures`` of them in a row it is open: for ``open_for`` each further one raises ``CircuitOpen`` at once and
    is not made. Then one is let through. Is it answered, the breaker is closed; does it fail, it is open again. One
    that has not ended after ``open_for`` is given up, and another one is let through.

    ``counts`` says which errors are failures, by default `is_outage`. Every other error is an answer. What was
    cancelled, or not begun, counts nothing: so a time limit belongs into the block, where it is a ``TimeoutError``;
    around the block it is a cancellation. An end counts only if the breaker has not changed since the call began. What
    the call raises is always raised as it is: ``CircuitOpen`` means that it was not made.

    One object serves all threads and event loops of a process, and waits for nobody: its lock is held for the
    count, never during a call. There is no fallback to set: catch ``CircuitOpen``.

    Raises:
        ConfigurationError: ``failures`` is less than one, or ``open_for`` is not more than nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        open_for: timedelta = timedelta(seconds=30),
        counts: Callable[[BaseException], bool] = is_outage,
        clock: Clock | None = None,
        hooks: HookList | Hooks | Sequence[Hooks] | None = None,
    ) -> None:
        self.name = name
        self.failures = failures
        self.open_for = open_for
        check_at_least(1, self, "failures")
        check_at_least(INSTANT, self, "open_for")
        self.hooks = HookList.of(hooks)
        self.on_change: list[Callable[[Moment], None]] = []
        """Called with each opening and closing that this process has found out; must not wait, and must not raise."""
        self._counts = counts
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()  # a signal handler may call, too
        # Only the count is its own: when it opens and closes again is decided here, by our clock and one at a time.
        self._machine = pybreaker.CircuitBreaker(fail_max=failures, throw_new_error_on_trip=False)
        self._state = State.CLOSED
        self._generation = 0
        self._until = 0.0
        """While it is not closed: the moment of the clock from which the next call is let through."""

    @property
    def state(self) -> State:
        """Whether calls are made now."""
        return self._state

    @property
    def retry_in(self) -> timedelta:
        """How long until the next call is let through; nothing while it is closed."""
        left = timedelta(seconds=self._until - self._clock.monotonic())
        return _NOW if self._state is State.CLOSED else max(left, _NOW)

    def passing(self) -> Call:
        """Give what to enter for one call, where ``with breaker:`` cannot be left where it was entered."""
        return Call(self)

    def open(self, open_for: timedelta | None = None) -> None:
        """Make no calls for a time, as if enough of them had failed; told to no other process."""
        with self._lock:
            opened = self._open(open_for or self.open_for, None, told=True)
        self.hooks.tell(opened)

    def close(self) -> None:
        """Make calls again, as if one had been answered; told to no other process."""
        with self._lock:
            closed = None if self._state is State.CLOSED else self._close(told=True)
        if closed is not None:
            self.hooks.tell(closed)

    def begin(self) -> int:
        """Let a call through; gives the generation that it belongs to. Raises CircuitOpen."""
        generation = self._generation  # read before the state: should it change in between, this call counts nothing
        if self._state is State.CLOSED:
            return generation
        with self._lock:
            moment, after = self._admit()
            generation = self._generation
        if moment is not None:
            self.hooks.tell(moment)
        if after > _NOW:
            raise CircuitOpen(self.name, retry_at=self._clock.now() + after, after=after)
        return generation

    def end(self, generation: int, error: BaseException | None) -> None:
        """A call has ended: answered, or with an error."""
        failed = error is not None and self._is_failure(error)
        if failed is False and self._state is State.CLOSED and self._machine.fail_counter == 0:
            return  # an answer among answers changes nothing
        changed: CircuitOpened | CircuitClosed | None = None
        with self._lock:
            if generation != self._generation:
                return
            if failed is None:
                self._free_the_gate()
            elif failed and (self._state is State.HALF_OPEN or self._fails_too_often()):
                changed = self._open(self.open_for, error)
            elif not failed and self._state is State.HALF_OPEN:
                changed = self._close()
            elif not failed:
                self._machine.call(_answered)
        if changed is not None:
            self.hooks.tell(changed)
            for told in self.on_change:
                told(changed)

    def _admit(self) -> tuple[Moment | None, timedelta]:
        """Let a call through, as the one that shows whether it is answered; or say how long there will be none."""
        now = self._clock.monotonic()
        if self._state is State.CLOSED:
            return None, _NOW
        if now < self._until:
            return CallRefused(self.name), timedelta(seconds=self._until - now)
        self._state = State.HALF_OPEN
        self._machine.half_open()
        self._until = now + self.open_for.total_seconds()
        self._generation += 1
        return CircuitHalfOpened(self.name), _NOW

    def _is_failure(self, error: BaseException) -> bool | None:
        """Whether a call has failed; None: nobody knows."""
        if not isinstance(error, Exception):
            return None
        try:
            return None if was_not_made(error) else bool(self._counts(error))
        except Exception:
            logger.exception("counts= of the breaker %s failed, so a call counted nothing", self.name)
            return None

    def _fails_too_often(self) -> bool:
        """Count a failure; says whether it was one too many."""
        try:
            self._machine.call(_failed)
        except _Failed:
            return self._machine.current_state == pybreaker.STATE_OPEN
        raise AssertionError("pybreaker has swallowed a failure")

    def _free_the_gate(self) -> None:
        if self._state is State.HALF_OPEN:
            self._state = State.OPEN
            self._machine.open()
            self._until = self._clock.monotonic()
            self._generation += 1

    def _open(self, open_for: timedelta, error: BaseException | None, *, told: bool = False) -> CircuitOpened:
        self._state = State.OPEN
        self._machine.open()
        self._until = self._clock.monotonic() + open_for.total_seconds()
        self._generation += 1
        return CircuitOpened(self.name, open_for, error, told)

    def _close(self, *, told: bool = False) -> CircuitClosed:
        self._state = State.CLOSED
        self._machine.close()
        self._generation += 1
        return CircuitClosed(self.name, told)

    def __repr__(self) -> str:
        return f"CircuitBreaker({self.name!r}, {self._state})"


class Call(Passage):
    """One call behind a breaker."""

    __slots__ = ("_breaker", "_generation")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._generation = -1

    def __enter__(self) -> None:
        self._generation = self._breaker.begin()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._breaker.end(self._generation, error)


class _Failed(Exception):
    pass


def _failed() -> None:
    raise _Failed


def _answered() -> None:
    return
