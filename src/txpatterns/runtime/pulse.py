"""When each background part last made progress, told by what the parts say anyway."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from txpatterns.clock import Clock
from txpatterns.hooks import HookList, Hooks, Moment
from txpatterns.runtime.moments import BrokerAway, Idle, Ownership


class Pulse(HookList):
    """The listeners of one process, told as ever; on the way it notes which part has just got on.

    A part that waits for a broker that is away is alive, too. No listener by itself, so that a process without
    listeners stays as cheap as one; so ``log``, which is told where no listener writes log lines.
    """

    def __init__(self, clock: Clock, listeners: Sequence[Hooks] = (), *, log: Hooks | None = None) -> None:
        super().__init__(listeners)
        self._clock = clock
        self._log = HookList.of(None if any(listener.logs for listener in listeners) else log)
        self._heard: dict[str, float] = {}
        self._signs: dict[type[Moment], str] = {}
        self.owned: dict[str, int] = {}
        """How many slots of each scope this process owns."""

    def heard(self, part: str, *signs: type[Moment]) -> Callable[[], float]:
        """Give a function that tells when a part was last heard of, by the monotonic clock.

        ``signs`` are the moments that only this part tells; those that name their part are its own anyway.
        """
        self._signs |= dict.fromkeys(signs, part)
        return lambda: self._heard.get(part, float("-inf"))

    def tell(self, moment: Moment) -> None:
        """Note who has got on, then tell the listeners."""
        part = moment.part if isinstance(moment, Idle | BrokerAway) else self._signs.get(type(moment))
        if part is not None:
            self._heard[part] = self._clock.monotonic()
        if isinstance(moment, Ownership):
            self.owned[moment.scope] = moment.buckets
        self._log.tell(moment)
        super().tell(moment)
