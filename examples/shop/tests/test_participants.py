"""Coupon and credit as participants on a real PostgreSQL: many want the last one at the same time."""

import asyncio
import os

import pytest
from sqlalchemy import func, select

from rig.servers.postgres import Postgres
from rig.started import started
from shop.money import Money
from shop.pricing.models import CouponRow
from shop.wallet.models import EntryRow, WalletRow
from txpatterns import Reject

TOTAL, FIVE, TWELVE = Money(amount="30.00"), Money(amount="5.00"), Money(amount="12.00")


@pytest.fixture(scope="module")
def postgres():
    with started(Postgres) as server:
        yield server.url


async def tried(app, id, *tries, gives_up=False):
    """Run a transaction; says whether all was reserved, and then confirmed unless somebody gives up."""
    try:
        async with app.tcc.transaction(id) as tcc:
            for participant, *arguments in tries:
                await tcc.try_(participant, *arguments)
            if gives_up:
                raise LookupError
    except LookupError:
        return "gave up"
    except Reject:
        return "refused"
    return "done"


@pytest.mark.server
async def test_many_want_the_last_one(open_services, tmp_path, postgres):
    """P4, P5, H393: three coupons for twelve; one wallet in six transactions at once; some give up, nothing is lost."""
    base = postgres.rpartition("/")[0].replace("postgresql://", "postgresql+asyncpg://")
    servers = {"SHOP_DATABASE": f"{base}/part_{os.getpid()}_{{service}}", "SHOP_BROKER": "memory://"}
    async with open_services(tmp_path, "checkout", **servers) as services:
        app, three = services.builder.app_of("checkout"), services.builder.others.reserving
        coupons = [
            tried(app, f"c{n}", (three.coupon, f"o{n}", f"v{n}", "LAST3", TOTAL, FIVE), gives_up=n % 4 == 0)
            for n in range(12)
        ]
        spending = [
            tried(app, f"w{n}", (three.credit, f"p{n}", "alice", TWELVE), gives_up=n % 3 == 0) for n in range(6)
        ]
        ends = await asyncio.gather(*coupons, *spending)
        used = ends[:12].count("done")
        assert used <= 3
        assert ends[12:].count("done") <= 1, "twelve of twenty is there once"
        async with services.builder.app_of("pricing").session() as session:
            row = await session.get_one(CouponRow, "LAST3")
            assert (row.held, row.used) == (0, used)
        async with services.builder.app_of("wallet").session() as session:
            alice = await session.get_one(WalletRow, "alice")
            assert (alice.available, alice.held) == (2000 - 1200 * ends[12:].count("done"), 0)
            assert await session.scalar(select(func.sum(EntryRow.minor))) == 0
            welcomed = select(func.count()).where(EntryRow.what == "welcome")
            assert await session.scalar(welcomed) == 2, "one transfer, of two sides"
