"""``txp topics``, ``txp consumers`` and ``txp queues``: how much waits, at the outbox, at handlers, at the broker."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import timedelta

import typer

from txpatterns.admin.topics import ConsumerFigures, TopicFigures, consumer_figures, topic_figures
from txpatterns.app import App
from txpatterns.cli.loading import AppArgument, AppOption, DatabaseOption, JsonOption, load_app, open_tables
from txpatterns.cli.output import examples, show, table
from txpatterns.errors import ConfigurationError
from txpatterns.messages import describe
from txpatterns.transport import Depth, Measures


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("topics", epilog=examples("txp topics --app orders:app", "txp topics --json"))(topics)
    app.command("consumers", epilog=examples("txp consumers --app orders:app", "txp consumers --json"))(consumers)
    app.command("queues", epilog=examples("txp queues orders:app", "txp queues orders:app --json"))(queues)


def readers_of(app: str | None) -> list[tuple[str, str]]:
    """Give the topics that an App's handlers read, each with the handler."""
    if app is None:
        return []
    return sorted({(describe(handler.event).topic, handler.consumer) for handler in load_app(app).consumer.handlers})


def topics(app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False) -> None:
    """Say for each topic what waits in the outbox to be published, and which handlers of the App read it."""

    async def work() -> list[TopicFigures]:
        async with open_tables(app, database) as opened:
            return await topic_figures(opened, readers_of(app))

    found = asyncio.run(work())
    rows = [
        {**asdict(each), "oldest": _seconds(each.oldest), "read_by": ", ".join(each.read_by) or None} for each in found
    ]
    show(found, table(rows) or ["no topic has anything to be published"], as_data=json)


def consumers(app: AppOption = None, database: DatabaseOption = None, json: JsonOption = False) -> None:
    """Say for each handler what waits to be tried again, what died, and how much was handled in the last hour."""

    async def work() -> list[ConsumerFigures]:
        async with open_tables(app, database) as opened:
            return await consumer_figures(opened, readers_of(app))

    found = asyncio.run(work())
    data = [{**asdict(each), "dead_rate": each.dead_rate} for each in found]
    rows = [
        {
            **each,
            "topics": ", ".join(each["topics"]) or None,
            "oldest": _seconds(each["oldest"]),
            "dead_rate": None if each["dead_rate"] is None else f"{each['dead_rate']:.2%}",
        }
        for each in data
    ]
    show(data, table(rows) or ["no handler has had anything to do"], as_data=json)


def queues(app: AppArgument, json: JsonOption = False) -> None:
    """Ask the broker how much waits for the App in each of its queues or partitions, and who reads there."""
    found = asyncio.run(_depths(load_app(app)))
    rows = [
        {**{name: value for name, value in asdict(each).items() if name != "group"}, "oldest": _seconds(each.oldest)}
        for each in found
    ]
    show(found, table(rows) or ["the App's handlers read nothing that is there"], as_data=json)


async def _depths(app: App) -> list[Depth]:
    broker = app.broker
    if not isinstance(broker, Measures):
        raise ConfigurationError(
            f"{app.broker_name} has no queues that another process could look at.", fix="See txp consumers instead."
        )
    async with broker:
        return list(await broker.depths(app.consumer.handlers.topics, app.name))


def _seconds(age: timedelta | None) -> str | None:
    return None if age is None else f"{age.total_seconds():.0f} s"
