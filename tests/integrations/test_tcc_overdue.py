"""What a transaction elsewhere has left reserved here: whoever runs it is asked, and nobody else decides."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI, Response

from integrations.test_fastapi import serving
from rig.ports import free_port
from tcc.support import Shop, opened
from txpatterns import Database
from txpatterns.errors import ConfigurationError, TccDefinitionError, TccError
from txpatterns.integrations.fastapi_tcc import tcc_decisions_router, tcc_router
from txpatterns.integrations.tcc_bodies import DECISION, TccTold, answer_to
from txpatterns.integrations.tcc_http import TccDecisions, TccRemote
from txpatterns.tcc import BranchCall, Status
from txpatterns.tcc.decisions import Decided
from txpatterns.tcc.schema import State, tcc_audit_table, tcc_barrier_table, tcc_branch_table, tcc_table
from txpatterns.tcc.signing import HEADER, signature, signed_by

SECRET, OLDER = "a secret of both sides", "the secret before that"
NONE, HELD, SOLD = (10, 0, 0), (8, 2, 0), (8, 0, 2)
RESERVATION = "shop/order-1/1"
DYING = Path(__file__).with_name("dying_overdue.py")


class Both:
    """A shop that runs transactions, and a warehouse that has reserved for one of them and hears nothing more."""

    def __init__(self, shop: Shop, warehouse: Shop, participant_url: str, decisions_url: str) -> None:
        self.shop, self.warehouse = shop, warehouse
        remote = TccRemote(participant_url, SECRET)

        @remote.participant(shop.app.tcc, "warehouse", there="stock")
        async def there(call: BranchCall, sku: str, quantity: int) -> str: ...

        self.there = there
        self.decisions_url = decisions_url
        self.decisions = TccDecisions(decisions_url, SECRET)
        warehouse.app.tcc.overdue.ask("shop", self.decisions)

    async def left(self, status: Status = Status.TRYING, state: State = State.TRIED) -> None:
        """Reserve, decide, and be gone before the warehouse hears of it; its time is over there."""
        tcc = self.shop.app.tcc.transaction("order-1")
        await tcc.__aenter__()
        assert await tcc.try_(self.there, "A", 2) == "hold A"
        await self.shop.set(status=status)
        await self.shop.app.database.execute(sa.update(tcc_branch_table).values(state=state))
        await self.overdue()

    async def overdue(self) -> None:
        await self.warehouse.app.database.execute(sa.update(tcc_barrier_table).values(ask_at=None))

    async def sweep(self) -> int:
        return await self.warehouse.app.tcc.overdue.sweep()

    async def asked_at(self) -> Any:
        query = sa.select(tcc_barrier_table.c.ask_at).where(tcc_barrier_table.c.operation == "try")
        return await self.warehouse.app.database.read(lambda connection: connection.scalar(query))


@pytest.fixture
async def both(any_database: str, tmp_path: Path) -> AsyncIterator[Both]:
    """The warehouse on each database and driver."""
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(opened(f"sqlite+aiosqlite:///{tmp_path}/elsewhere.db"))
        there = await stack.enter_async_context(opened(any_database))
        web = FastAPI()
        web.include_router(tcc_router(there.app, authenticate=signed_by(SECRET)))
        web.include_router(tcc_decisions_router(shop.app, SECRET, OLDER))
        client = await stack.enter_async_context(serving(web))
        yield Both(shop, there, f"{client.base_url}/tcc", f"{client.base_url}/tcc")


@pytest.mark.parametrize(
    ("status", "state", "stands", "effect"),
    [
        (Status.CONFIRMING, State.TRIED, SOLD, "confirm A hold A"),
        (Status.CONFIRMED, State.CONFIRMED, SOLD, "confirm A hold A"),
        (Status.CANCELLING, State.TRIED, NONE, "cancel A hold A"),
        (Status.CANCELLED, State.CANCELLED, NONE, "cancel A hold A"),
        (Status.CONFIRMING, State.TRYING, NONE, "cancel A hold A"),  # its answer was lost, and the rest is confirmed
    ],
)
async def test_what_was_decided_is_done(both: Both, status: Status, state: State, stands: Any, effect: str):
    """H399, I26: as whoever runs the transaction says, once, and with what a request of theirs would have said."""
    await both.left(status, state)
    assert await both.sweep() == 1
    await both.overdue()
    assert await both.sweep() == 0
    assert await both.warehouse.stands("A") == stands
    assert await both.warehouse.effects() == ["try A", effect]


async def test_what_is_not_decided_stays(both: Both):
    """H399: it is asked for again later, whatever the clock here says; and then it is decided."""
    await both.left(Status.TRYING)
    assert await both.sweep() == 0
    assert await both.warehouse.stands("A") == HELD
    assert await both.asked_at() is not None
    assert await both.sweep() == 0  # asked a moment ago
    await both.shop.set(status=Status.CONFIRMED)
    await both.overdue()
    assert await both.sweep() == 1
    assert await both.warehouse.stands("A") == SOLD


async def test_nothing_is_asked_before_its_time(both: Both):
    """H399: the transaction has its timeout to be decided."""
    tcc = both.shop.app.tcc.transaction("order-1")
    await tcc.__aenter__()
    await tcc.try_(both.there, "A", 2)
    due = await both.asked_at()
    assert due >= (await both.shop.row())["expires_at"].replace(microsecond=0)
    await both.shop.set(status=Status.CONFIRMED)
    assert await both.sweep() == 0
    assert await both.warehouse.stands("A") == HELD


@pytest.mark.parametrize("gone", [tcc_table, tcc_branch_table], ids=["transaction", "branch"])
async def test_nobody_there_knows_of_it(both: Both, gone: sa.Table):
    """H399: it may have been paid for, so it stays, and a person is told until it is settled."""
    await both.left(Status.CONFIRMED)
    kept = await both.shop.app.database.read(lambda connection: connection.execute(sa.select(gone)).mappings().one())
    await both.shop.app.database.execute(sa.delete(gone))
    assert await both.sweep() == 0
    assert await both.warehouse.stands("A") == HELD
    told = both.warehouse.app.tcc.overdue.attention()
    assert told == [f"nobody knows what became of the reservation {RESERVATION}: it stays as it is"]
    with pytest.raises(TccError, match="does not know"):
        await both.decisions.decision(RESERVATION)
    await both.shop.app.database.execute(sa.insert(gone).values(dict(kept)))
    await both.overdue()
    assert await both.sweep() == 1
    assert not both.warehouse.app.tcc.overdue.attention()


async def test_what_a_person_has_done_by_hand_is_not_done_again(both: Both):
    """H399: `txp tcc resolve` says that it is done, in a way that the warehouse knows nothing of."""
    await both.left(Status.CONFIRMED, State.CONFIRMED)
    row = await both.shop.row()
    deed = {"done_at": row["started_at"], "who": "ann", "action": "resolve", "reason": "by telephone"}
    about = {"tcc": row["number"], "app": "shop", "tcc_id": "order-1", "branch": "1", "status": "confirming"}
    await both.shop.app.database.execute(sa.insert(tcc_audit_table).values(**deed, **about))
    assert await both.sweep() == 0
    assert await both.warehouse.effects() == ["try A"]


async def test_its_own_request_comes_too(both: Both):
    """H399, I26: the shop's process comes back and confirms what the warehouse has asked for meanwhile."""
    await both.left(Status.CONFIRMING)
    assert await both.sweep() == 1
    await both.shop.set(due_at=(await both.shop.row())["started_at"], owner=None)
    await both.shop.rest()
    assert (await both.shop.row())["status"] == Status.CONFIRMED
    assert await both.warehouse.effects() == ["try A", "confirm A hold A"]


async def test_an_effect_that_fails_here(both: Both):
    """H399: it is tried again later, and nothing of it stands meanwhile."""
    await both.left(Status.CONFIRMED)
    both.warehouse.fails["confirm A"] = [OSError("the disk is full")]
    assert await both.sweep() == 0
    assert await both.warehouse.stands("A") == HELD
    await both.overdue()
    assert await both.sweep() == 1
    assert await both.warehouse.stands("A") == SOLD


async def test_the_background_part_asks(both: Both):
    """H399: nobody has to call anything: where participants are served, what runs there asks."""
    await both.left(Status.CONFIRMED)
    async with both.warehouse.app.running():
        while await both.warehouse.stands("A") != SOLD:
            await both.warehouse.app.drained()


async def test_the_coordinator_is_away(tmp_path: Path):
    """H399: no answer is none: all stays, however often it is asked for, and is asked for again when it is back."""
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db"))
        there = await stack.enter_async_context(opened(f"sqlite+aiosqlite:///{tmp_path}/there.db"))
        web = FastAPI()
        web.include_router(tcc_router(there.app, authenticate=signed_by(SECRET)))
        client = await stack.enter_async_context(serving(web))
        both = Both(shop, there, f"{client.base_url}/tcc", f"http://127.0.0.1:{free_port()}/tcc")
        await both.left(Status.CONFIRMED)
        for _ in range(3):
            assert await both.sweep() == 0
            await both.overdue()
        assert await there.stands("A") == HELD
        with pytest.raises(ConnectionError):
            await both.decisions.decision(RESERVATION)


def _forged(change: Callable[[bytes, dict[str, str]], tuple[bytes, dict[str, str]]]) -> FastAPI:
    """Make what stands between the two, and answers for the shop."""
    web = FastAPI()
    told = TccTold(decision=Decided.CANCEL).model_dump()
    asked = {
        "args": ["A", 2],
        "started_at": "2026-01-01T00:00:00Z",
        "expires_at": "2026-01-02T00:00:00Z",
        "correlation_id": "1",
    }

    @web.post("/tcc/decision")
    async def decision() -> Response:
        body, headers = change(json.dumps({**told, "asked": asked}).encode(), {})
        return Response(body, headers=headers)

    return web


@pytest.mark.parametrize(
    "answer",
    [
        lambda body, headers: (body, headers),
        lambda body, headers: (body, {HEADER: "t=1,v1=0"}),
        lambda body, headers: (
            body,
            {HEADER: signature(SECRET.encode(), answer_to("t=1,v1=another question"), body)},
        ),
        lambda body, headers: (b"x" * 700_000, headers),
    ],
    ids=["unsigned", "signed wrongly", "of another question", "too large"],
)
async def test_an_answer_that_is_not_theirs(tmp_path: Path, answer: Any):
    """H399, H181: who stands between the two cannot have reservations given back."""
    async with AsyncExitStack() as stack:
        there = await stack.enter_async_context(opened(f"sqlite+aiosqlite:///{tmp_path}/there.db"))
        client = await stack.enter_async_context(serving(_forged(answer)))
        decisions = TccDecisions(f"{client.base_url}/tcc", SECRET)
        there.app.tcc.overdue.ask("shop", decisions)
        with pytest.raises(TccError, match="not signed"):
            await decisions.about("shop/order-1", "1")


async def test_what_may_not_ask(tmp_path: Path):
    """H399, H181: unsigned, signed for something else or by somebody else; an older secret of both is good."""
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db"))
        web = FastAPI()
        web.include_router(tcc_decisions_router(shop.app, SECRET, OLDER))
        client = await stack.enter_async_context(serving(web))

        async def ask(body: bytes, what: str = DECISION, secret: str = SECRET) -> int:
            headers = {HEADER: signature(secret.encode(), what, body)}
            return int((await client.post("/tcc/decision", content=body, headers=headers)).status_code)

        body = json.dumps({"xid": "shop/order-1", "branch": "1"}).encode()
        assert (await client.post("/tcc/decision", content=body)).status_code == 401
        assert await ask(body, what="stock/try") == 401
        assert await ask(body, secret="a secret of somebody") == 401
        assert await ask(b'{"xid": "no slash", "branch": "1"}') == 422
        assert await ask(b" " * 700_000) == 413
        assert await ask(body) == 200
        older = TccDecisions(f"{client.base_url}/tcc", OLDER)
        assert (await older.about("shop/order-1", "1")).decided is Decided.UNKNOWN
        assert (await older.about("another/order-1", "1")).decided is Decided.UNKNOWN


async def test_what_is_set_wrongly(tmp_path: Path):
    """H399: no secret, one that can be guessed, two who are asked for the same."""
    shop = Shop(Database(f"sqlite+aiosqlite:///{tmp_path}/shop.db"))
    for secrets in ((), (SECRET, "short")):
        with pytest.raises(ConfigurationError):
            tcc_decisions_router(shop.app, *secrets)
    with pytest.raises(ConfigurationError):
        TccDecisions("https://user:word@shop", SECRET)
    shop.app.tcc.overdue.ask("shop", TccDecisions("https://shop", SECRET))
    with pytest.raises(TccDefinitionError):
        shop.app.tcc.overdue.ask("shop", TccDecisions("https://another", SECRET))


@pytest.mark.parametrize("point", ["claimed", "answered", "worked", "done"])
async def test_the_process_that_asks_dies(both: Both, any_database: str, point: str):
    """H399, P4: whoever asks next does it, once."""
    await both.left(Status.CONFIRMED)
    command = [sys.executable, str(DYING), any_database, both.decisions_url, SECRET, point]
    path = {**os.environ, "PYTHONPATH": str(DYING.parents[1])}
    child = await asyncio.create_subprocess_exec(*command, env=path, stdout=asyncio.subprocess.PIPE)
    await child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert await both.warehouse.stands("A") == (SOLD if point == "done" else HELD)
    await both.overdue()
    assert await both.sweep() == (0 if point == "done" else 1)
    assert await both.warehouse.stands("A") == SOLD
    assert await both.warehouse.effects() == ["try A", "confirm A hold A"]
