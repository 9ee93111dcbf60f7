"""How long the users' service keeps sessions that are over."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import CursorResult, delete, select

from shop.pruning import BATCH
from shop.users.models import RefreshTokenRow, SessionRow
from txpatterns import App

SESSIONS_KEPT = timedelta(days=30)
"""After the session's last possible day: for questions about who was signed in."""


async def prune_sessions(app: App, now: datetime) -> int:
    """Forget old sessions and the digests of their tokens. Whoever still has such a token is refused all the same."""
    old = select(SessionRow.id).where(SessionRow.expires_at < now - SESSIONS_KEPT).limit(BATCH)
    async with app.transaction() as session:
        ids = (await session.scalars(old)).all()
        await session.execute(delete(RefreshTokenRow).where(RefreshTokenRow.session_id.in_(ids)))
        result = await session.execute(delete(SessionRow).where(SessionRow.id.in_(ids)))
    assert isinstance(result, CursorResult)
    return result.rowcount
