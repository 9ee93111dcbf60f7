"""What settings have in common: a value out of range is refused where it is given, not found out where it is used."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from txpatterns.errors import ConfigurationError

INSTANT = timedelta(milliseconds=1)
"""The least duration that is more than nothing."""

LEAST_LEASE = timedelta(milliseconds=100)
"""A lease is renewed three times while it lasts, and each renewal is a statement on a server that may be busy."""


def check_at_least(least: int | timedelta, settings: object, *names: str) -> None:
    """Refuse settings below ``least``, or of another type than it has; None passes.

    Raises:
        ConfigurationError: names the setting, its value and the bound.
    """
    kind: type[Any] = type(least)
    needed = "a timedelta of" if kind is timedelta else "a whole number,"
    for name in names:
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, kind) or value < least):
            raise ConfigurationError(
                f"{name} is {value}, and must be {needed} at least {least}.",
                fix=f"Give {type(settings).__name__} another {name}, or leave it out.",
            )
