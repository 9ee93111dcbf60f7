"""Whether what was read back is what was sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any

from pydantic import BaseModel


def differing(sent: BaseModel, read: BaseModel) -> list[str]:
    """Give the names of the fields that are not the same in both; private attributes are fields here."""
    if type(sent) is not type(read):
        return ["its class"]
    try:
        if (
            sent.__dict__ == read.__dict__
            and sent.__pydantic_extra__ == read.__pydantic_extra__
            and sent.__pydantic_private__ == read.__pydantic_private__
        ):
            return []
    except Exception:  # noqa: BLE001 - of a value that cannot be compared as a whole; it is compared by itself
        return _differing(sent, read)
    return _differing(sent, read)


def _differing(sent: BaseModel, read: BaseModel) -> list[str]:
    ours, theirs = _parts(sent), _parts(read)
    names = [name for name in ours if name not in theirs or not alike(ours[name], theirs[name])]
    return names + [name for name in theirs if name not in ours]


def _parts(model: BaseModel) -> dict[str, Any]:
    """Give all that a model holds, but not what it has only computed and kept, which its class has a name for."""
    cls = type(model)
    known = {n: value for n, value in model.__dict__.items() if n in cls.model_fields or not hasattr(cls, n)}
    return known | (model.__pydantic_extra__ or {}) | (model.__pydantic_private__ or {})


def alike(sent: Any, read: Any) -> bool:
    try:
        equal = sent == read
        if bool(equal.all() if hasattr(equal, "all") else equal):  # arrays compare by their elements
            return True
    except Exception:  # noqa: BLE001 - whatever it raises, it does not say that they are equal
        return False
    match sent, read:
        case datetime(tzinfo=tzinfo()), datetime(tzinfo=tzinfo()):
            # Python holds an hour that comes twice in a year for equal to no instant of another zone.
            return _apart(sent, read) == timedelta(0)
        case Mapping(), Mapping():
            return sent.keys() == read.keys() and all(alike(value, read[key]) for key, value in sent.items())
        case (list(), list()) | (tuple(), tuple()) | (deque(), deque()):
            return len(sent) == len(read) and all(map(alike, sent, read))
        case BaseModel(), BaseModel():
            return type(sent) is type(read) and not _differing(sent, read)
    held, theirs = _held(sent), _held(read)
    return type(sent) is type(read) and bool(held) and alike(held, theirs)


def _apart(sent: datetime, read: datetime) -> timedelta:
    # Not by way of UTC, in which the first and last hours of some zones do not exist.
    offsets = (sent.utcoffset() or timedelta(0)) - (read.utcoffset() or timedelta(0))
    return sent.replace(tzinfo=None) - read.replace(tzinfo=None) - offsets


def _held(value: Any) -> dict[str, Any]:
    """Give what a value holds, where its class has no idea of equality, or one that asks each part."""
    if is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    equality: Any = type(value).__eq__
    return getattr(value, "__dict__", {}) if equality is object.__eq__ and not callable(value) else {}
