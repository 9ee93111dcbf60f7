"""What an engine connects with, and the same for another driver or another address.

Settings of a connection are in the URL, in ``connect_args`` and with ``do_connect`` listeners, which for example add a
token that changes every hour. An engine that is made of the URL alone is another one: it may reach the server without
the TLS that was asked for.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from ssl import SSLContext
from typing import Any

from sqlalchemy.engine import Dialect, Engine

from txpatterns.errors import ConfigurationError

Arguments = tuple[list[Any], dict[str, Any]]

_GIVE = "Make one with the driver psycopg and give both: Database(engine, sync_engine=create_engine(...))."
_OF_ASYNCPG_ALONE = frozenset(
    (
        "connection_class",
        "loop",
        "max_cacheable_statement_size",
        "max_cached_statement_lifetime",
        "prepared_statement_cache_size",
        "prepared_statement_name_func",
        "record_class",
        "server_settings",  # read apart from the others
        "statement_cache_size",
    )
)
"""What concerns the Python side of asyncpg."""
_SAME_NAME = frozenset(
    ("gsslib", "host", "krbsrvname", "passfile", "password", "port", "service", "target_session_attrs", "user")
)


def arguments_of(engine: Engine, beside: Dialect | None = None) -> Arguments:
    """Give what this engine's next connection would be made with, its ``do_connect`` listeners' part included.

    ``beside`` has the listeners that are called anyway.

    Raises:
        ConfigurationError: its connections are made by a function of the application's own.
    """
    args, kwargs = _given(engine)
    known = set() if beside is None else set(beside.dispatch.do_connect)
    for listener in engine.dialect.dispatch.do_connect:
        if listener not in known and listener(engine.dialect, None, args, kwargs) is not None:
            raise _cannot("a do_connect listener opens its connections")
    return args, kwargs


def _given(engine: Engine) -> Arguments:
    creator: Any = engine.pool._creator  # noqa: SLF001 - nothing else has the arguments in the end
    closed_over: dict[str, Any] = {}
    if getattr(creator, "__module__", "") == "sqlalchemy.engine.create":
        closed_over = dict(inspect.getclosurevars(creator).nonlocals)
    args = closed_over.get("cargs_tup", closed_over.get("cargs"))  # the second is the name before SQLAlchemy 2.1
    if args is None or "cparams" not in closed_over or "async_creator_fn" in closed_over["cparams"]:
        raise _cannot("a function of yours opens its connections")
    return list(args), dict(closed_over["cparams"])


def _cannot(why: str) -> ConfigurationError:
    return ConfigurationError(f"The library cannot make a second engine like this one: {why}.", fix=_GIVE)


def translation(driver: str, *, is_pooled: bool) -> Callable[[Arguments, Dialect], Arguments]:
    """Give what makes the arguments of an asynchronous driver those of its plain counterpart.

    It raises ConfigurationError for what the other driver has no word for. ``is_pooled``: behind a pooler, which
    gives each transaction another server connection, nothing may be prepared.
    """

    def translate(given: Arguments, dialect: Dialect) -> Arguments:
        args, kwargs = given
        if driver == "asyncpg":
            if args:
                raise _cannot("it was given a DSN")
            return [], _psycopg_of_asyncpg(kwargs, is_pooled=is_pooled)
        if driver in ("psycopg", "psycopg_async"):
            return args, _plain_psycopg(kwargs, dialect.loaded_dbapi, is_pooled=is_pooled)
        return args, {name: value for name, value in kwargs.items() if name not in ("iter_chunk_size", "loop")}

    return translate


def _psycopg_of_asyncpg(given: Mapping[str, Any], *, is_pooled: bool) -> dict[str, Any]:
    made: dict[str, Any] = {}
    settings = dict(given.get("server_settings") or {})
    is_pooled = is_pooled or _is_for_a_pooler(given)
    if is_pooled:
        made["prepare_threshold"] = None
    for name, value in given.items():
        if value is None or name in _OF_ASYNCPG_ALONE:
            continue
        if name == "command_timeout":
            if not is_pooled:  # which takes no options for its servers
                settings.setdefault("statement_timeout", str(math.ceil(float(value) * 1000)))
        elif name in _SAME_NAME:
            made[name] = _one(name, value)
        elif name in _OTHER_NAME:
            made.update(_OTHER_NAME[name](value))
        else:
            raise _cannot(f"psycopg has nothing like the argument {name}")
    if "application_name" in settings:
        made["application_name"] = settings.pop("application_name")
    if settings:
        made["options"] = " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())
    return made


def _is_for_a_pooler(given: Mapping[str, Any]) -> bool:
    caches = (given.get("statement_cache_size"), given.get("prepared_statement_cache_size"))
    is_named = "prepared_statement_name_func" in given or "connection_class" in given
    return is_named or any(size is not None and int(size) == 0 for size in caches)


def _one(name: str, value: Any) -> Any:
    if name == "password" and callable(value):
        value = value()
        if inspect.iscoroutine(value):
            value.close()
            raise _cannot("its password comes from a coroutine")
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def _escaped(value: str) -> str:
    return "".join(f"\\{letter}" if letter == "\\" or letter.isspace() else letter for letter in value)


def _tls(value: Any) -> dict[str, str]:
    if isinstance(value, SSLContext):
        raise _cannot("TLS was asked for by an SSLContext, which psycopg does not take")
    if value is True:  # to asyncpg: the certificates that the system trusts, and the right name
        return {"sslmode": "verify-full", "sslrootcert": "system"}
    return {"sslmode": "disable" if value is False else str(getattr(value, "name", value)).replace("_", "-")}


_OTHER_NAME: dict[str, Callable[[Any], dict[str, Any]]] = {
    "database": lambda value: {"dbname": value},
    "direct_tls": lambda value: {"sslnegotiation": "direct"} if value else {},
    "ssl": _tls,
    "timeout": lambda value: {"connect_timeout": max(2, math.ceil(float(value)))},
}


def _plain_psycopg(given: Mapping[str, Any], driver: Any, *, is_pooled: bool) -> dict[str, Any]:
    made = dict(given)
    if is_pooled:
        made.setdefault("prepare_threshold", None)
    cursors = made.get("cursor_factory")
    if cursors is not None:
        made["cursor_factory"] = getattr(driver, cursors.__name__.removeprefix("Async"), None)
        if made["cursor_factory"] is None:
            raise _cannot(f"{cursors.__name__} is a class of cursors for asynchronous connections")
    if "row_factory" in made or "connection_class" in made:
        raise _cannot("its rows or connections are of a class of yours")
    return made
