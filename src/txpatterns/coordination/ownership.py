"""Which slots of a scope this member owns, and how they pass from one member to another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from txpatterns.coordination.leases import Leases
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns")

_LEAVE_AGAIN = (0.0, 0.05, 0.2)


class Ownership:
    """The slots of one member. ``held`` maps each to the epoch under which it is ours."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self.held: dict[int, int] = {}
        self.leaving: set[int] = set()
        self.arriving: set[int] = set()
        """Ours already, but it is not known yet what is held up in them."""

    @property
    def active(self) -> list[int]:
        """The slots to work on now: those of ours that are neither coming nor going."""
        moving = self.leaving | self.arriving
        return [slot for slot in self.held if slot not in moving] if moving else list(self.held)

    @property
    def is_safe(self) -> bool:
        """Whether nobody else can own our slots yet, however long this process was paused."""
        return self.leases.is_safe

    async def join(self) -> list[int]:
        """Become a member and take a fair share; gives the slots taken, for ``begin``.

        What this process owned before is its own again, and need not wait for a lease to run out.
        """
        self.held, self.leaving, self.arriving = {}, set(), set()
        census = await self.leases.join()
        self._hold(await self.leases.acquire(census.live), set())
        return sorted(self.arriving)

    async def tend(self) -> list[int]:
        """Renew, and move towards a fair share; gives the slots that are newly ours, for ``begin``.

        Those above the share are ``leaving`` afterwards, for ``hand_over``. Raises LeaseLost.
        """
        census = await self.leases.renew()
        going = set(self.leases.surplus(self.held, census.live))
        staying, self.leaving = self.leaving - going, going  # who stays after all was not read meanwhile
        as_it_was = bool(going) or self.leases.is_settled(self.held, census)
        held = self.held if as_it_was else await self.leases.acquire(census.live)
        self._hold(held, staying)
        return sorted(self.arriving)

    def _hold(self, held: dict[int, int], staying: set[int]) -> None:
        new = {slot for slot, epoch in held.items() if self.held.get(slot) != epoch}
        self.held, self.arriving = held, (self.arriving | new | staying) & held.keys()

    def begin(self, slots: Iterable[int]) -> None:
        """Go to work on slots that are newly ours."""
        self.arriving.difference_update(slots)

    async def hand_over(self, under_way: Callable[[set[int]], bool]) -> None:
        """Give up those slots that are leaving of which nothing is under way."""
        free = {slot for slot in self.leaving if not under_way({slot})}
        if free:
            await self.leases.release(free)
            self.leaving -= free
            self.held = {slot: epoch for slot, epoch in self.held.items() if slot not in free}

    async def leave(self, within: float, *, for_good: bool) -> None:
        """Hand everything over at once, unless the database lets nobody write: then the lease ends by itself.

        ``for_good``: it does not join again. Then, where a link breaks just now, it tries again, for the others would
        wait for the lease.
        """
        self.held, self.leaving, self.arriving = {}, set(), set()
        try:
            async with asyncio.timeout(within):
                await self._try_to_leave(list(_LEAVE_AGAIN) if for_good else [])
        except TimeoutError:
            logger.info("%s: what is ours is handed over when the lease ends: nobody can write now", self.leases.scope)
        except Exception as error:  # noqa: BLE001 - without the database, the lease ends by itself
            if for_good:
                scope, said = self.leases.scope, error_line(error)
                logger.info("%s: what is ours is handed over when the lease ends: %s", scope, said)

    async def _try_to_leave(self, pauses: list[float]) -> None:
        while True:
            try:
                await self.leases.leave()
                return
            except Exception:
                if not pauses:
                    raise
            await asyncio.sleep(pauses.pop(0))
