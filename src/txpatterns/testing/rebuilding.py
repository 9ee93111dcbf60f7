"""An App once more, on another database and broker: the same handlers, events, policies and settings."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from txpatterns.app import App
from txpatterns.clock import Clock
from txpatterns.database import Database
from txpatterns.database.engines import AnyEngine, is_asynchronous
from txpatterns.database.schema import attached_schema
from txpatterns.database.sessions import unbound
from txpatterns.hooks import Hooks
from txpatterns.transport import Broker


def database_like(database: Database, engine: AnyEngine | str, *, clock: Clock, schema: str | None = None) -> Database:
    """Make a Database on another engine, whose sessions are of the same classes and have the same options."""
    is_async = isinstance(engine, AsyncEngine) or (isinstance(engine, str) and is_asynchronous(make_url(engine)))
    given = [unbound(factory) for factory in (database.sync_sessions, database.sessions) if factory is not None]
    asynchronous = next((factory for factory in given if isinstance(factory, async_sessionmaker)), None)
    plain = next((factory for factory in given if isinstance(factory, sessionmaker)), None)
    return Database(
        engine,
        sessions=asynchronous if is_async else plain,
        sync_sessions=plain if is_async else None,
        schema=schema,
        clock=clock,
    )


def rebuilt(app: App, database: Database, broker: Broker, *hooks: Hooks) -> App:
    """Make an App like another one. The tables of its metadata are made by whoever owns the database."""
    listeners = [*app.hooks.listeners, *hooks]
    settings = replace(app.settings, listen_url=database.listen_url, schema=None)  # those of the other database
    made = App(app.name, database, broker, policies=app.policies, settings=settings, hooks=listeners)
    made.metadata = app.metadata
    if app.metadata is not None:
        database.home.declare(attached_schema(app.metadata))
    made.registry.take_in(app.registry)
    for handler in app.consumer.handlers:
        name, rules = handler.consumer.removeprefix(f"{app.name}."), handler.rules
        on = made.on(
            handler.event,
            name=name,
            permanent=rules.permanent,
            retries=rules.ladders,
            timeout=handler.options.timeout,
        )
        on(handler.call)
    return made
