"""What becomes of each step, told as events, so that an order's page can draw the saga."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import SQLAlchemyError

from shop.events import StepTold
from txpatterns import App
from txpatterns.hooks import Hooks, on
from txpatterns.sagas.moments import StepDone, StepRaised, StepRuns

logger = logging.getLogger("shop.checkout")
MOST_WAITING = 1_000
AT_ONCE = 50


class StepNotes(Hooks):
    """Listens to the saga's engine. Notes are for the eye: one that cannot be kept is dropped."""

    def __init__(self) -> None:
        self._notes: asyncio.Queue[StepTold] = asyncio.Queue(MOST_WAITING)

    @on(StepRuns)
    @contextmanager
    def runs(self, span: StepRuns) -> Iterator[None]:
        """Note that an attempt begins."""
        self._note(span.saga_id, span.step, "begun", span.attempt, span.undoing)
        yield

    @on(StepDone)
    def done(self, moment: StepDone) -> None:
        """Note that it is done."""
        self._note(moment.saga_id, moment.step, "done", 0, moment.undoing)

    @on(StepRaised)
    def raised(self, moment: StepRaised) -> None:
        """Note that it failed: refused, or in doubt."""
        what = "refused" if moment.expected else "failed"
        error = f"{type(moment.error).__name__}: {moment.error}"[:400]
        self._note(moment.saga_id, moment.step, what, moment.attempt, moment.undoing, error)

    def _note(self, order_id: str, step: str, what: str, attempt: int, undoing: bool, error: str | None = None) -> None:
        if not self._notes.full():
            told = StepTold(order_id=order_id, step=step, what=what, attempt=attempt, undoing=undoing, error=error)
            self._notes.put_nowait(told)

    async def tell(self, app: App) -> None:
        """Send notes until cancelled: those that are there, in one transaction."""
        while True:
            notes = [await self._notes.get()]
            while len(notes) < AT_ONCE and not self._notes.empty():
                notes.append(self._notes.get_nowait())
            try:
                async with app.transaction() as session:
                    for note in notes:
                        app.outbox.add(session, note)
            except (SQLAlchemyError, OSError) as error:
                logger.warning("%s notes about steps could not be kept: %s", len(notes), error)
