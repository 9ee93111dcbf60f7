"""Errors of ids."""

from __future__ import annotations

from txpatterns.errors.base import TxPatternsError


class IdsError(TxPatternsError):
    """Something about ids failed."""

    code = "TXP-1700"


class IdsUnavailable(IdsError):
    """No id can be made now that is certain to be the only one."""

    code = "TXP-1701"
    fix = "Try again in a second; the text says what is waited for. For ids at any time, use a chain of sources."


class ClockWrong(IdsError):
    """The clock of this machine is not that of the store of worker numbers."""

    code = "TXP-1702"
    fix = "Set the clock (NTP). Nothing else is needed: the number is renewed as soon as both agree within a second."


class WorkersExhausted(IdsError):
    """All worker numbers are taken."""

    code = "TXP-1703"
    fix = "One process needs one generator; `txp ids workers` shows who has the numbers."


class IdInvalid(IdsError, ValueError):
    """This is no id of ours."""

    code = "TXP-1704"
    fix = "An id is a whole number from 0 to 9223372036854775807."


class CodesExhausted(IdsError):
    """No code of this pool is free."""

    code = "TXP-1705"
    fix = "Give codes back when they are no longer used, make the pool larger, or let them rest for a shorter time."


class CodeNotHeld(IdsError):
    """This holder does not have this code, so nothing was given back."""

    code = "TXP-1706"
    fix = "Name the holder that took it; a code that was given back may be another's by now."
