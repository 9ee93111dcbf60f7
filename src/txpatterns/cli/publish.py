"""``txp publish``: one message, through the outbox like any other."""

from __future__ import annotations

import asyncio
import difflib
import json as json_module
import sys
import types
from typing import Annotated, Any

import typer
from pydantic import ConfigDict, ValidationError

from txpatterns.app import App
from txpatterns.cli.loading import load_app, reaching
from txpatterns.cli.output import DIFFERENT, examples
from txpatterns.errors import PayloadInvalid, UnknownType
from txpatterns.messages import Event, describe
from txpatterns.serialization.exact_json import event_of

AppOption = Annotated[str, typer.Option("--app", envvar="TXP_APP", metavar="MODULE:APP", help="Where the App is.")]
FieldsOption = Annotated[str, typer.Option("--json", metavar="JSON", help="The event's fields.")]
KeyOption = Annotated[
    str | None, typer.Option("--key", help="The ordering key, for a type that the App does not know.")
]
UnknownOption = Annotated[
    bool, typer.Option("--unknown", help="Do not ask whether a type that the App does not know is meant.")
]
TopicArgument = Annotated[str, typer.Argument(metavar="TOPIC")]
TypeArgument = Annotated[str, typer.Argument(metavar="TYPE")]

EXAMPLES = examples(
    """txp publish order-events order.placed --json '{"order_id": "7", "total": "19.90"}' --app orders:app""",
    """txp publish audit note.taken --json '{"text": "by hand"}' --key 7 --unknown --app orders:app""",
)


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("publish", epilog=EXAMPLES)(publish)


def publish(
    topic: TopicArgument,
    type_: TypeArgument,
    fields: FieldsOption,
    app: AppOption,
    key: KeyOption = None,
    unknown: UnknownOption = False,
) -> None:
    """Add one message to the outbox, in a transaction, and print its id.

    The fields are checked when the App knows the type; for another type you are asked, or say --unknown. It is sent
    by the relay, not by this command.
    """
    loaded = load_app(app)
    if not unknown and not loaded.registry.knows(type_) and not _is_meant(type_, loaded.registry.types):
        typer.echo("nothing was published", err=True)
        raise typer.Exit(DIFFERENT)
    event = make_event(loaded, topic, type_, fields, key)
    typer.echo(asyncio.run(_add(loaded, event)))


def _is_meant(type_: str, known: list[str]) -> bool:
    """Ask whether an unknown type is meant.

    Raises:
        UnknownType: there is nobody to ask.
    """
    near = difflib.get_close_matches(type_, known, n=3)
    said = f"The App knows no type {type_!r}; " + (
        f"near it are {', '.join(near)}." if near else f"it knows {', '.join(known) or 'none'}."
    )
    if not sys.stdin.isatty():
        raise UnknownType(said, fix="Correct the type; if another App is to read it, say --unknown.")
    return typer.confirm(f"{said} Publish it all the same, unchecked?", err=True)


def make_event(app: App, topic: str, type_: str, fields: str, key: str | None) -> Event:
    """Make the event of a known type, or one of no class for a type that the App does not know.

    Raises:
        PayloadInvalid: the text is no JSON object, or its fields do not fit the type.
    """
    try:
        given: Any = json_module.loads(fields)
    except ValueError as error:
        raise PayloadInvalid(f"--json is no JSON: {error}.", fix="""Quote it: --json '{"order_id": "7"}'""") from error
    if not isinstance(given, dict):
        raise PayloadInvalid("--json must be an object.", fix="""For example: --json '{"order_id": "7"}'""")
    if not app.registry.knows(type_):
        return _unknown(topic, type_, given, key)
    known = app.registry.find(type_, topic)
    if known is None or describe(known).topic != topic:
        topics = " or ".join(map(repr, app.registry.topics_of(type_)))
        raise PayloadInvalid(f"{type_} goes to {topics}, not to {topic!r}.", fix="Name that topic.")
    if key is not None:
        raise PayloadInvalid(f"The key of {type_} is its field {describe(known).key!r}.", fix="Leave --key out.")
    try:
        return event_of(known, given)
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'event'}: {e['msg']}" for e in error.errors())
        raise PayloadInvalid(f"The fields do not fit {known.__name__}: {said}.", fix="Correct them.") from error


class _Loose(Event):
    """An event of any fields."""

    model_config = ConfigDict(extra="allow")


def _unknown(topic: str, type_: str, fields: dict[str, Any], key: str | None) -> Event:
    options = {"topic": topic, "type": type_}
    members: dict[str, Any] = {"__module__": __name__}
    if key is not None:
        options["key"], members["ordering_key"] = "ordering_key", property(lambda _event: key)
    made: type[_Loose] = types.new_class("Unknown", (_Loose,), options, lambda namespace: namespace.update(members))
    return made.model_validate(fields)


async def _add(app: App, event: Event) -> str:
    with reaching(app.database):
        async with app:
            return await app.database.transact(lambda connection: app.outbox.add(connection, event))
