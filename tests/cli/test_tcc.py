"""A TCC transaction that needs a person: found, understood and mended by `txp tcc` alone."""

import subprocess
import sys

import pytest

STORE = """
import asyncio
import sys
from datetime import timedelta

from txpatterns import App, AppSettings, RetryLadder
from txpatterns.tcc import BranchTransaction, TccSettings

quick = TccSettings(ladder=RetryLadder((timedelta(milliseconds=1),), jitter=0))
app = App("store", settings=AppSettings(tcc=quick))


@app.tcc.participant("stock")
async def stock(tx: BranchTransaction, sku: str) -> str:
    return f"secret hold of {sku}"


@stock.confirm
async def sell(tx: BranchTransaction, sku: str) -> None:
    raise ConnectionError("the till is away")


@stock.cancel
async def release(tx: BranchTransaction, sku: str) -> None: ...


async def main(id: str, leaves: bool) -> None:
    async with app:
        tcc = app.tcc.transaction(id)
        await tcc.__aenter__()
        await tcc.try_(stock, f"sku of {id}")
        if leaves:
            await tcc.__aexit__(None, None, None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], len(sys.argv) > 2))
"""
APP = ("--app", "store:app")
WHY = ("--reason", "sold by hand")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def store(request, txp, project, monkeypatch):
    """`store("tcc", "list")`; `store.order("order-7", "leave")` tries, and leaves the block or is gone."""
    url = "sqlite+aiosqlite:///store.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("database").url("asyncpg")
    (project / "store.py").write_text(STORE)

    def run(*arguments, code=0):
        return txp(*arguments, code=code, TXP_DATABASE_URL=url)

    def order(*arguments):
        monkeypatch.setenv("TXP_DATABASE_URL", url)
        subprocess.run([sys.executable, "store.py", *arguments], cwd=project, check=True)

    def drain():
        return run("run", "store:app", "--drain", code=None).out

    run("db", "upgrade", "--database", url)
    run.order, run.drain = order, drain
    return run


def test_a_confirm_that_fails_for_ever_is_found_understood_and_resolved(store):
    """P5, P7, H177: by `txp` alone; what is personal is shown only where that is asked for; each deed has a reason."""
    store.order("order-7", "leave")
    while not store("tcc", "list", *APP, "--attention", "--json").json:
        store.drain()
    (entry,) = store("tcc", "list", *APP, "--json").json
    assert (entry["id"], entry["status"], entry["is_run"]) == ("order-7", "confirming", False)
    assert "stock has failed" in (told := store("tcc", "list", *APP).out)
    assert "to see more: txp tcc show ID --app store:app" in told
    assert "txp tcc list --app store:app" in store("status", *APP).out
    assert "order-7" in store.drain()

    shown = store("tcc", "show", "order-7", *APP).out
    assert "the till is away" in shown
    assert "secret" not in shown
    assert "sku of" not in shown
    asked = store("tcc", "show", "order-7", *APP, "--values", "--json").json
    assert asked["branches"][0]["args"] == '["sku of order-7"]'

    assert "written down" in store("tcc", "resolve", "order-7", "1", *APP, code=1).err
    assert "no branch 2" in store("tcc", "resolve", "order-7", "2", *WHY, *APP, code=3).err
    store("tcc", "retry", "order-7", "--reason", "the till is back", *APP)
    store("tcc", "resolve", "order-7", "1", *WHY, *APP)
    store.drain()
    shown = store("tcc", "show", "order-7", *APP, "--json").json
    assert (shown["status"], shown["branches"][0]["state"]) == ("confirmed", "confirmed")
    assert [(deed["action"], deed["branch"], deed["reason"]) for deed in shown["deeds"]] == [
        ("retry", None, "the till is back"),
        ("resolve", "1", "sold by hand"),
    ]
    assert "resolve 1 by" in store("tcc", "show", "order-7", *APP).out
    assert "has ended" in store("tcc", "retry", "order-7", *WHY, *APP, code=3).err
    assert store("tcc", "list", *APP).out == "no transactions like that\n"
    assert store("tcc", "list", *APP, "--status", "confirmed", "--json").json[0]["id"] == "order-7"


def test_one_that_still_tries_is_cancelled(store):
    """P5: whoever began it is gone, and nobody wants to wait for its timeout."""
    store.order("order-8")
    assert "not decided" in store("tcc", "resolve", "order-8", "1", *WHY, *APP, code=3).err
    store("tcc", "retry", "order-8", "--reason", "customer gone", *APP)
    assert "1 TCC ended" in store.drain()
    assert store("tcc", "show", "order-8", *APP, "--json").json["status"] == "cancelled"


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        (["show", "none"], 3, "there is no transaction none (see: txp tcc list --app store:app)"),
        (["retry", "none", *WHY], 3, "There is no transaction none"),
        (["list", "--status", "lost"], 2, "one of trying, confirming"),
    ],
)
def test_what_is_not_there(store, command, code, told):
    """P5: exit codes tell it apart from what failed."""
    ran = store("tcc", *command, *APP, code=code)
    assert told in ran.out + " ".join(ran.err.split())
