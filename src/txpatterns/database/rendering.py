"""Statements of ours that run very often, in their driver's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult, Dialect

from txpatterns.database.database import Database

_OPTIONS = {"preserve_rowcount": True}  # psycopg forgets it otherwise


class Rendered:
    """A statement, rendered once for a dialect and a schema. Values go to the driver, and rows come, as they are.

    SQLAlchemy keeps what it has compiled, too, but to find it again costs more than a short statement takes.
    """

    def __init__(self, statement: sa.ClauseElement, dialect: Dialect, schema: str | None) -> None:
        translated: dict[str, Any] = {}
        if schema is not None:
            translated = {"schema_translate_map": {None: schema}, "render_schema_translate": True}
        compiled: Any = statement.compile(dialect=dialect, **translated)
        self.text = str(compiled)
        self._values: dict[str, Any] = dict(compiled.params)
        self._order: list[str] | None = compiled.positiontup

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Run it with these values for its parameters, and as it was built for the others; gives the row count."""
        result = self.run(connection, values)
        result.close()
        return result.rowcount

    def column(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """Do the same; gives the first column of what it returns."""
        return list(self.run(connection, values).scalars())

    def run(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Do the same; gives what the driver gave."""
        named = {**self._values, **values}
        given = named if self._order is None else tuple(named[name] for name in self._order)
        return connection.exec_driver_sql(self.text, given, _OPTIONS)


class Frequent:
    """A statement on our tables that runs very often in transactions of anybody's."""

    def __init__(self, database: Database, statement: sa.ClauseElement) -> None:
        self._database = database
        self._statement = statement
        self._rendered: dict[tuple[Dialect, str | None], Rendered] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        """Run it with these values for its parameters."""
        kind = connection.dialect, self._database.home.schema_beside(connection)
        rendered = self._rendered.get(kind)
        if rendered is None:
            rendered = self._rendered[kind] = Rendered(self._statement, *kind)
        return rendered.run(connection, values)
