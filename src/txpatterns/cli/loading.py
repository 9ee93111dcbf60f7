"""Finding what a command works on: an App by ``MODULE:NAME``, or a database by its URL."""

from __future__ import annotations

import importlib
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from sqlalchemy.exc import InterfaceError, OperationalError

from txpatterns.app import App
from txpatterns.cli.importing import users_code
from txpatterns.cli.output import of_driver
from txpatterns.database import Database
from txpatterns.database.dialects import is_of_database, sqlstate
from txpatterns.database.engines import read_url
from txpatterns.database.identity import read_uid
from txpatterns.errors import ConfigurationError, SchemaError
from txpatterns.settings import DATABASE_URL, AppSettings
from txpatterns.text import masked

APP = "TXP_APP"
"""The variable that names the App."""

AppArgument = Annotated[str, typer.Argument(metavar="MODULE:APP", help="Where the App is, for example orders:app.")]
AppOption = Annotated[str | None, typer.Option("--app", envvar=APP, metavar="MODULE:APP", help="Where the App is.")]
DatabaseOption = Annotated[
    str | None, typer.Option("--database", envvar=DATABASE_URL, metavar="URL", help="The database, if there is no App.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_CLOSED = ("08", "28", "3D", "53", "57")
"""PostgreSQL's classes of errors for: no connection, no right to it, no such database, no room, and shutting down."""
_NO_DATABASE = ("SQLITE_NOTADB", "SQLITE_CORRUPT")
_UPGRADE = "txp db upgrade"


def load_app(place: str) -> App:
    """Import the App, with the current directory importable as it is for a script.

    One that a function makes is made once: what a command asks of it and of its database is then of the same App.

    Raises:
        ConfigurationError: there is no such module or App, or the user's code fails; its frames are in a note.
    """
    module_name, _, attribute = place.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"{place!r} is not MODULE:APP.", fix="For example: txp run orders:app")
    here = os.getcwd()  # noqa: PTH109 - a plain text for sys.path
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = _import(module_name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"There is no module {module_name!r}.", fix=_where_it_is(error.name or module_name, place, Path(here))
        ) from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if callable(found) and not isinstance(found, (App, type)):
        found = _made_by(found, place)
    if not isinstance(found, App):
        apps = [name for name, value in vars(importlib.import_module(module_name)).items() if isinstance(value, App)]
        there = f"{module_name} has " + (", ".join(f"{module_name}:{name}" for name in apps) or "none") + "."
        raise ConfigurationError(f"{place} is no App.", fix=f"Name an App, or a function that makes one; {there}")
    return found


_made: dict[int, tuple[Callable[[], object], object]] = {}
"""By the identity of each function that was called: itself, which keeps the identity its own, and what it made."""


def _made_by(function: Callable[[], object], place: str) -> object:
    if id(function) not in _made:
        with users_code(place):
            _made[id(function)] = (function, function())
    return _made[id(function)][1]


def _where_it_is(missing: str, place: str, folder: Path) -> str:
    """Say what to write instead of a module that is not there."""
    if ".py:" in place:
        return f"Name the module, not its file: {place.replace('.py:', ':').replace('/', '.')}"
    parent, dot, name = missing.rpartition(".")
    beside = folder.joinpath(*parent.split(".")).glob("*")
    near = get_close_matches(name, [file.stem for file in beside if file.is_dir() or file.suffix == ".py"], n=1)
    meant = f" Did you mean {place.replace(missing, f'{parent}{dot}{near[0]}', 1)}?" if near else ""
    return f"Run it where {missing} can be imported; now that is {folder}.{meant}"


def _import(module_name: str) -> object:
    """Import a module. Raises ModuleNotFoundError where it is itself that is not there, and not what it imports."""
    missing: ModuleNotFoundError | None = None
    with users_code(module_name):
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            missing = error
    raise missing


@contextmanager
def reaching(database: Database) -> Iterator[None]:
    """Say which database it is that cannot be reached.

    Raises:
        ConfigurationError: it is away, or lets nobody in; without its password.
    """
    try:
        yield
    except Exception as error:
        if not is_of_database(error):
            raise
        cause = of_driver(error)
        away = isinstance(error, (OSError, OperationalError, InterfaceError)) or sqlstate(error).startswith(_CLOSED)
        if not away and getattr(cause, "sqlite_errorname", None) not in _NO_DATABASE:
            raise
        said = " ".join(str(cause).split()) or type(cause).__name__
        fix = "Check its address, and that it runs. (txp config show says where the address comes from.)"
        raise ConfigurationError(f"{database.shown_url} cannot be used: {said}.", fix=fix) from error


@asynccontextmanager
async def open_database(app: str | None, url: str | None, *, make: bool = False) -> AsyncIterator[Database]:
    """Give the database of the App, or the one that is named; closed afterwards. ``make``: a new file will do.

    Raises:
        ConfigurationError: neither is given, or it cannot be reached.
        SchemaError: the file or the tables are missing; its fix is the command that makes them, as it can be run.
    """
    if app is not None:
        database = load_app(app).database
    elif url is not None:
        database = Database(url, schema=AppSettings.from_environment().schema)
    else:
        raise ConfigurationError(
            "Which database?", fix=f"Give --app MODULE:APP, --database URL, or set {DATABASE_URL}."
        )
    async with database:
        with reaching(database), _naming(app, url):
            if not make:
                _refuse_absent(database)
            yield database


@asynccontextmanager
async def open_tables(app: str | None, url: str | None) -> AsyncIterator[Database]:
    """Open a database as ``open_database`` does, and make sure that our tables are there.

    Raises:
        ConfigurationError, SchemaError: see ``open_database``.
    """
    async with open_database(app, url) as opened:
        await opened.read(read_uid)  # says which command makes them
        yield opened


def place_of(app: str | None, url: str | None) -> tuple[str | None, str | None]:
    """Give the dialect of the database that the options lead to, and the schema where they say so. Asks nobody."""
    if app is not None:
        database = load_app(app).database
        return database.dialect, database.home.schema
    schema = AppSettings.from_environment().schema
    if url is None:
        return None, schema
    return read_url(url).get_backend_name(), schema


def as_named(app: str | None, url: str | None) -> str:
    """Give the option that leads a further command to the same database; none where the environment says it anyway."""
    if app is not None:
        return "" if app == os.environ.get(APP) else f" --app {shlex.quote(app)}"
    if url is not None and url != os.environ.get(DATABASE_URL):
        return f" --database {shlex.quote(masked(url))}"
    return ""


def _refuse_absent(database: Database) -> None:
    """Only looking at a SQLite file that is not there would make one."""
    file = database.engine.url.database
    if database.is_sqlite and file and not file.startswith((":", "file:")) and not Path(file).exists():
        raise SchemaError(f"There is no file {file}.", fix=f"Check its path. To make it, run: {_UPGRADE}")


@contextmanager
def _naming(app: str | None, url: str | None) -> Iterator[None]:
    """Name the database in the command that an error tells to run, as it was named to this one."""
    try:
        yield
    except SchemaError as error:
        raise SchemaError(error.message, fix=error.remedy.replace(_UPGRADE, _UPGRADE + as_named(app, url))) from error
