"""An App once more, on another database and broker: the same handlers, sagas, participants, policies and settings."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from txpatterns.app import App
from txpatterns.clock import Clock
from txpatterns.database import Database
from txpatterns.database.schema import attached_schema
from txpatterns.database.sessions import sessions_of, unbound
from txpatterns.hooks import Hooks
from txpatterns.sagas.hearing import hear
from txpatterns.settings import AppSettings
from txpatterns.transport import Broker


def database_like(database: Database, url: str, *, clock: Clock) -> Database:
    """Make a Database at another place, whose sessions are of the same classes and have the same options."""
    made = Database(url, clock=clock)
    take_sessions(made, database)
    return made


def take_sessions(made: Database, database: Database) -> None:
    """Let sessions of one Database be of the classes and options that another one's are of."""
    given = [unbound(factory) for factory in (database.sync_sessions, database.sessions) if factory is not None]
    asynchronous = next((factory for factory in given if isinstance(factory, async_sessionmaker)), None)
    plain = next((factory for factory in given if isinstance(factory, sessionmaker)), None)
    is_async = isinstance(made.engine, AsyncEngine)
    made.sessions = sessions_of(asynchronous if is_async else plain, made.engine)
    made.sync_sessions = plain if is_async else None


def rebuilt(app: App, database: Database, broker: Broker, *hooks: Hooks, settings: AppSettings | None = None) -> App:
    """Make an App like another one. The tables of its metadata are made by whoever owns the database."""
    listeners = [*app.hooks.listeners, *hooks]
    settings = replace(settings or app.settings, listen_url=database.listen_url, schema=None)  # the other database's
    made = App(app.name, database, broker, policies=app.policies, settings=settings, hooks=listeners)
    made.metadata = app.metadata
    if app.metadata is not None:
        database.home.declare(attached_schema(app.metadata))
    made.registry.take_in(app.registry)
    made.sagas.definitions.take_in(app.sagas.definitions)
    made.tcc.participants.take_in(app.tcc.participants)
    made.tcc.overdue.take_in(app.tcc.overdue)
    hear(made.sagas.definitions.signals(), made.sagas, made.consumer.handlers, database)
    heard = {handler.consumer for handler in made.consumer.handlers}
    for handler in app.consumer.handlers:
        if handler.consumer in heard:
            continue
        name = handler.consumer.removeprefix(f"{app.name}.")
        made.consumer.handlers.add(handler.event, handler.call, name=name, options=handler.options)
    return made
