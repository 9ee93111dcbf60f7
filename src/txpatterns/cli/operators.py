"""Who an operator is, and why something is done: both are written down."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Protocol

import typer

from txpatterns.admin.audit import Deed
from txpatterns.cli.importing import aside
from txpatterns.cli.output import DIFFERENT, report
from txpatterns.errors import ConfigurationError, TxPatternsError
from txpatterns.text import one_line

AttentionOption = Annotated[bool, typer.Option("--attention", help="Only those that a person should look at.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most so many.")]
ValuesOption = Annotated[bool, typer.Option("--values", help="With what was given and came of it: personal data, too.")]
ReasonOption = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; it is written down.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID")]


def deed_of(reason: str | None) -> Deed:
    """Give who calls the command, and why."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        name = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
    return Deed(f"{name}@{socket.gethostname()}", reason)


def with_reason(reason: str | None, question: str) -> Deed:
    """Give who calls the command, and why.

    Raises:
        ConfigurationError: there is no reason.
    """
    if not reason or not reason.strip():
        raise ConfigurationError(question, fix="Give --reason TEXT: it is written down.")
    return deed_of(reason)


def named(app: str | None, knows: str) -> str:
    """Give the App's place.

    Raises:
        ConfigurationError: it is not given.
    """
    if app is None:
        raise ConfigurationError("Which App?", fix=f"Give --app MODULE:APP, or set TXP_APP: it knows {knows}.")
    return app


class Done(Protocol):
    """A deed of an operator, as it was written down."""

    @property
    def done_at(self) -> datetime:
        """When it was done."""

    @property
    def who(self) -> str:
        """Who did it."""

    @property
    def action(self) -> str:
        """What was done."""

    @property
    def reason(self) -> str:
        """Why."""

    @property
    def status(self) -> str:
        """Where that stood before to which it was done."""

    @property
    def attention(self) -> str | None:
        """What was told of it before."""


def deed_line(deed: Done, place: str | None) -> str:
    """Say in a line what an operator did, and to which part."""
    where = f" {place}" if place else ""
    before = f", when it was {deed.status}" + (f" ({one_line(deed.attention, 200)})" if deed.attention else "")
    return f"{deed.action}{where} by {deed.who} at {deed.done_at}{before}: {one_line(deed.reason)}"


@contextmanager
def kept_is_told(*errors: type[TxPatternsError]) -> Iterator[None]:
    """Tell of what stays as it is, with exit code 3."""
    try:
        with aside():
            yield
    except errors as error:
        report(error)
        raise typer.Exit(DIFFERENT) from error
