"""Who an operator is, and why something is done: both are written down."""

from __future__ import annotations

import getpass
import os
import socket

from txpatterns.admin.audit import Deed
from txpatterns.errors import ConfigurationError


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
