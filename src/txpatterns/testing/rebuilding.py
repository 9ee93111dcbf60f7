"""An App once more, on another database and broker: the same handlers, events, policies and settings."""

from __future__ import annotations

from txpatterns.app import App
from txpatterns.database import Database
from txpatterns.hooks import Hooks
from txpatterns.transport import Broker


def rebuilt(app: App, database: Database, broker: Broker, *hooks: Hooks) -> App:
    """Make an App like another one. The tables of its metadata are made by whoever owns the database."""
    listeners = [*app.hooks.listeners, *hooks]
    made = App(app.name, database, broker, policies=app.policies, settings=app.settings, hooks=listeners)
    made.metadata = app.metadata
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
