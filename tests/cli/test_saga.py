"""A saga that needs a person: found, understood and mended by `txp saga` alone."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

STORE = """
import asyncio
import sys
from datetime import timedelta

from txpatterns import App, Event, RetryLadder, Transaction
from txpatterns.sagas import Call, Doubt, SagaContext, StepTransaction, Undo

app = App("store")


class Opened(Event, topic="opened", type="opened"): ...


@app.on(Opened)
async def note(event: Opened, tx: Transaction) -> None: ...


async def reserve(tx: StepTransaction, sku: str) -> str:
    print("reserve", sku)
    return f"secret hold of {sku}"


async def release(tx: StepTransaction, sku: str) -> None:
    print("release", sku)


async def charge(call: Call, cents: int) -> str:
    raise ConnectionError("the bank is away")


async def refund(undo: Undo[str], cents: int) -> None: ...


@app.saga(retry=RetryLadder((timedelta(milliseconds=1),), jitter=0))
async def order(saga: SagaContext, sku: str) -> str:
    hold = await saga.step(reserve, sku, compensate=release)
    paid = await saga.call(charge, 7, doubt=Doubt.ASK, compensate=refund)
    await saga.sleep(timedelta(days=1))
    return f"{hold} {paid}"


async def main(ids: list[str]) -> None:
    async with app, app.transaction() as session:
        for id in ids:
            app.sagas.start(session, order, f"sku of {id}", id=id)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
"""
APP = ("--app", "store:app")
WHY = ("--reason", "seen at the bank")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def store(request, txp, project, monkeypatch):
    """`store("saga", "list")`; `store.start("order-7")` starts sagas, `store.drain()` runs what is due."""
    url = "sqlite+aiosqlite:///store.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("database").url("asyncpg")
    (project / "store.py").write_text(STORE)

    def run(*arguments, code=0, **environment):
        return txp(*arguments, code=code, TXP_DATABASE_URL=url, **environment)

    def start(*ids):
        monkeypatch.setenv("TXP_DATABASE_URL", url)
        subprocess.run([sys.executable, "store.py", *ids], cwd=project, check=True)

    def drain():
        return run("run", "store:app", "--drain", code=None).out

    def change(old, new):
        source = (project / "store.py").read_text()
        assert old in source
        (project / "store.py").write_text(source.replace(old, new))

    run("db", "upgrade", "--database", url)
    run.start, run.drain, run.change = start, drain, change
    return run


def drained(store, *ids):
    store.start(*ids)
    store.drain()
    while "attempt" in (shown := store("saga", "show", ids[0], *APP).out) and "nobody knows whether" not in shown:
        store.drain()


def test_a_call_in_doubt_is_found_understood_and_resolved(store):
    """P4, P7, H323: by `txp` alone, on both databases; what is personal is shown only where that is asked for."""
    drained(store, "order-7")
    (entry,) = store("saga", "list", *APP, "--attention", "--json").json
    assert (entry["id"], entry["type"], entry["is_run"]) == ("order-7", "store.order", False)
    assert "nobody knows whether charge has had its effect" in (told := store("saga", "list", *APP).out)
    assert "to see more: txp saga show ID --app store:app" in told
    assert "txp saga list --app store:app" in store("status", *APP).out

    shown = store("saga", "show", "order-7", *APP).out
    assert re.search(r"1  step reserve: done$", shown, re.MULTILINE)
    assert re.search(r"2  call charge: begun$", shown, re.MULTILINE)
    assert "2  call charge: attempt 1 failed: ConnectionError: the bank is away" in shown
    assert "now: call charge at 2 has failed, and waits for a person" in shown
    assert "secret" not in shown
    assert "sku of" not in shown
    asked = store("saga", "show", "order-7", *APP, "--values").out
    assert 'step reserve: done "secret hold of sku of order-7"' in asked
    assert '["sku of order-7"]' in asked

    refused = store("saga", "resolve", "order-7", "2", "--value", "11", *WHY, *APP, code=3).err
    assert refused.startswith("TXP-1620 That is no value of call charge")
    assert store("saga", "resolve", "order-7", "2", "--value", '"P"', *APP, code=1).err.endswith("written down.\n")
    store("saga", "resolve", "order-7", "2", "--value", '"P-11"', *WHY, *APP)
    store.drain()
    data = store("saga", "show", "order-7", *APP, "--json").json
    (opened,) = data["open"]
    assert (opened["operation"], opened["path"], opened["what"]) == ("sleep", "3", "waits until")
    assert [line["value"] for line in data["story"]] == [None] * len(data["story"])
    (deed,) = data["deeds"]
    assert (deed["action"], deed["path"], deed["reason"]) == ("resolve", "2", "seen at the bank")
    assert "resolve 2 by" in store("saga", "show", "order-7", *APP).out

    store("saga", "resolve", "order-7", "3", "--value", "null", *WHY, *APP)
    store.drain()
    (ended,) = store("saga", "list", *APP, "--status", "completed", "--json").json
    assert ended["id"] == "order-7"
    assert store("saga", "list", *APP).out == "no sagas like that\n"
    refused = store("saga", "retry", "order-7", *WHY, *APP, "--json", code=3).err
    assert json.loads(refused)["error"]["code"] == "TXP-1620"

    assert "is undone now" in store("saga", "compensate", "order-7", *WHY, *APP).out
    assert "release sku of order-7" in store.drain()
    told = store("saga", "show", "order-7", *APP).out
    assert "the code has ended" in told
    assert "ended by an operator, what was done is undone: Aborted: undone by an operator: seen at the bank" in told
    assert "compensate by " in told
    store("saga", "compensate", "order-7", *WHY, *APP, code=3)


def test_a_saga_is_cancelled_and_its_story_says_so(store):
    """P4, P7, H322: what was done is undone, and stands indented under what ended it."""
    drained(store, "order-7")
    assert "is undone now" in store("saga", "cancel", "order-7", *WHY, *APP).out
    store.drain()
    store("saga", "skip", "order-7", "2", *WHY, *APP)
    assert "release sku of order-7" in store.drain()
    lines = store("saga", "show", "order-7", *APP).out.splitlines()
    told = "ended by an operator, what was done is undone: Aborted: cancelled by an operator: seen at the bank"
    place = next(number for number, line in enumerate(lines) if told in line)
    assert [line.split("  ", 1)[1] for line in lines[place + 1 : place + 3]] == [
        "2      call charge: undone",
        "1      step reserve: undone",
    ]
    assert lines[-2].startswith("cancel by ")
    assert lines[-1].startswith("skip 2 by ")


def test_code_that_does_not_fit_is_found_before_it_is_deployed(store):
    """P4, H171: the exit code stops a deploy; the code that is there fits."""
    store.start("order-7", "order-8")
    store.drain()
    assert store("saga", "check", "store:app").out == "2 sagas fit this code; 0 do not\n"
    store.change("saga.step(reserve, sku", "saga.step(reserve, sku.upper()")
    ran = store("saga", "check", "store:app", code=3)
    assert "At 1 the journal has step reserve with other arguments than the code gives it now." in ran.out
    assert "0 sagas fit this code; 2 do not" in ran.out
    store.change("@app.saga(", "@app.saga(version=3, since=2, ")
    (one, _) = store("saga", "check", "store:app", "--json", code=3).json["misfits"]
    assert (one["id"], one["why"]) == ("order-7", "Nobody here serves version 1, but 2 to 3.")


def test_what_the_code_prints_is_not_among_the_json(store):
    """P7: a module that greets, and a saga that prints, which is what one writes first."""
    store.change('app = App("store")', 'print("hello")\napp = App("store")')
    store.change("    hold = await saga.step(reserve", '    print("begins")\n    hold = await saga.step(reserve')
    drained(store, "order-7")
    assert store("saga", "show", "order-7", *APP, "--json").json["id"] == "order-7"
    assert store("saga", "check", "store:app", "--json").json["misfits"] == []
    assert store("saga", "retry", "order-7", *WHY, *APP, "--json").json["done"] == "retry"
    assert store("saga", "cancel", "order-7", *WHY, *APP, "--json").json["done"] == "cancel"


LISTED = """
from dataclasses import dataclass

from txpatterns.sagas import PIVOT, Saga, SagaCall, SagaStep


@dataclass
class Order:
    sku: str


async def hold(tx: StepTransaction, order: Order) -> str:
    return f"hold of {order.sku}"


async def free(tx: StepTransaction, order: Order) -> None:
    print("free", order.sku)


async def pay(call: Call, order: Order, hold: str) -> str:
    raise ConnectionError("the bank is away")


async def send(tx: StepTransaction, order: Order, hold: str, pay: str) -> None:
    print("send", hold, pay)


listed = Saga(
    "listed",
    Order,
    steps=[
        SagaStep("hold", hold, compensate=free),
        SagaCall("pay", pay, doubt=Doubt.ASK),
        PIVOT,
        SagaStep("send", send),
    ],
)
app.saga(retry=RetryLadder((timedelta(milliseconds=1),), jitter=0))(listed)


async def start(id: str) -> None:
    async with app, app.transaction() as session:
        app.sagas.start(session, listed, Order(id), id=id)


if __name__ == "__main__":
    asyncio.run(start(sys.argv[1]))
"""


def test_a_list_of_steps_is_seen_checked_and_told_as_any_other(txp, project, monkeypatch):
    """P4, P7, H340: each step under its name; a list in another order is found before it is deployed."""
    monkeypatch.setenv("TXP_DATABASE_URL", "sqlite+aiosqlite:///store.db")
    source = STORE.replace("asyncio.run(main(sys.argv[1:]))", "pass") + LISTED
    (project / "store.py").write_text(source)
    subprocess.run([sys.executable, "store.py", "order-9"], cwd=project, check=True)
    for _ in range(3):
        txp("run", "store:app", "--drain", code=None)
    shown = txp("saga", "show", "order-9", *APP).out
    assert re.search(r"1  step hold: done$", shown, re.MULTILINE)
    assert "now: call pay at 2 has failed, and waits for a person" in shown
    assert txp("saga", "check", "store:app").out == "1 saga fit this code; 0 do not\n"
    drawn = txp("saga", "diagram", "store:app").out
    assert drawn.startswith('flowchart TD\n    n0(["store.listed, version 1: Order"])')
    data = txp("saga", "diagram", "store:app", "listed", "--json").json
    assert data == {"type": "store.listed", "version": 1, "mermaid": drawn.strip()}
    refused = txp("saga", "diagram", "store:app", "order", code=1).err
    assert "store.order is code" in refused
    assert "there are: store.listed, store.order" in txp("saga", "diagram", "store:app", "none", code=3).out
    (project / "store.py").write_text(
        source.replace('"hold", hold', '"seize", hold').replace("hold: str", "seize: str")
    )
    assert "the journal has step hold; the code asks for step seize" in txp("saga", "check", "store:app", code=3).out
    (project / "store.py").write_text(source)
    txp("saga", "resolve", "order-9", "2", "--value", '"P-9"', *WHY, *APP)
    assert "send hold of order-9 P-9" in txp("run", "store:app", "--drain", code=None).out


def test_steps_at_the_same_time_are_shown_side_by_side(txp, project, monkeypatch):
    """P4, P7, H390: in the drawing, and in the story of one saga: what is done, and all that is open beside it."""
    monkeypatch.setenv("TXP_DATABASE_URL", "sqlite+aiosqlite:///store.db")
    listed = LISTED
    for old, new in {
        'SagaStep("hold", hold, compensate=free)': '[SagaStep("hold", hold, compensate=free)',
        'SagaCall("pay", pay, doubt=Doubt.ASK)': 'SagaCall("pay", pay, doubt=Doubt.ASK), SLEEP]',
        "order: Order, hold: str) -> str": "order: Order) -> str",
        "listed = Saga(": 'SLEEP = SagaSleep("cooled", timedelta(days=1))\nlisted = Saga(',
        "SagaCall, SagaStep": "SagaCall, SagaSleep, SagaStep",
    }.items():
        assert old in listed
        listed = listed.replace(old, new)
    (project / "store.py").write_text(STORE.replace("asyncio.run(main(sys.argv[1:]))", "pass") + listed)
    assert txp("saga", "diagram", "store:app").out.count("at the same time") == 1
    subprocess.run([sys.executable, "store.py", "order-9"], cwd=project, check=True)
    for _ in range(3):
        txp("run", "store:app", "--drain", code=None)
    shown = txp("saga", "show", "order-9", *APP).out
    assert re.search(r"1  step hold: done$", shown, re.MULTILINE)
    assert "now: call pay at 2 has failed, and waits for a person" in shown
    assert re.search(r"^now: sleep at 3 waits until", shown, re.MULTILINE)
    assert txp("saga", "check", "store:app").out == "1 saga fit this code; 0 do not\n"
    for path in ("2", "3"):
        value = '"P-9"' if path == "2" else "null"
        txp("saga", "resolve", "order-9", path, "--value", value, *WHY, *APP)
    assert "send hold of order-9 P-9" in txp("run", "store:app", "--drain", code=None).out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["show", "none"], 3, "there is no saga none (see: txp saga list --app store:app)"),
        (["retry", "none", *WHY], 3, "There is no saga none"),
        (["cancel", "none"], 1, "Give --reason TEXT"),
        (["cancel", "none", "--reason", " "], 1, "Give --reason TEXT"),
        (["skip", "none", "1", *WHY], 3, "There is no saga none"),
        (["list", "--status", "asleep"], 2, "one of running, waiting"),
    ],
)
def test_what_makes_no_sense_is_said(txp, project, arguments, code, said):
    """H249, H321: with the exit codes of all other commands."""
    (project / "store.py").write_text(STORE)
    txp("db", "upgrade", *APP)
    ran = txp("saga", *arguments, *APP, code=code)
    assert said in " ".join((ran.out + ran.err).split())


def test_without_an_app_its_code_cannot_be_looked_at(txp):
    """H321: to tell a saga something needs its code."""
    for words in (["skip", "x", "1"], ["resolve", "x", "1", "--value", "1"]):
        assert "it knows the sagas' code" in txp("saga", *words, *WHY, code=1).err


LATE = """
import asyncio
from datetime import timedelta

from txpatterns import App, Event
from txpatterns.sagas import SagaContext, StepTransaction

app = App("store")


class Asked(Event, topic="asked", type="asked", key="id"):
    id: str


async def reserve(tx: StepTransaction) -> None: ...


@app.saga(signals=[Asked], deadline=timedelta(days=7))
async def order(saga: SagaContext, again: bool, last: bool) -> None:
    asked = await saga.wait_for(Asked, key=saga.id, timeout=None)
    if again:
        saga.restart(False, last)
    if last:
        saga.pivot()
    await saga.step(reserve, compensate=None if last else reserve)
    await saga.sleep(timedelta(days=1))


async def main() -> None:
    async with app, app.transaction() as session:
        for id, last in (("late-1", False), ("late-2", True)):
            app.sagas.start(session, order, True, last, id=id)
            for _ in range(2):
                app.sagas.signal(session, Asked(id=id))


if __name__ == "__main__":
    asyncio.run(main())
"""


def test_what_was_late_and_began_anew_is_told(txp, project):
    """P4, P7, H336, H337: in words: which run this is, what it knows of those before, and that its deadline passed."""
    (project / "store.py").write_text(LATE)
    subprocess.run([sys.executable, "store.py"], cwd=project, check=True)
    txp("run", "store:app", "--drain", code=4)
    with closing(sqlite3.connect(project / "store.db")) as connection, connection:
        connection.execute("UPDATE txp_saga SET deadline_at = started_at, due_at = started_at")
    txp("run", "store:app", "--drain", code=4)
    shown = {name: txp("saga", "show", name, *APP).out for name in ("late-1", "late-2")}
    for told in shown.values():
        assert re.search("^run +2$", told, re.MULTILINE)
        assert re.search("^deadline_at +2", told, re.MULTILINE)
        assert "it has begun anew: 1 run came before this one, whose journals are kept" in told
    had = re.findall("what came for (late-.) by then was had in a run before", "".join(shown.values()))
    assert had == ["late-1", "late-2"]
    assert "ended by its deadline, what was done is undone: Aborted: its deadline has passed" in shown["late-1"]
    assert "the deadline has passed behind the pivot: it goes on" in shown["late-2"]
