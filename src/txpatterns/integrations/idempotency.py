"""The same request again, by its Idempotency-Key: the first answer again, and nothing done twice.

As draft-ietf-httpapi-idempotency-key-header says it, for any host: this module knows no web framework.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar

import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from txpatterns.app import App
from txpatterns.database.dialects import is_repeatable
from txpatterns.database.engines import refuse_autocommit
from txpatterns.database.finishing import finish
from txpatterns.database.sessions import writing_connection
from txpatterns.errors import ConfigurationError, KeyInUse, KeyInvalid, PrincipalMissing
from txpatterns.integrations.answers import BATCH, SOON, Answer, AnswerStore, Turn, make_table, refuse_large
from txpatterns.messages import new_id

T = TypeVar("T")

TABLE = "http_answer"
UNDECIDED = frozenset((401, 403, 407, 408, 421, 423, 425, 429))
"""Refusals that say who may ask, or when: the same request may be answered otherwise later."""

_CLEAN_EVERY = 60.0
_REPEATS = 8
_PLAIN = re.compile(r"[!#-+\--~]{1,200}")
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\]){1,200})"')


class IdempotencyKeys:
    """Remembers the first answer to each key of each principal, in a table among your own.

    ``begin`` gives a request the turn to answer, or the answer that the first one got. Who has the turn does the work
    and calls ``keep`` in the same transaction: the effect and its answer are there together, or neither is. A request
    that dies leaves the key to the next one when its ``lease`` is over. It is the longest that a request may take: one
    that is slower has its transaction rolled back if another has taken over.

    The table is called ``table`` and is added to the App's ``metadata``: your migrations make it; on SQLite the App
    does. Answers are kept for ``keep``, up to ``max_answer`` bytes each, and deleted by later requests.

    Raises:
        ConfigurationError: the App has no metadata.
    """

    def __init__(
        self,
        app: App,
        *,
        table: str = TABLE,
        lease: timedelta = timedelta(minutes=1),
        keep: timedelta = timedelta(days=1),
        max_answer: int = 262_144,
    ) -> None:
        if app.metadata is None:
            raise ConfigurationError(
                "The table of answers has no place.", fix="Give your own: App(..., metadata=Base.metadata)."
            )
        if not timedelta(0) < lease < keep:
            raise ConfigurationError(
                "A lease is more than nothing, and less than the time for which answers are kept.",
                fix="Let lease be the longest that a request may take, and keep the longest that a client tries again.",
            )
        self.app = app
        self.max_answer = max_answer
        schema = app.metadata.schema
        made = app.metadata.tables.get(table if schema is None else f"{schema}.{table}")
        self.table = make_table(app.metadata, table, sa.DateTime(timezone=True)) if made is None else made
        self._store = AnswerStore(app.database, self.table, lease, keep)
        self._clean_at = 0.0

    async def begin(self, principal: str, key: str, fingerprint: str) -> Answer | Turn:
        """Give the first answer, or the turn to answer.

        ``principal`` is whose key it is: the id of the user whom you have authenticated. ``fingerprint`` is what
        ``fingerprint_of`` gives. The turn is noted in a transaction of its own; nobody is waited for.

        Raises:
            KeyReused: the key came with another request.
            KeyInUse: the first request is not answered yet; ``retry_after`` says when to ask again.
            PrincipalMissing: there is no principal.
        """
        turn = _turn(principal, key, fingerprint)
        found = await self._read(partial(self._store.find, principal=turn.principal, key=key))
        if found is None or found.is_free_for(fingerprint):
            if await self._took(turn):
                return turn
            found = await self._read(partial(self._store.find, principal=turn.principal, key=key))
            if found is None:  # given up since
                raise KeyInUse(retry_after=SOON)
        return found.first_answer(fingerprint)

    def claim(self, session: Session, principal: str, key: str, fingerprint: str) -> Answer | Turn:
        """Do what ``begin`` does, all in your transaction: for work that is nothing but this transaction.

        Another transaction with the same key is waited for. ``await session.run_sync(keys.claim, ...)`` on an
        ``AsyncSession``.

        Raises:
            KeyReused, KeyInUse, PrincipalMissing: as ``begin`` does.
            NotTransactional: the session commits each statement by itself; nothing was claimed.
        """
        connection, turn = _connection(session), _turn(principal, key, fingerprint)
        if self._store.seize(connection, turn):
            return turn
        found = self._store.find(connection, turn.principal, key)
        if found is None or found.is_free_for(fingerprint):  # another one is at it just now
            raise KeyInUse(retry_after=SOON)
        return found.first_answer(fingerprint)

    def keep(self, session: Session, turn: Turn, answer: Answer) -> None:
        """Write the answer down in the transaction of its effect; it is kept if, and only if, that commits.

        ``await session.run_sync(keys.keep, turn, answer)`` on an ``AsyncSession``.

        Raises:
            TurnLost: another request has taken over. Roll back: it does the work, or has done it.
            AnswerNotKept: the answer is too large.
            NotTransactional: the session commits each statement by itself.
        """
        refuse_large(len(answer.body), self.max_answer)
        self._store.keep_answer(_connection(session), turn, answer)

    async def keep_alone(self, turn: Turn, answer: Answer) -> None:
        """Write the answer down in a transaction of its own: for an answer without an effect in this database.

        A process that dies between the effect and this has the work done again, so that must be idempotent itself.
        Raises what ``keep`` raises.
        """
        refuse_large(len(answer.body), self.max_answer)
        await self._write(partial(self._store.keep_answer, turn=turn, answer=answer))

    async def look(self, turn: Turn) -> Answer:
        """Give the answer of the request that has taken over this turn.

        Raises:
            KeyInUse: it is not there yet.
        """
        found = await self._read(partial(self._store.find, principal=turn.principal, key=turn.key))
        if found is None:
            raise KeyInUse(retry_after=SOON)
        return found.first_answer(turn.fingerprint)

    async def give_up(self, turn: Turn) -> None:
        """Leave the key to whoever comes next, at once; an answer that was kept stays."""
        await self._write(partial(self._store.give_up, turn=turn))

    async def clean(self) -> int:
        """Delete all answers that are too old, in short transactions; says how many.

        ``begin`` does it by and by, so this is for keys that are used no more.
        """
        total = 0
        while True:
            removed = await self._write(self._store.clean)
            total += removed
            if removed < BATCH:
                return total

    async def _took(self, turn: Turn) -> bool:
        try:
            return await self._write(partial(self._seize, turn=turn))
        except asyncio.CancelledError:
            await self.give_up(turn)  # nobody would use it until its lease is over
            raise

    def _seize(self, connection: Connection, turn: Turn) -> bool:
        if not self._store.seize(connection, turn):
            return False
        now = self.app.database.clock.monotonic()
        if now >= self._clean_at and self._store.clean(connection) < BATCH:
            self._clean_at = now + _CLEAN_EVERY
        return True

    async def _read(self, work: Callable[[Connection], T]) -> T:
        if not isinstance(self.app.database.engine, AsyncEngine):
            return await anyio.to_thread.run_sync(self._read_plainly, work)
        async with self.app.session() as session:
            return await session.run_sync(lambda plain: work(writing_connection(plain)))

    def _read_plainly(self, work: Callable[[Connection], T]) -> T:
        with self.app.sync_session() as session:
            return work(writing_connection(session))

    async def _write(self, work: Callable[[Connection], T]) -> T:
        for attempt in range(_REPEATS):
            try:
                return await finish(self._write_once(work))
            except sa.exc.DBAPIError as error:
                if attempt + 1 == _REPEATS or not is_repeatable(error):
                    raise
        raise AssertionError("unreachable")

    async def _write_once(self, work: Callable[[Connection], T]) -> T:
        if not isinstance(self.app.database.engine, AsyncEngine):
            return await anyio.to_thread.run_sync(self._write_plainly, work)
        async with self.app.transaction() as session:
            return await session.run_sync(lambda plain: work(_connection(plain)))

    def _write_plainly(self, work: Callable[[Connection], T]) -> T:
        with self.app.sync_transaction() as session:
            return work(_connection(session))


def parsed_key(values: Sequence[str]) -> str | None:
    """Read the key from the headers of this name: a string in quotes, as the draft has it, or a bare one; None: none.

    Raises:
        KeyInvalid: it is neither, or there are several.
    """
    if not values:
        return None
    value = values[0].strip(" ")
    quoted = _QUOTED.fullmatch(value)
    key = re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value
    if len(values) > 1 or not (quoted or _PLAIN.fullmatch(value)):
        raise KeyInvalid
    return key


def fingerprint_of(method: str, target: str, body: bytes) -> str:
    """Give the digest by which a request is told from another one: its method, its path with query, its bytes."""
    digest = hashlib.sha256()
    for part in (method.encode(), target.encode(), body):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def is_decided(status: int) -> bool:
    """Say whether an answer is kept: it is not an error of ours, nor one that says who may ask, or when."""
    return status < 500 and status not in UNDECIDED


def _turn(principal: object, key: str, fingerprint: str) -> Turn:
    if not isinstance(principal, str) or not principal:
        raise PrincipalMissing
    return Turn(hashlib.sha256(principal.encode()).hexdigest(), key, fingerprint, new_id())


def _connection(session: Session) -> Connection:
    connection = writing_connection(session)
    refuse_autocommit(connection)
    return connection
