"""Errors of handlers and their transactions, and what a handler may raise to steer its delivery."""

from __future__ import annotations

from datetime import timedelta

from txpatterns.errors.base import TxPatternsError


class LeaseLost(TxPatternsError):
    """Another process has taken over what this one owned."""

    code = "TXP-1400"
    fix = "Nothing to do: the new owner goes on. Frequent takeovers mean pauses longer than the lease."


class IdReused(TxPatternsError):
    """A message with this id, but with other content, was handled before."""

    code = "TXP-1401"
    fix = "Give each message an id of its own; a repeat must be the same byte for byte."


class TransactionEnded(TxPatternsError):
    """The code ended its transaction by itself, so its effect is not one with the record that it has run."""

    code = "TXP-1402"
    fix = "Leave commit and rollback to the library; what may fail by itself belongs in tx.session.begin_nested()."


class SessionOver(TxPatternsError):
    """This session's transaction is being committed, and takes nothing more: it would be lost."""

    code = "TXP-1403"
    fix = "Await what a handler or a request starts before it ends, or give it a session of its own: app.session()."


class HandlerTimeout(TxPatternsError):
    """The handler did not end within its time limit: it was cancelled, or its transaction was ended."""

    code = "TXP-1404"
    fix = "Give what it waits for a shorter time-out, or the handler more time: on(Event, timeout=...)."


class LetterKept(TxPatternsError):
    """The dead letter stays as it is."""

    code = "TXP-1405"
    fix = "Look at it: txp dlq show ID"


class HandlerSignal(TxPatternsError):
    """A handler's wish for its delivery."""

    code = "TXP-1500"

    def __str__(self) -> str:
        """Only what the handler said: a dead letter shows it, and there is nothing to mend."""
        return self.message


class Retry(HandlerSignal):
    """The handler asks for another attempt later."""

    code = "TXP-1501"

    def __init__(self, message: str | None = None, *, after: timedelta | None = None) -> None:
        super().__init__(message)
        self.after = after


class Reject(HandlerSignal):
    """The handler asks to make the message a dead letter now."""

    code = "TXP-1502"

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.args = (reason,)  # what makes it again, in a journal or a copy
        self.reason = reason
