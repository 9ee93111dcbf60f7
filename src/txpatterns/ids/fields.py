"""Ids in tables and in JSON: never out of range, never a number that a browser rounds."""

from __future__ import annotations

from typing import Annotated

import sqlalchemy as sa
from pydantic import Field, PlainSerializer
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from txpatterns.ids.layout import LAST_ID, checked

Id = Annotated[int, Field(strict=False, ge=0, le=LAST_ID), PlainSerializer(str, return_type=str, when_used="json")]
"""An id as a field of an event or of another pydantic model: in JSON it is a string, which is taken back as well."""


class IdType(TypeDecorator[int]):
    """The type of a column of ids: BIGINT, and what is no id is refused when it is bound.

    ``mapped_column(IdType, primary_key=True, autoincrement=False, default=app.ids.next_id)`` makes one for each new
    row.
    """

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        return None if value is None else checked(value)
