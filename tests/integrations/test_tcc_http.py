"""A transaction whose participant is another application, over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from integrations.test_fastapi import serving
from tcc.support import Shop, opened
from txpatterns.errors import ConfigurationError, Reject, TccError
from txpatterns.integrations.fastapi_tcc import tcc_router
from txpatterns.integrations.tcc_http import TccRemote
from txpatterns.tcc import BranchCall, Status
from txpatterns.tcc.schema import tcc_barrier_table
from txpatterns.tcc.signing import HEADER, signature, signed_by

SECRET, OLDER = "a secret of both sides", "the secret before that"
NONE, SOLD = (10, 0, 0), (8, 0, 2)


class Both:
    """A shop that runs transactions, and a warehouse that takes part in them."""

    def __init__(self, shop: Shop, warehouse: Shop, client: Any) -> None:
        self.shop, self.warehouse, self.client = shop, warehouse, client
        remote = TccRemote(f"{client.base_url}/tcc", SECRET)

        @remote.participant(shop.app.tcc, "warehouse", there="stock")
        async def there(call: BranchCall, sku: str, quantity: int) -> str: ...

        self.there = there

    async def ask(self, operation: str, *, secret: str = SECRET, at: int | None = None, **changes: Any) -> Any:
        body = {
            "xid": "shop/order-1",
            "branch": "1",
            "args": ["A", 2],
            "started_at": "2026-01-01T00:00:00Z",
            "expires_at": "2100-01-01T00:00:00Z",
            "correlation_id": "order-1",
            **changes,
        }
        content = json.dumps(body).encode()
        headers = {HEADER: signature(secret.encode(), f"stock/{operation}", content, at)}
        return await self.client.post(f"/tcc/stock/{operation}", content=content, headers=headers)


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Both]:
    async with AsyncExitStack() as stack:
        shop = await stack.enter_async_context(opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db"))
        there = await stack.enter_async_context(opened(f"sqlite+aiosqlite:///{tmp_path}/there.db"))
        web = FastAPI()
        web.include_router(tcc_router(there.app, authenticate=signed_by(SECRET, OLDER)))
        yield Both(shop, there, await stack.enter_async_context(serving(web)))


async def test_a_participant_elsewhere_is_confirmed_with_one_here(both: Both):
    """P5, I26, I27: the pieces of both applications are sold, or those of both stay."""
    async with both.shop.app.tcc.transaction("order-1") as tcc:
        assert await tcc.try_(both.there, "A", 2) == "hold A"
        await tcc.try_(both.shop.shelf, "A", 2)
    assert tcc.status == Status.CONFIRMED
    assert (await both.warehouse.stands("A"), await both.shop.stands("A")) == (SOLD, SOLD)
    assert await both.warehouse.effects() == ["try A", "confirm A hold A"]


async def test_an_error_cancels_both(both: Both):
    """P5, I26."""
    with pytest.raises(ValueError, match="too dear"):  # noqa: PT012 - the block is what raises
        async with both.shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(both.there, "A", 2)
            await tcc.try_(both.shop.shelf, "A", 2)
            raise ValueError("too dear")
    assert (await both.warehouse.stands("A"), await both.shop.stands("A")) == (NONE, NONE)


async def test_a_refusal_is_a_refusal_here(both: Both):
    """P5: whoever runs the transaction is told why, and nothing is left to be cancelled."""
    both.warehouse.fails["try A"] = [Reject("none left")]
    with pytest.raises(Reject, match="none left"):
        async with both.shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(both.there, "A", 2)
    assert (await both.warehouse.stands("A"), tcc.status) == (NONE, Status.CANCELLED)


async def test_an_answer_that_is_lost(both: Both):
    """H132, I26: nobody knows whether it has reserved, so it is cancelled; the warehouse has cancelled it once."""
    both.warehouse.fails["try A"] = [OSError("the disk is full")]
    with pytest.raises(TccError, match="500"):
        async with both.shop.app.tcc.transaction("order-1") as tcc:
            await tcc.try_(both.there, "A", 2)
    assert tcc.status == Status.CANCELLED
    assert await both.warehouse.stands("A") == NONE
    assert (await both.ask("try")).status_code == 409  # behind its own cancel


async def test_repeats_get_the_stored_answer(both: Both):
    """H124, H181: a request that is replayed does nothing twice."""
    for _ in range(2):
        answer = await both.ask("try")
        assert (answer.status_code, answer.json()) == (200, {"result": "hold A"})
    for _ in range(2):
        assert (await both.ask("confirm", result="hold A")).status_code == 200
    assert (await both.ask("cancel")).status_code == 409
    assert await both.warehouse.stands("A") == SOLD


async def test_what_may_not_be_served(both: Both):
    """H181: unsigned, signed with another secret, for something else, too old; an older secret of both is good."""
    good = await both.ask("try", secret=OLDER)
    assert good.status_code == 200
    now = int(datetime.now(UTC).timestamp())
    assert (await both.ask("confirm", secret="a secret of somebody")).status_code == 401
    assert (await both.ask("confirm", at=now - 301)).status_code == 401
    assert (await both.ask("confirm", at=now + 301)).status_code == 401
    unsigned = await both.client.post("/tcc/stock/confirm", content=good.request.content)
    assert unsigned.status_code == 401
    headers = {HEADER: good.request.headers[HEADER]}  # signed for the try
    assert (
        await both.client.post("/tcc/stock/confirm", content=good.request.content, headers=headers)
    ).status_code == 401
    for odd in ("", "t=,v1=", "t=1e9,v1=x", f"t={now}", f"t={'9' * 400},v1=x", "t=²,v1=x"):
        headers = {HEADER: odd.encode("utf-8")}
        answer = await both.client.post("/tcc/stock/confirm", content=good.request.content, headers=headers)
        assert answer.status_code == 401, odd
    assert await both.warehouse.stands("A") == (8, 2, 0)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"expires_at": "2001-01-01T00:00:00Z"}, 425),
        ({"args": ["A"]}, 422),
        ({"args": ["A", "two"]}, 422),
        ({"args": "A"}, 422),
        ({"xid": "no slash"}, 422),
        ({"expires_at": "2100-01-01T00:00:00"}, 422),
        ({"args": ["A" * 700_000, 2]}, 413),
    ],
)
async def test_what_cannot_be_done(both: Both, changes: dict[str, Any], code: int):
    """P5, H181: each is told by its own code, and notes nothing."""
    assert (await both.ask("try", **changes)).status_code == code
    count = sa.select(sa.func.count()).select_from(tcc_barrier_table)
    assert await both.warehouse.app.database.read(lambda connection: connection.scalar(count)) == 0


async def test_there_is_no_such_participant(both: Both):
    """P5: told apart from what is refused."""
    assert (await both.ask("steal")).status_code == 404


def test_addresses_and_secrets_that_are_none():
    """P5, H181: found where they are set, and no password is told."""
    for url in (
        "warehouse",
        "ftp://warehouse",
        "https://user:word@warehouse",
        "https://warehouse?key=1",
        "http://a:tcc",
    ):
        with pytest.raises(ConfigurationError) as refused:
            TccRemote(url, SECRET)
        assert "word" not in str(refused.value).replace("password", "")
    with pytest.raises(ConfigurationError):
        TccRemote("https://warehouse", "short")
    with pytest.raises(ConfigurationError):
        TccRemote("https://warehouse", SECRET, timeout=timedelta(0))
    with pytest.raises(ConfigurationError):
        signed_by()
