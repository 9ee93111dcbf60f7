"""What a saga's code makes final: from a pivot on it only goes forward, and so it does when it confirms."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

from txpatterns.errors import SagaDefinitionError
from txpatterns.sagas.definitions import Options
from txpatterns.sagas.operations import Kind, Operation
from txpatterns.sagas.replay import Replay
from txpatterns.sagas.reserving import Reservations, Reserved
from txpatterns.sagas.transactions import Instance
from txpatterns.sagas.waiting import SagaWaits
from txpatterns.tcc.participants import Participant

P = ParamSpec("P")
R = TypeVar("R")


class SagaReserves(SagaWaits):
    """Reserving, and making final."""

    def __init__(self, replay: Replay, instance: Instance, options: Options) -> None:
        super().__init__(replay, options.signals)
        self._instance = instance
        self._options = options
        self._is_past_pivot = False

    @cached_property
    def _reservations(self) -> Reservations:
        return Reservations(self._replay, self._instance, self._options.retry, self._options.deadline)

    def reserve(self, participant: Participant[P, R], *args: P.args, **kwargs: P.kwargs) -> Operation[Reserved[R]]:
        """Ask a participant of ``app.tcc`` to reserve; its result is in ``.result`` of what this gives.

        A ``local`` participant reserves in a step's transaction: once. One outside is called as ``saga.call`` calls:
        its key is the same in each attempt. The reservation outlives the process. It is cancelled when the saga is
        undone, also where nobody knows whether the try was had; and confirmed by ``confirm``, or at the saga's end.

        Raises, when it is awaited:
            StepFailed: it was not reserved. Where ``errors=`` of the saga names Reject, a refusal is that.

        Raises:
            TccDefinitionError: the participant cannot confirm or cancel.
            TccValueRefused: an argument would not come back from JSON as it is.
            SagaDefinitionError: it comes after the pivot: it could not be cancelled.
        """
        self._refuse_behind_the_pivot(f"reserve {participant.name}", participant)
        return self._reservations.reserve(participant, participant.bound(args, kwargs))

    async def confirm(self, *reserved: Reserved[Any]) -> None:
        """Confirm reservations. It is a pivot: from here on the saga only goes forward.

        Those in this database are one commit. What fails is repeated until it succeeds, and a person is told. What is
        confirmed already is left alone; what is left over is confirmed when the code has returned.
        """
        if not self._is_past_pivot:
            self.pivot()
        for operation in self._reservations.confirming(reserved):
            await operation

    def pivot(self) -> None:
        """Say that from here on the saga only goes forward: nothing is undone any more, whatever fails."""
        self._replay.note(Kind.PIVOT, lambda: "null")
        self._is_past_pivot = True

    async def whole(self, code: Awaitable[R]) -> R:
        """Run the saga's code, and confirm what it has left over. Called by the engine."""
        result = await code
        if "_reservations" in self.__dict__ and self._reservations.left:
            await self.confirm(*self._reservations.left)
        return result

    def _refuse_behind_the_pivot(self, called: str, compensate: object) -> None:
        if compensate is not None and self._is_past_pivot:
            raise SagaDefinitionError(
                f"{called} has a compensation, but comes after the pivot: nothing is undone from there on.",
                fix="Leave compensate= out, or do it before saga.pivot().",
            )
