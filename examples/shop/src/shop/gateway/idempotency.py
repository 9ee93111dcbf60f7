"""The same request again, by its Idempotency-Key: the same answer, and nothing done twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.exc import IntegrityError

from shop.gateway.models import IdempotencyRow
from shop.problems import Problem
from txpatterns import App


class IdempotencyKeys:
    """Remembers the answer to each key of each visitor.

    The work itself must be idempotent by the key: when the process dies between the work and the note of its
    answer, the same key does the work again.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def once(self, visitor_id: str, key: str, body: dict[str, Any], work: Callable[[], Awaitable[str]]) -> str:
        """Give the remembered answer, or do the work and remember what it answers.

        Raises:
            Problem: ``idempotency-key-reused`` when the key came with another body before.
        """
        fingerprint = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        known = await self._begin(visitor_id, key, fingerprint)
        if known.fingerprint != fingerprint:
            raise Problem("idempotency-key-reused", f"The key {key!r} belongs to another request.")
        if known.answer is not None:
            return known.answer
        answer = await work()
        async with self.app.transaction() as session:
            row = await session.get_one(IdempotencyRow, (visitor_id, key), with_for_update=True)
            row.answer = row.answer or answer
            return row.answer

    async def _begin(self, visitor_id: str, key: str, fingerprint: str) -> IdempotencyRow:
        row = IdempotencyRow(
            visitor_id=visitor_id, key=key, fingerprint=fingerprint, answer=None, created_at=datetime.now(UTC)
        )
        try:
            async with self.app.transaction() as session:
                known = await session.get(IdempotencyRow, (visitor_id, key))
                if known is not None:
                    return known
                session.add(row)
        except IntegrityError:
            async with self.app.session() as session:
                return await session.get_one(IdempotencyRow, (visitor_id, key))
        return row
