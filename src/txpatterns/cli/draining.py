"""How ``--drain`` ends: what was done, and what waits, until when and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import typer

from txpatterns.admin.depths import depths_of
from txpatterns.admin.inbox import list_inbox
from txpatterns.admin.outbox import list_outbox
from txpatterns.admin.queues import WORK
from txpatterns.admin.sagas import list_sagas
from txpatterns.admin.tcc import list_tcc
from txpatterns.app import App
from txpatterns.cli.loading import as_named
from txpatterns.cli.output import OK, WAITING, as_json, table, why
from txpatterns.cli.remains import dead_letter_lines
from txpatterns.deadletters.moments import Dead
from txpatterns.hooks import Hooks, on
from txpatterns.inbox.moments import DuplicatePrevented, Handled, HandlerFailed
from txpatterns.outbox.moments import Published, PublishFailed
from txpatterns.runtime.moments import Depths
from txpatterns.sagas.moments import SagaEnded, StepRaised
from txpatterns.tcc.moments import BranchRaised, TccEnded

_SHOWN = 20
_COUNTS = ("published", "handled", "repeats", "sagas_ended", "tcc_ended", "failed", "given_up")


class Tally(Hooks):
    """Counts what one run has done."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    @on(Published)
    def published(self, published: Published) -> None:
        self.counts["published"] += len(published.messages)

    @on(Handled)
    def handled(self, _: Handled) -> None:
        self.counts["handled"] += 1

    @on(DuplicatePrevented)
    def prevented(self, _: DuplicatePrevented) -> None:
        self.counts["repeats"] += 1

    @on(PublishFailed)
    def publish_failed(self, _: PublishFailed) -> None:
        self.counts["failed"] += 1

    @on(HandlerFailed)
    def handler_failed(self, _: HandlerFailed) -> None:
        self.counts["failed"] += 1

    @on(SagaEnded)
    def saga_ended(self, _: SagaEnded) -> None:
        self.counts["sagas_ended"] += 1

    @on(StepRaised)
    def step_raised(self, raised: StepRaised) -> None:
        self.counts["failed"] += not raised.expected

    @on(TccEnded)
    def tcc_ended(self, _: TccEnded) -> None:
        self.counts["tcc_ended"] += 1

    @on(BranchRaised)
    def branch_raised(self, _: BranchRaised) -> None:
        self.counts["failed"] += 1

    @on(Dead)
    def given_up(self, _: Dead) -> None:
        self.counts["given_up"] += 1


@dataclass(frozen=True, slots=True)
class Left:
    """One message or saga that waits: where, until when, and why."""

    where: str
    state: str
    type: str
    key: str | None
    message_id: str
    until: datetime | None
    why: str | None


async def tell(app: App, place: str, tally: Tally, *, json: bool) -> int:
    """Print how a drain has ended; gives the exit code: 0 when nothing waits and nothing was given up."""
    depths = await depths_of(app.database)
    left = await _left(app)
    counts = {name: tally.counts[name] for name in _COUNTS}
    waits = sum(getattr(depths, queue.figure) for queue in WORK)
    if json:
        typer.echo(as_json({"drained": counts, "waits": waits, "waiting": left, "dead_letters": depths.dead}))
    else:
        typer.echo("\n".join(_lines(counts, waits, left, depths, as_named(place, None))))
    return WAITING if waits or counts["given_up"] else OK


async def _left(app: App) -> list[Left]:
    sending = await app.database.read(partial(list_outbox, limit=_SHOWN))
    handling = await app.database.read(partial(list_inbox, limit=_SHOWN))
    found = [Left("outbox", e.state, e.type, e.key, e.id, e.due_at, why(e.error)) for e in sending]
    found += [Left(e.consumer, e.state, e.type, e.key, e.message_id, e.due_at, why(e.error)) for e in handling]
    if app.sagas.definitions:
        sagas = await app.database.read(partial(list_sagas, database=app.database, limit=_SHOWN))
        found += [Left("sagas", e.status, e.type, None, e.id, e.due_at, why(e.attention or e.error)) for e in sagas]
    if app.tcc.participants:
        open_ones = await app.database.read(partial(list_tcc, database=app.database, limit=_SHOWN))
        found += [Left("tcc", e.status, e.app, None, e.id, e.due_at, why(e.attention)) for e in open_ones]
    return found[:_SHOWN]


def _lines(counts: dict[str, int], waits: int, left: list[Left], depths: Depths, where: str) -> list[str]:
    words = {"sagas_ended": "saga ended" if counts["sagas_ended"] == 1 else "sagas ended", "tcc_ended": "TCC ended"}
    done = [f"{number} {words.get(name, name.replace('_', ' '))}" for name, number in counts.items() if number]
    lines = ["done: " + (", ".join(done) or "nothing was due")]
    if waits:
        names = ("where", "state", "type", "key", "message_id", "until", "why")
        lines += [f"{waits} waits:" if waits == 1 else f"{waits} wait:"]
        lines += table([{name: getattr(entry, name) for name in names} for entry in left])
        lines += ["..."] if waits > len(left) else []
    return [*lines, *dead_letter_lines(depths.dead, where)]
