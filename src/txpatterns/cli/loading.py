"""Finding what a command works on: an App by ``MODULE:NAME``, or a database by its URL."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from txpatterns.app import App
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError
from txpatterns.settings import DATABASE_URL

AppArgument = Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the App is, for example orders:app.")]
AppOption = Annotated[
    str | None, typer.Option("--app", envvar="TXP_APP", metavar="MODULE:APP", help="Where the App is.")
]
DatabaseOption = Annotated[
    str | None, typer.Option("--database", envvar=DATABASE_URL, metavar="URL", help="The database, if there is no App.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_app(place: str) -> App:
    """Import the App, with the current directory importable as it is for a script.

    Raises:
        ConfigurationError: there is no such module or App; what the module itself raises is raised as it is.
    """
    module_name, _, attribute = place.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"{place!r} is not MODULE:APP.", fix="For example: txp run orders:app")
    here = os.getcwd()  # noqa: PTH109 - a plain text for sys.path
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        fix = f"Run it where {module_name.split('.')[0]} can be imported; now that is {here}."
        raise ConfigurationError(f"There is no module {module_name!r}.", fix=fix) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if callable(found) and not isinstance(found, App):
        found = found()
    if not isinstance(found, App):
        raise ConfigurationError(
            f"{place} is no App but {type(found).__name__}.", fix="Name an App, or what makes one."
        )
    return found


@asynccontextmanager
async def open_database(app: str | None, url: str | None) -> AsyncIterator[Database]:
    """Give the database of the App, or the one that is named; closed afterwards.

    Raises:
        ConfigurationError: neither is given.
    """
    if app is not None:
        database = load_app(app).database
    elif url is not None:
        database = Database(url)
    else:
        raise ConfigurationError(
            "Which database?", fix=f"Give --app MODULE:APP, --database URL, or set {DATABASE_URL}."
        )
    async with database:
        yield database
