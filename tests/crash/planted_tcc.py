"""Bugs that people do write in TCC, each put into a process of the explorer to see that it is found."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from rig.planting import instead_of
from txpatterns.tcc.claims import Branch
from txpatterns.tcc.conclusion import Conclusion
from txpatterns.tcc.parts import Part
from txpatterns.tcc.schema import Operation, State, Status
from txpatterns.tcc.store import Marked
from txpatterns.tcc.transaction import TccTransaction
from txpatterns.testing.explorer import Surroundings

_PATCH = pytest.MonkeyPatch()
"""Nobody undoes it: a process of the explorer ends with its bug."""


def notes_behind_the_commit(_: Surroundings) -> None:
    """That a branch is done is written when its participant has committed, and not with it."""
    done, put_off = Conclusion._done, list[Any]()
    instead_of(_PATCH, Conclusion, Conclusion._opening)(lambda self, group, connection: _begins(self))
    instead_of(_PATCH, Conclusion, Conclusion._mark)(lambda self, group, connection, *, moves=False: True)
    instead_of(_PATCH, Conclusion, Conclusion._stands)(lambda self, group, connection: True)
    settle = Conclusion._together

    @instead_of(_PATCH, Conclusion, settle)
    async def behind(self: Conclusion, group: list[Part]) -> None:
        if self.held.status == Status.TRYING:
            await self._decide()
        await settle(self, group)
        for part in put_off:
            state = State.CONFIRMED if part.asked.operation == Operation.CONFIRM else State.CANCELLED
            marked, store = Marked(part.asked.branch, state), self._tools.store
            await self._transact(partial(store.mark, held=self.held, marked=marked))
        put_off.clear()

    @instead_of(_PATCH, Conclusion, done)
    def without_an_end(self: Conclusion, group: list[Part]) -> None:
        put_off.extend(group)
        done(self, group)
        self.held = replace(self.held, status=self._to)


def _begins(conclusion: Conclusion) -> bool:
    conclusion._at = 0
    return True


def forgets_what_is_in_doubt(_: Surroundings) -> None:
    """What was asked outside, and has not answered, is taken for not made."""
    real = Branch.asked

    @instead_of(_PATCH, Branch, real)
    def hopeful(self: Branch, status: Status) -> Operation | None:
        return None if self.state == State.TRYING else real(self, status)


def takes_a_lost_answer_for_a_no(_: Surroundings) -> None:
    """Whoever runs a transaction does not ask what became of it."""

    @instead_of(_PATCH, TccTransaction, TccTransaction._read_status)
    async def hopeless(self: TccTransaction) -> Status:
        return Status.CANCELLED
