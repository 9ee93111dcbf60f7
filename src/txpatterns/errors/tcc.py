"""Errors of TCC: of transactions that are tried, and confirmed or cancelled."""

from __future__ import annotations

from txpatterns.errors.base import TxPatternsError
from txpatterns.errors.setup import ConfigurationError


class TccDefinitionError(ConfigurationError):
    """A participant, or a transaction, is not defined correctly."""

    code = "TXP-1901"
    fix = "A participant has three functions of the same arguments: what tries, @it.confirm and @it.cancel."


class TccError(TxPatternsError):
    """Something about a TCC transaction."""

    code = "TXP-1900"


class TccValueRefused(TccError):
    """A value cannot be kept with a branch."""

    code = "TXP-1902"
    fix = "Annotate it with what it is: a union of the classes that occur, tuples as tuple[...], or a pydantic model."


class TccCancelled(TccError):
    """The transaction is cancelled: it took longer than its timeout, or somebody has cancelled it."""

    code = "TXP-1903"
    fix = "Begin another one, with an id of its own; a longer timeout= holds what is reserved for longer."


class TccUndecided(TccError):
    """The database could not be reached, and whether the transaction is confirmed is not known."""

    code = "TXP-1904"
    fix = "Ask when the database is back: await app.tcc.status(id). What was not confirmed is cancelled at its timeout."


class TccOver(TccError):
    """The block of the transaction is left, or was never entered."""

    code = "TXP-1905"
    fix = "Await every try_ inside of `async with app.tcc.transaction(...) as tcc:`."


class TccKept(TccError):
    """The transaction stays as it is."""

    code = "TXP-1920"
    fix = "Look at it: txp tcc show ID"
