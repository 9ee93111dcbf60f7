"""Rebuilding what Redis has lost, from the ledger, while calls come and are refused.

First the ledger begins a new generation: from then on it takes nothing that was reserved under an older one. So what it
shows next is all that there is. Redis answers again when all of that is in it.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator, Sequence

from txpatterns.errors import StockUnavailable
from txpatterns.tcc.stock.ledger import Hold, Ledger, Picture
from txpatterns.tcc.stock.redis.connections import Connections
from txpatterns.tcc.stock.redis.scripts import BEGIN, LOAD, RELEASE, SERVE, Script, instant, write_record

logger = logging.getLogger("txpatterns")

_TURN = 10_000
"""Milliseconds after which another process rebuilds, if nothing was heard of this one."""
_PART = 500


class Keys:
    """The keys of one stock. The braces put them all into one slot of a cluster."""

    def __init__(self, name: str) -> None:
        prefix = f"{{{name}}}"
        self.data = [f"{prefix}:{each}" for each in ("state", "items", "records", "due", "ended")]
        self.state = self.data[0]
        self.rebuilding = f"{prefix}:rebuilding"


class Rebuilding:
    """Finds out whether Redis has what the ledger has, and makes it so."""

    def __init__(self, connections: Connections, ledger: Ledger, keys: Keys) -> None:
        self._connections = connections
        self._ledger = ledger
        self._keys = keys

    async def place(self, suspect: int) -> Hold | None:
        """Give the generation that Redis serves, and a number that it has reached; None: another process is at it.

        A generation up to ``suspect`` is known to have lost something, whatever Redis says.
        """
        known = await self._ledger.place()
        generation, ready, server, number = await self._connections.read_state(self._keys.state)
        is_present = generation == str(known.generation) and known.generation > suspect
        if is_present and ready == "1" and server == self._connections.server and int(number or 0) >= known.number:
            return Hold(known.generation, int(number or 0))
        token = secrets.token_hex(8)
        if not await self._connections.take_turn(self._keys.rebuilding, token, _TURN):
            return None
        try:
            return Hold(await self._rebuild(known.generation, int(generation or 0)), 0)
        finally:
            await self._connections.run([(RELEASE, [self._keys.rebuilding], [token])])

    async def _rebuild(self, after: int, above: int) -> int:
        server = self._connections.server
        generation = await self._ledger.begin(after, above)
        level = logging.WARNING if after else logging.INFO  # the first time, nothing can have been lost
        logger.log(level, "stock: Redis does not have what the ledger has; it is rebuilt as generation %d", generation)
        await self._run(BEGIN, self._keys.data, [str(generation), server])
        picture = await self._ledger.picture()
        parts = 0
        for items, held in _parts(picture):
            await self._run(LOAD, [*self._keys.data, self._keys.rebuilding], [str(generation), items, held, str(_TURN)])
            parts += 1
        await self._run(SERVE, [self._keys.state], [str(generation), server, str(parts)])
        logger.info("stock: Redis serves generation %d, with %d reservations", generation, len(picture.held))
        return generation

    async def _run(self, script: Script, keys: Sequence[str], arguments: Sequence[str]) -> None:
        (answer,) = await self._connections.run([(script, keys, arguments)])
        if answer[0] not in ("done", b"done"):
            raise StockUnavailable("Redis was lost again, or is rebuilt by another process.")


def _parts(picture: Picture) -> Iterator[tuple[str, str]]:
    """Give items and reservations as the script reads them, some at a time."""
    items = [
        [item, *map(str, (version, level.available, level.reserved, level.sold))]
        for item, (version, level) in picture.levels.items()
    ]
    for start in range(0, len(items), _PART):
        yield json.dumps(items[start : start + _PART]), "[]"
    held = [[each.reservation.id, instant(each.reservation.expires_at), write_record(each)] for each in picture.held]
    for start in range(0, len(held), _PART):
        yield "[]", json.dumps(held[start : start + _PART])
