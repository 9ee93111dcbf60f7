"""Errors of sagas."""

from __future__ import annotations

from txpatterns.errors.base import TxPatternsError


class SagaError(TxPatternsError):
    """Something about a saga."""

    code = "TXP-1600"


class SagaDiverged(SagaError):
    """The saga's code does not ask for what its journal has."""

    code = "TXP-1601"
    fix = "Give the changed code a higher version, and let the old function serve the sagas that run: since=, version=."


class SagaValueRefused(SagaError):
    """A value cannot be kept in a saga's journal."""

    code = "TXP-1602"
    fix = "Annotate it with what it is: a union of the classes that occur, tuples as tuple[...], or a pydantic model."


class StepFailed(SagaError):
    """An operation of a saga has failed for good.

    ``type`` is the class of its error, as ``module:name``, and ``text`` what that said. ``unknown`` says that nobody
    knows whether it has had its effect.
    """

    code = "TXP-1603"
    fix = "Catch it to go another way; what is not caught undoes the saga."

    def __init__(self, type: str, text: str, *, unknown: bool = False) -> None:
        super().__init__(f"{type.rpartition(':')[2]}: {text}")
        self.type = type
        self.text = text
        self.unknown = unknown


class WaitTimedOut(SagaError):
    """What a saga waited for has not come in time."""

    code = "TXP-1606"
    fix = "Catch it to go another way; what is not caught undoes the saga."


class SagaFailed(SagaError):
    """A saga did not complete.

    ``status`` is what it is now, and ``failure`` why, as the journal tells it.
    """

    code = "TXP-1604"
    fix = "Read its journal: what failed is in it, and what was undone."

    def __init__(self, id: str, status: str, failure: str) -> None:
        super().__init__(f"{id} is {status}: {failure}")
        self.id = id
        self.status = status
        self.failure = failure


class UnknownSaga(SagaError):
    """There is no saga with this id."""

    code = "TXP-1610"
    fix = "Wait for the handle that start() gives, when its transaction is committed; ended ones go after `keep_ended`."


class NotCommitted(SagaError):
    """The transaction that starts the saga is not committed."""

    code = "TXP-1611"
    fix = "Wait for its result behind the block that commits it."


class SagaKept(SagaError):
    """The saga stays as it is."""

    code = "TXP-1620"
    fix = "Look at it: txp saga show ID"
