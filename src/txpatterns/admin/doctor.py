"""Everything that can be looked at before a deploy: the database, our tables in it, what waits, and the broker."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from txpatterns.admin.depths import depths_of
from txpatterns.database import Database, migrations
from txpatterns.database.examining import examine
from txpatterns.findings import Finding, Severity
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.transport import Broker, Checks

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


async def examine_broker(
    broker: Broker, name: str, topics: Sequence[str], group: str | None, settings: ConsumerSettings
) -> list[Finding]:
    """Look at the broker for these topics, and for a group that reads."""
    found = list(await broker.check(topics, group)) if isinstance(broker, Checks) else []
    if not broker.capabilities.ordered:
        words = "It keeps no order: messages of a key may be handled in another order than they were published in."
        fix = "Use one that does (SQS: ordered=true), where a handler or a saga needs it."
        found.append(Finding(Severity.WARNING, f"broker {name}", words, fix))
    kept = broker.capabilities.horizon
    if group is not None and kept is not None and kept > settings.retention:
        words = f"It keeps messages for {kept}; handled ones are remembered for {settings.retention}: one that comes "
        words += "again later is handled again."
        fix = f"Set the consumer's retention to at least {kept}."
        found.append(Finding(Severity.WARNING, f"broker {name}", words, fix))
    return found
