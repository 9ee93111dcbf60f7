"""Whether handlers write where the library does: compared at the start, once, on a connection of each kind.

A plain engine that is made beside an asynchronous one carries over what connections are made with. What listeners do
to a connection afterwards, such as ``SET ROLE`` or ``SET search_path``, shows here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import anyio.to_thread
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from txpatterns.database.database import Database
from txpatterns.database.dialects import is_sqlite, may_pass
from txpatterns.database.finishing import finish
from txpatterns.database.identity import Identity
from txpatterns.database.sessions import writing_connection
from txpatterns.errors import ConfigurationError
from txpatterns.text import error_line

logger = logging.getLogger("txpatterns")

_ROLE = sa.text("SELECT current_user, array_to_string(current_schemas(false), ', ')")
_SETTINGS = sa.text("SELECT name, setting, source IN ('client', 'session') FROM pg_settings")
_OF_NO_MATTER = frozenset(("application_name", "client_encoding"))


@dataclass(frozen=True, slots=True)
class _Beginning:
    """What a new connection is like, and which of its settings were made for it."""

    values: Mapping[str, str] = field(default_factory=dict)
    made: frozenset[str] = frozenset()


async def check_sessions(database: Database, *, asynchronous: bool, plain: bool) -> None:
    """Make sure that handlers of these kinds have sessions of our database, and that both kinds begin alike.

    Where one cannot be opened now, nothing is compared: `health` says so when a handler is held up by that.

    Raises:
        ConfigurationError: what differs.
        WrongDatabase: they are of another database.
    """
    try:
        await _compare(database, asynchronous=asynchronous, plain=plain)
    except Exception as error:
        if not may_pass(error):
            raise
        logger.warning("no session for handlers can be opened to look at it: %s", error_line(error))


async def _compare(database: Database, *, asynchronous: bool, plain: bool) -> None:
    identity = Identity(database)
    check = partial(_check, identity=identity)
    usual = _Beginning()
    if asynchronous or (plain and isinstance(database.engine, AsyncEngine)):
        async with database.session() as session:
            usual = await session.run_sync(check)
    if not plain:
        return
    other = await finish(anyio.to_thread.run_sync(_in_plain_session, database, check))
    compared = {"role", "search path"} if database.has_plain_engine_of_yours else {"role", "search path", *usual.made}
    differing = {
        name: (usual.values[name], other.values.get(name))
        for name in sorted(compared.intersection(usual.values) - _OF_NO_MATTER)
        if usual.values[name] != other.values.get(name)
    }
    if differing:
        shown = ", ".join(f"{name} is {there!r}, not {here!r}" for name, (here, there) in differing.items())
        raise ConfigurationError(
            f"Connections for `def` handlers do not begin like those of the engine: {shown}.",
            fix="Make a plain engine that begins alike, and give both: Database(engine, sync_engine=...).",
        )


def _in_plain_session(database: Database, check: Callable[[Session], _Beginning]) -> _Beginning:
    with database.sync_session() as session:
        return check(session)


def _check(session: Session, identity: Identity) -> _Beginning:
    connection = writing_connection(session)
    identity.check(connection)
    if is_sqlite(connection):
        return _Beginning()
    role, path = connection.execute(_ROLE).one()
    settings = connection.execute(_SETTINGS).all()
    values = {name: value for name, value, _ in settings}
    made = frozenset(name for name, _, is_made_here in settings if is_made_here)
    return _Beginning({**values, "role": role, "search path": path}, made)
