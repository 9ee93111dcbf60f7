"""Deploys, mended code and rollbacks while sagas run: what stood still goes on, and nothing goes back and forth."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from sagas.support import PATIENCE, Shop, Told, another, release, reserve, saga_of
from txpatterns.sagas import SagaContext, SagaSettings
from txpatterns.sagas.facts import Attempted
from txpatterns.sagas.fingerprints import fingerprint_of, stopped_with


async def test_a_saga_that_no_fleet_can_go_on_with_rests(shop: Shop) -> None:
    """P4, H339: each kind of code stops with it once; then it waits for another, and nothing is written or tried."""

    async def order(saga: SagaContext) -> str:
        hold = await saga.step(reserve, "A1", compensate=release)
        return hold.nonsense  # type: ignore[attr-defined,no-any-return]

    async def other(saga: SagaContext) -> str:
        return await saga.step(reserve, "B2", compensate=release)

    async def mended(saga: SagaContext) -> str:
        return await saga.step(reserve, "A1", compensate=release)

    saga_of(shop, order)
    fleet = another(shop)
    saga_of(fleet, other)
    await shop.start(order)
    await shop.rest()
    before = await shop.rows()
    for _ in range(2):
        async with shop.app.running(), fleet.app.running():
            await asyncio.gather(shop.app.drained(), fleet.app.drained())
    row = await shop.row()
    assert (row["epoch"], await shop.rows()) == (2, before)
    assert len(row["diverged"].split()) == 2
    assert not [fact for fact in await shop.facts() if isinstance(fact, Attempted)]
    third = another(shop)
    saga_of(third, mended)
    async with third.app.running():
        assert await third.app.sagas.handle(mended, "order-1").result(timeout=PATIENCE) == "hold A1"
    assert await shop.effects() == ["reserve A1"]


async def test_after_a_rollback_the_older_code_goes_on_again(shop: Shop) -> None:
    """P4, H339: where it could not go on the mended code has gone further, so it may try again."""
    wrong = ["once"]

    async def order(saga: SagaContext) -> str:
        hold = await saga.step(reserve, "A1", compensate=release)
        if wrong:
            hold.nonsense  # type: ignore[attr-defined]  # noqa: B018
        await saga.wait_for(Told, key=saga.id, timeout=None)
        told = await saga.wait_for(Told, key=saga.id, timeout=None)
        return told.what

    async def mended(saga: SagaContext) -> str:
        await saga.step(reserve, "A1", compensate=release)
        await saga.wait_for(Told, key=saga.id, timeout=None)
        await saga.wait_for(Told, key=saga.id, timeout=None)
        return "mended"

    saga_of(shop, order, signals=[Told])
    await shop.start(order)
    await shop.rest()
    assert (await shop.row())["diverged"] is not None
    fleet = another(shop)
    saga_of(fleet, mended, signals=[Told])
    await fleet.rest()
    async with shop.app.transaction() as session:
        shop.app.sagas.signal(session, Told(what="order-1"))
    await fleet.rest()
    row = await shop.row()
    assert (row["status"], row["diverged"], row["attention"]) == ("waiting", None, None)
    wrong.clear()
    async with shop.app.transaction() as session:
        shop.app.sagas.signal(session, Told(what="order-1"))
    await shop.rest()
    assert (await shop.row())["status"] == "completed"


CODE = """
from dataclasses import dataclass

RATE = 3

async def order(saga) -> str:
    held = await saga.step(reserve)
    return name_of(held)

async def reserve(tx) -> "Held":
    return Held()

def name_of(held) -> str:
    return again(held.name, 1)

def again(name, times) -> str:
    return name if times == 0 else name_of(Held())

@dataclass
class Held:
    name: str = "held"

def other() -> None: ...
"""


def fingerprint(folder: Path, monkeypatch: pytest.MonkeyPatch, *changed: str, build: str = "") -> str:
    """Give the fingerprint of that code as another deploy has it."""
    text = CODE
    for what, by in pairwise(changed):
        assert what in text
        text = text.replace(what, by)
    file = folder / f"{abs(hash(text))}.py"
    file.write_text(text)
    spec = importlib.util.spec_from_file_location("deployed", file)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "deployed", made)
    spec.loader.exec_module(made)
    return fingerprint_of(made.order, build)


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        (("held = await saga.step(reserve)\n", "held = await saga.step(reserve)  # the best\n\n"), False),
        (("def other() -> None: ...", "def other() -> None: return None"), False),
        (("return name_of(held)", "return name_of(held) + ''"), True),
        (("return Held()\n\ndef", "return Held('one')\n\ndef"), True),
        (("held.name, 1", "held.name, 2"), True),
        (("times == 0", "times <= 0"), True),
        (('name: str = "held"', 'name: str = "kept"'), True),
    ],
    ids=["a comment", "what it does not name", "itself", "a step", "a helper", "a helper's helper", "a model"],
)
def test_code_is_told_by_all_that_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: tuple[str, str], differs: bool
) -> None:
    """P4, H339: mended steps, helpers and models of its module let a saga go on that stood still, as its code does."""
    before = fingerprint(tmp_path, monkeypatch)
    assert (fingerprint(tmp_path, monkeypatch, *changed) != before) is differs


def test_a_deploy_may_name_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P4, H339: where what was mended is none of the module's own."""
    first = fingerprint(tmp_path, monkeypatch, build="a1")
    assert first == fingerprint(tmp_path, monkeypatch, build="a1") != fingerprint(tmp_path, monkeypatch, build="b2")


async def test_a_saga_goes_on_with_another_build(sqlite_shop: Shop) -> None:
    """P4, H339: the same text, which imports something else now."""
    mended: list[str] = []

    async def order(saga: SagaContext) -> str:
        hold = await saga.step(reserve, "A1")
        if not mended:
            hold.nonsense  # type: ignore[attr-defined]  # noqa: B018
        return hold

    saga_of(sqlite_shop, order)
    await sqlite_shop.start(order)
    await sqlite_shop.rest()
    mended.append("elsewhere")
    await sqlite_shop.rest()
    assert (await sqlite_shop.row())["status"] == "running"
    deployed = Shop(sqlite_shop.app.database, SagaSettings(build="b2"))
    saga_of(deployed, order)
    await deployed.rest()
    assert (await sqlite_shop.row())["status"] == "completed"


def test_only_so_many_deploys_are_remembered() -> None:
    """P4, H339: a saga that nobody mends does not grow with them."""
    told: str | None = None
    for number in range(100):
        told = stopped_with(told, f"{number:016x}")
    assert told is not None
    assert len(told.split()) == 32
    assert told.endswith(f"{99:016x}")
