"""Letting the run of a saga end in the middle of a step, as if its process had died there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial, wraps
from typing import Any

from txpatterns.errors import LeaseLost
from txpatterns.execution.calls import is_coroutine_function
from txpatterns.hooks import Hooks, on
from txpatterns.sagas import Call, SagaContext
from txpatterns.sagas.definitions import Definition, Definitions
from txpatterns.sagas.moments import StepDone
from txpatterns.sagas.values import name_of


@dataclass(frozen=True, slots=True)
class Death:
    """Where the run of a saga ends, once."""

    step: str
    is_before: bool
    """Before anything of the step is done; otherwise right behind its effect."""
    undoing: bool
    saga_id: str | None = None
    """None: of whichever saga comes there first."""

    def __str__(self) -> str:
        step = f"the compensation of {self.step}" if self.undoing else self.step
        return f"a crash {'before' if self.is_before else 'after'} {step}"


class Deaths(Hooks):
    """The deaths that are to come. A step is rolled back by one, and a call is in doubt after it."""

    def __init__(self) -> None:
        self.to_come: list[Death] = []
        self._happened = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def begin(self) -> asyncio.Event:
        """Begin to watch, in the event loop that runs now; gives what is set when one has happened."""
        self._happened = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        return self._happened

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Give a saga's code with its steps and calls watched."""

        def code(saga: SagaContext, *arguments: object) -> Any:
            # Of this one object, so that neither its class nor any other saga is another than it was.
            vars(saga).update(step=partial(self._ask, saga, saga.step), call=partial(self._ask, saga, saga.call))
            return function(saga, *arguments)

        return code

    @on(StepDone)
    def behind_a_commit(self, done: StepDone) -> None:
        """A step is committed: its task ends before anything else is done."""
        task = asyncio.current_task()
        if task is not None and self._take(done.step, done.saga_id, is_before=False, undoing=done.undoing):
            task.cancel()

    def _ask(self, saga: SagaContext, real: Any, action: Any, *arguments: Any, **options: Any) -> Any:
        name = options.get("name") or name_of(action)
        if any(death.step == name for death in self.to_come):
            options["name"] = name
            action = self._deadly(action, name, saga.id, undoing=False)
            if options.get("compensate") is not None:
                options["compensate"] = self._deadly(options["compensate"], name, saga.id, undoing=True)
        return real(action, *arguments, **options)

    def _deadly(self, action: Callable[..., Any], name: str, saga_id: str, *, undoing: bool) -> Callable[..., Any]:
        take = partial(self._take, name, saga_id, undoing=undoing)

        @wraps(action)
        async def awaited(first: Any, *arguments: Any) -> Any:
            if take(is_before=True):
                await _die(first)
            value = await action(first, *arguments)
            if isinstance(first, Call) and take(is_before=False):
                await _die(first)
            return value

        @wraps(action)
        def plain(first: Any, *arguments: Any) -> Any:
            if take(is_before=True):
                raise LeaseLost("its process died")
            return action(first, *arguments)

        return awaited if is_coroutine_function(action) else plain

    def _take(self, step: str, saga_id: str, *, is_before: bool, undoing: bool) -> bool:
        here = Death(step, is_before, undoing)
        found = next((death for death in (here, replace(here, saga_id=saga_id)) if death in self.to_come), None)
        if found is None or self._loop is None:
            return False
        self.to_come.remove(found)
        self._loop.call_soon_threadsafe(self._happened.set)
        return True


class MortalDefinitions(Definitions):
    """The sagas of an application, whose runs may die."""

    def __init__(self, app: str, deaths: Deaths) -> None:
        super().__init__(app)
        self._deaths = deaths

    def find(self, type_: str, version: int) -> Definition | None:
        """Give the function that runs a saga, watched."""
        found = super().find(type_, version)
        return found and replace(found, watched=self._deaths.watched(found.function))


async def unless(event: asyncio.Event, work: Coroutine[Any, Any, bool]) -> bool:
    """Do something until it says whether there is more to do, or until an event, and then there is not."""
    doing, waiting = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((doing, waiting), return_when=asyncio.FIRST_COMPLETED)
        return doing.done() and doing.result() and not event.is_set()
    finally:
        for task in (doing, waiting):
            task.cancel()
        await asyncio.gather(doing, waiting, return_exceptions=True)


async def _die(first: object) -> None:
    """End an attempt as the death of its process does: what a step wrote is rolled back, of a call nothing is told."""
    if not isinstance(first, Call):
        raise LeaseLost("its process died")
    task = asyncio.current_task()
    assert task is not None, "a call is made in a task"
    task.cancel()
    await asyncio.sleep(0)
