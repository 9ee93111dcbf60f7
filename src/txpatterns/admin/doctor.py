"""Everything that can be looked at before a deploy: the database, our tables in it, what waits, and the broker."""

from __future__ import annotations

from datetime import timedelta

from txpatterns.admin.depths import depths_of
from txpatterns.database import Database, migrations
from txpatterns.database.examining import examine
from txpatterns.findings import Finding, Severity

_OLD = timedelta(minutes=5)
"""What waits for longer although it is due waits for somebody."""
_APART = timedelta(seconds=30)


async def examine_database(database: Database) -> list[Finding]:
    """Look at the server, our tables, and what waits in them. Changes nothing."""
    state = await database.read(migrations.check)
    found = await database.read(examine)
    if not state.is_current:
        words = f"The tables differ from what this version needs: {'; '.join(state.differences)}."
        return [Finding(Severity.ERROR, "tables", words, "txp db upgrade"), *found]
    return [*found, *await _clocks(database), *await _waiting(database)]


async def _clocks(database: Database) -> list[Finding]:
    apart = abs(await database.moment() - database.clock.now())
    if apart < _APART:
        return []
    words = f"Its clock and this machine's are {apart.total_seconds():.0f} s apart; the library goes by the database's."
    return [Finding(Severity.WARNING, "clock", words, "Let both be set by the same time service.")]


async def _waiting(database: Database) -> list[Finding]:
    depths = await depths_of(database)
    found = []
    if depths.oldest_age > _OLD:
        words = f"The oldest that waits is {depths.oldest_age.total_seconds():.0f} s old."
        fix = "See that processes run it (txp run), and what it waits for: txp status."
        found.append(Finding(Severity.WARNING, "backlog", words, fix))
    if depths.dead:
        words = f"{depths.dead} dead letters wait for a decision."
        found.append(Finding(Severity.WARNING, "dead letters", words, "txp dlq list"))
    return found
