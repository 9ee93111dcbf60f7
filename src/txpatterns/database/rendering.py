"""Statements of ours that run very often, in their driver's own words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, CursorResult, Dialect

_OPTIONS = {"preserve_rowcount": True}  # psycopg forgets it otherwise


class Rendered:
    """A writing statement, rendered once for a dialect and a schema.

    SQLAlchemy keeps what it has compiled, too, but to find it again costs more than a short statement takes.
    """

    def __init__(self, statement: sa.Insert, dialect: Dialect, schema: str | None) -> None:
        translated: dict[str, Any] = {}
        if schema is not None:
            translated = {"schema_translate_map": {None: schema}, "render_schema_translate": True}
        compiled: Any = statement.compile(dialect=dialect, **translated)
        self.text = str(compiled)
        self._values: dict[str, Any] = dict(compiled.params)
        self._order: list[str] | None = compiled.positiontup

    def execute(self, connection: Connection, values: Mapping[str, Any]) -> int:
        """Run it with these values for its parameters, and as it was built for the others; gives the row count."""
        result = self._run(connection, values)
        result.close()
        return result.rowcount

    def column(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """Do the same; gives the first column of what it returns."""
        return list(self._run(connection, values).scalars())

    def _run(self, connection: Connection, values: Mapping[str, Any]) -> CursorResult[Any]:
        named = {**self._values, **values}
        given = named if self._order is None else tuple(named[name] for name in self._order)
        return connection.exec_driver_sql(self.text, given, _OPTIONS)
