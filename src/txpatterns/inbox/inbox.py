"""The inbox for code of your own: was this message handled before?"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from txpatterns.database import Database
from txpatterns.database.engines import refuse_autocommit
from txpatterns.database.sessions import writing_connection
from txpatterns.errors import IdReused
from txpatterns.inbox.claims import Claims
from txpatterns.inbox.entries import lane_of
from txpatterns.inbox.lane_store import LaneStore

_BATCH = 500


class Inbox:
    """Remembers, for each consumer, which messages had their effect.

    Call ``claim`` before the effect, in the effect's own transaction. The answer is sure: while another transaction
    holds the same message, ``claim`` waits for its end. A message is remembered if, and only if, that transaction
    commits.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._claims = Claims(database)
        self._lanes = LaneStore(database)

    def claim(self, session: Session, consumer: str, message_id: str, fingerprint: str | None = None) -> bool:
        """Say whether this is the first time that ``consumer`` sees the message; if not, leave the effect out.

        ``fingerprint`` is a digest of the content, at most 64 characters. Given both times, it tells a repeat from
        another message under the same id.

        Raises:
            IdReused: the id was claimed before with another fingerprint.
            NotTransactional: the session commits each statement by itself; nothing was claimed.
        """
        connection = writing_connection(session)
        refuse_autocommit(connection)
        if self._claims.claim(connection, consumer, message_id, fingerprint):
            return True
        if fingerprint is not None:
            before = self._claims.fingerprint(connection, consumer, message_id)
            if before not in (None, "", fingerprint):
                raise IdReused(f"{consumer} has seen message {message_id} with other content.")
        return False

    async def aclaim(
        self, session: AsyncSession, consumer: str, message_id: str, fingerprint: str | None = None
    ) -> bool:
        """Do what ``claim`` does, on an ``AsyncSession``."""
        return await session.run_sync(self.claim, consumer, message_id, fingerprint)

    async def release(self, consumer: str, topic: str, key: str) -> bool:
        """Let a parked key go on behind its dead letter; says whether it was parked."""
        release = partial(self._lanes.release, consumer=consumer, lane=lane_of(topic, key, ""))
        return await self.database.transact(release)

    async def clean(self, retention: timedelta) -> int:
        """Forget messages handled longer ago than ``retention``, in short transactions; says how many.

        A message that still waits at the consumer, or is a dead letter, is remembered however old it is.
        """
        total = 0
        while True:
            removed = await self.database.transact(partial(self._claims.clean, retention=retention, most=_BATCH))
            total += removed
            if removed < _BATCH:
                return total
