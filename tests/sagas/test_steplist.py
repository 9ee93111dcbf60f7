"""A saga as a list of steps: checked where it is written, and run, replayed and mended as any other."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
import sqlalchemy as sa

from sagas.support import QUICK, Declined, Shop, another, effect, opened
from txpatterns import RetryLadder, Transaction
from txpatterns.errors import SagaDefinitionError, SagaFailed
from txpatterns.messages import Event
from txpatterns.sagas import (
    PIVOT,
    Call,
    Done,
    Doubt,
    NotDone,
    Saga,
    SagaCall,
    SagaContext,
    SagaSleep,
    SagaStep,
    SagaWait,
    Signal,
    StepTransaction,
    SyncStepTransaction,
    Undo,
)
from txpatterns.sagas.facts import Ended, Undone
from txpatterns.sagas.fingerprints import text_of
from txpatterns.sagas.fitting import accepts
from txpatterns.testing.clock import ManualClock

HOUR = timedelta(hours=1)


@dataclass
class Cart:
    id: str
    cents: int = 5


class Paid(Event, topic="paid", type="paid", key="payment"):
    payment: str


async def note(tx: StepTransaction, what: str) -> None:
    await tx.session.execute(sa.insert(effect).values(what=what))


async def reserve(tx: StepTransaction, cart: Cart) -> str:
    await note(tx, f"reserve {cart.id}")
    return f"hold {cart.id}"


async def release(tx: StepTransaction, cart: Cart) -> None:
    await note(tx, f"release {cart.id}")


def pack(tx: SyncStepTransaction, cart: Cart, reserve: str) -> list[str]:
    tx.session.execute(sa.insert(effect).values(what=f"pack {reserve}"))
    return [f"box for {reserve}"]


def unpack(tx: SyncStepTransaction, cart: Cart, reserve: str) -> None:
    tx.session.execute(sa.insert(effect).values(what=f"unpack {reserve}"))


async def charge(call: Call, cart: Cart, pack: list[str]) -> str:
    if cart.cents > 100:
        raise Declined(cart.cents)
    return f"P-{cart.id}"


async def refund(undo: Undo[str], cart: Cart, pack: list[str]) -> None: ...


async def look_up(call: Call, cart: Cart, pack: list[str]) -> Done[str] | NotDone:
    return NotDone()


async def ship(tx: StepTransaction, cart: Cart, pack: list[str], paid: Paid) -> str:
    await note(tx, f"ship {pack[0]}, {paid.payment}")
    return "shipped"


async def breaks(tx: StepTransaction, cart: Cart) -> None:
    raise ConnectionError("no route")


async def pack_any(tx: StepTransaction, cart: Cart) -> str:
    await note(tx, f"pack {cart.id}")
    return f"box {cart.id}"


async def unpack_any(tx: StepTransaction, cart: Cart) -> None:
    await note(tx, f"unpack {cart.id}")


async def charge_any(call: Call, cart: Cart) -> str:
    return await charge(call, cart, [])


async def refund_any(undo: Undo[str], cart: Cart) -> None: ...


async def send(tx: StepTransaction, cart: Cart, pack: str, charge: str, paid: Paid) -> str:
    await note(tx, f"send {pack}, {charge}, {paid.payment}")
    return "sent"


def receipt(cart: Cart, charge: str, ship: str) -> tuple[str, str]:
    return charge, ship


RESERVE = SagaStep("reserve", reserve, compensate=release)
PACK = SagaStep("pack", pack, compensate=unpack)
CHARGE = SagaCall("charge", charge, compensate=refund, probe=look_up)
PAID = SagaWait("paid", Paid, key=lambda cart, charge: charge, timeout=HOUR)
SHIP = SagaStep("ship", ship)
PACKED = SagaStep("pack", pack_any, compensate=unpack_any)
CHARGED = SagaCall("charge", charge_any, compensate=refund_any)
CAME = SagaWait("paid", Paid, key=lambda cart: cart.id, timeout=HOUR)
SEND = SagaStep("send", send)
SEND_NOTHING = SagaStep("nothing", reserve)


def checkout() -> Saga[Cart, tuple[str, str]]:
    return Saga("checkout", Cart, steps=[RESERVE, PACK, CHARGE, PAID, PIVOT, SHIP], result=receipt)


def registered(shop: Shop, saga: Any, **options: Any) -> Any:
    return shop.app.saga(**{"retry": QUICK, "errors": [Declined], **options})(saga)


async def test_a_list_of_steps_runs_to_its_end(shop: Shop) -> None:
    """P4, H340: steps, calls and waits, each given the argument and what it names; over a restart in between."""
    handle = await shop.start(registered(shop, checkout()), Cart("7"))
    await shop.rest()
    assert await handle.status() == "waiting"

    later = another(shop)
    registered(later, checkout())
    async with later.app.transaction() as session:
        later.app.sagas.signal(session, Paid(payment="P-7"))
    await later.rest()
    assert await handle.result() == ("P-7", "shipped")
    assert await shop.effects() == ["reserve 7", "pack hold 7", "ship box for hold 7, P-7"]
    marks = dict.fromkeys(str(fact.mark) for fact in await shop.facts() if hasattr(fact, "mark"))
    assert list(marks) == ["step reserve", "step pack", "call charge", "wait paid:", "pivot", "step ship"]


async def test_steps_of_a_list_run_at_the_same_time(shop: Shop) -> None:
    """P4, H390: none waits for the others, what follows has what all of them gave; over a restart in between."""
    saga = Saga("checkout", Cart, steps=[RESERVE, [CAME, PACKED, CHARGED], SEND])
    handle = await shop.start(registered(shop, saga), Cart("7"))
    await shop.rest()
    assert (await handle.status(), await shop.effects()) == ("waiting", ["reserve 7", "pack 7"])

    later = another(shop)
    registered(later, Saga("checkout", Cart, steps=[RESERVE, (CAME, PACKED, CHARGED), SEND]))
    async with later.app.transaction() as session:
        later.app.sagas.signal(session, Paid(payment="7"))
    await later.rest()
    assert await handle.status() == "completed"
    assert await shop.effects() == ["reserve 7", "pack 7", "send box 7, P-7, 7"]


async def test_what_fails_in_a_list_undoes_what_ran_beside_it(shop: Shop) -> None:
    """P4, I22, H390: when all that run have ended, the last first, and then what was done before."""
    late = SagaStep("late", pack_any, compensate=unpack_any)
    saga = registered(shop, Saga("checkout", Cart, steps=[RESERVE, [PACKED, CHARGED, late], SEND_NOTHING]))
    with pytest.raises(SagaFailed, match="compensated: Declined: 101"):
        await shop.run(saga, Cart("7", cents=101))
    facts = await shop.facts()
    done = [fact.mark.name for fact in facts if isinstance(fact, Ended)]
    assert sorted(done) == ["late", "pack", "reserve"]
    assert [fact.mark.name for fact in facts if isinstance(fact, Undone)] == done[::-1]
    assert (await shop.effects())[-1] == "release 7"


async def test_a_step_that_runs_with_others_is_none_that_runs_alone(sqlite_shop: Shop) -> None:
    """H171, H390: a list whose steps are put together does not go on with a journal where they were not."""
    first, then = SagaStep("first", reserve), SagaStep("then", pack_any)
    await sqlite_shop.start(registered(sqlite_shop, Saga("checkout", Cart, [first, then, CAME])), Cart("7"))
    await sqlite_shop.rest()
    later = another(sqlite_shop)
    registered(later, Saga("checkout", Cart, [[first, then], CAME]))
    async with later.app.transaction() as session:
        later.app.sagas.signal(session, Paid(payment="7"))
    await later.rest()
    assert "At 3 the journal has wait paid:" in (await later.row())["attention"]


async def test_a_list_may_sleep(tmp_path: Path) -> None:
    """P4, H340: the time is a row as any other wait, is nobody's argument, and tells one list from another."""
    clock = ManualClock()
    slept = SagaSleep("slept", HOUR)
    async with opened(f"sqlite+aiosqlite:///{tmp_path}/shop.db", clock=clock) as shop:
        handle = await shop.start(registered(shop, Saga("checkout", Cart, [RESERVE, slept, PACK])), Cart("7"))
        await shop.rest()
        assert (await handle.status(), await shop.effects()) == ("waiting", ["reserve 7"])
        clock.advance(HOUR)
        await shop.rest()
        assert await shop.effects() == ["reserve 7", "pack hold 7"]
    longer = Saga("checkout", Cart, [RESERVE, SagaSleep("slept", 2 * HOUR), PACK])
    assert longer.fingerprint != Saga("checkout", Cart, [RESERVE, slept, PACK]).fingerprint
    refused: Any = 5
    with pytest.raises(SagaDefinitionError, match="The time of slept is given 5, which is no timedelta"):
        SagaSleep("slept", refused)


async def test_what_fails_in_a_list_is_undone_in_reverse(shop: Shop) -> None:
    """P4, H340: with the arguments and results that it was done with; what has no compensation stays."""
    saga = registered(shop, Saga("checkout", Cart, steps=[RESERVE, PACK, CHARGE]))
    with pytest.raises(SagaFailed, match="compensated: Declined: 101"):
        await shop.run(saga, Cart("7", cents=101))
    assert await shop.effects() == ["reserve 7", "pack hold 7", "unpack hold 7", "release 7"]


async def test_behind_the_pivot_a_list_only_goes_forward(sqlite_shop: Shop) -> None:
    """P4, I22, H340: what fails there undoes nothing, and is shown to a person."""
    last = SagaStep("breaks", breaks, retry=RetryLadder(()))
    saga = registered(sqlite_shop, Saga("checkout", Cart, steps=[RESERVE, PIVOT, last]))
    await sqlite_shop.start(saga, Cart("7"))
    async with sqlite_shop.app.running():
        await sqlite_shop.watch.flagged.wait()
    assert "breaks fails" in (await sqlite_shop.row())["attention"]
    assert await sqlite_shop.effects() == ["reserve 7"]


async def test_a_list_that_was_mended_goes_on(sqlite_shop: Shop) -> None:
    """H171, H340: a mistake stops it and undoes nothing; the text of its functions is in the fingerprint."""

    def mistaken(cart: Cart, reserve: str) -> str:
        return reserve.nonsense

    await sqlite_shop.start(
        registered(sqlite_shop, Saga("checkout", Cart, steps=[RESERVE], result=mistaken)), Cart("7")
    )
    await sqlite_shop.rest()
    assert "no attribute 'nonsense'" in (await sqlite_shop.row())["attention"]

    def mended(cart: Cart, reserve: str) -> str:
        return reserve

    later = another(sqlite_shop)
    saga = registered(later, Saga("checkout", Cart, steps=[RESERVE], result=mended))
    await later.rest()
    assert await later.app.sagas.handle(saga, "order-1").result() == "hold 7"
    assert await sqlite_shop.effects() == ["reserve 7"]


async def test_another_order_of_steps_does_not_go_on_with_a_journal(sqlite_shop: Shop) -> None:
    """H171, H340: it is the same engine, so the first difference is named."""
    bare, paid = SagaStep("bare", reserve), SagaWait("paid", Paid, key=lambda cart: cart.id, timeout=None)
    await sqlite_shop.start(registered(sqlite_shop, Saga("checkout", Cart, steps=[RESERVE, bare, paid])), Cart("7"))
    await sqlite_shop.rest()
    later = another(sqlite_shop)
    registered(later, Saga("checkout", Cart, steps=[bare, RESERVE, paid]))
    async with later.app.transaction() as session:
        later.app.sagas.signal(session, Paid(payment="7"))
    await later.rest()
    assert "the journal has step reserve; the code asks for step bare" in (await later.row())["attention"]


async def unfit(tx: Transaction, cart: Cart) -> None: ...
async def silent(tx: StepTransaction, cart: Cart): ...
async def unkept(tx: StepTransaction, cart: Cart) -> Shop: ...
async def of_another(tx: StepTransaction, cart: str) -> None: ...
async def of_a_number(tx: StepTransaction, cart: Cart, reserve: int) -> None: ...
async def of_nobody(tx: StepTransaction, cart: Cart, reserv: str) -> None: ...
async def of_itself(tx: StepTransaction, cart: Cart, itself: str) -> str: ...
async def of_all(tx: StepTransaction, cart: Cart, *reserve: str) -> None: ...
async def out_of_order(tx: StepTransaction, cart: Cart, kind: str = "", reserve: str = "") -> None: ...
async def of_nothing(tx: StepTransaction) -> None: ...
def plain_call(call: Call, cart: Cart) -> None: ...


def made(*steps: Any, argument: Any = Cart, **options: Any) -> Callable[[], object]:
    def make() -> object:
        return Saga("checkout", argument, [step() if isinstance(step, partial) else step for step in steps], **options)

    return make


Step: Any = partial(partial, SagaStep)
CallOf: Any = partial(partial, SagaCall)
Wait: Any = partial(partial, SagaWait, "paid", Paid)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (made(), "checkout has no steps"),
        (made(PIVOT), "checkout has no steps"),
        (made(RESERVE, RESERVE), "two steps called reserve"),
        (made(RESERVE, PIVOT, PIVOT), "two pivots"),
        (made(PIVOT, RESERVE), "reserve has a compensation, but stands behind the pivot"),
        (made(RESERVE, reserve), "among its steps"),
        (made(RESERVE, argument=Cart("7")), "as the class of its argument"),
        (made(SagaStep("reserve", partial(reserve)), argument=str), "reserve takes Cart as cart; it is given"),
        (made(Step("reserve-it", reserve)), "'reserve-it' is no name for a step"),
        (made(Step("return", reserve)), "'return' is no name for a step"),
        (made(Step(7, reserve)), "7 is no name for a step"),
        (made(Step("reserve", None)), "reserve is given None, which cannot be called"),
        (made(Step("reserve", reserve, compensate=7)), "reserve is given 7, which cannot be called"),
        (made(Step("reserve", reserve, retry=3)), "3, which is no RetryLadder"),
        (made(Step("unfit", unfit)), "unfit takes Transaction as tx; it is given a StepTransaction"),
        (made(Step("charge", charge)), "charge takes Call as call; it is given a StepTransaction"),
        (made(Step("silent", silent)), "silent does not say what it returns"),
        (made(Step("unkept", unkept)), "unkept returns cannot be kept in a journal"),
        (made(Step("other", of_another)), "of_another takes str as cart; it is given the argument"),
        (made(RESERVE, Step("other", of_a_number)), "of_a_number takes int as reserve; reserve gives str"),
        (made(RESERVE, Step("other", of_nobody)), r"takes reserv, which no step before it gives.*Did you mean reserve"),
        (made(Step("itself", of_itself)), "takes itself, which no step before it gives; there are: none"),
        (made(RESERVE, Step("other", of_all)), r"takes \*reserve"),
        (made(RESERVE, Step("other", out_of_order)), "takes reserve: 'str' = ''"),
        (made(Step("other", of_nothing)), "of_nothing takes 1 arguments"),
        (made(RESERVE, Step("pack", pack, compensate=release)), "release cannot be called as pack is"),
        (made(Step("reserve", reserve, compensate=refund)), "refund cannot be called as reserve is"),
        (made(Step("reserve", reserve, compensate=unfit)), "unfit takes no StepTransaction first"),
        (made(CallOf("charge", plain_call)), "plain_call, of the call charge, is no async def"),
        (made(CallOf("charge", charge, timeout=timedelta(0))), "timeout of charge must be more than nothing"),
        (made(CallOf("charge", charge, timeout=30)), "30, which is no timedelta"),
        (made(CallOf("charge", charge, doubt="ask")), "'ask', which is no Doubt"),
        (made(RESERVE, PACK, CallOf("charge", charge, probe=refund)), "refund takes no Call first"),
        (made(Wait(key="id", timeout=None)), "paid is given 'id', which cannot be called"),
        (made(Wait(key=lambda: 7, timeout=None)), "takes 0 arguments; it is given the argument"),
        (made(Wait(key=lambda cart, charge: 7, timeout=None)), "takes charge, which no step before it gives"),
        (made(Wait(key=lambda cart: 7, timeout=None, by="nothing")), "Paid has no field 'nothing'"),
        (made([]), "has a list of 0 among its steps"),
        (made(RESERVE, (PACK,)), "has a list of 1 among its steps"),
        (made([RESERVE, PIVOT]), "has PIVOT among steps that run at the same time"),
        (made([RESERVE, [PACKED, CHARGED]]), r"has \[<.*\] among steps that run at the same time"),
        (made({RESERVE, PACKED}), r"has \{<.*\} among its steps"),
        (made([RESERVE, RESERVE]), "two steps called reserve"),
        (made(RESERVE, [PACKED, SagaStep("reserve", reserve)]), "two steps called reserve"),
        (made([RESERVE, PACK]), "takes reserve, which no step before it gives; there are: none"),
        (made(PIVOT, [SEND_NOTHING, PACKED]), "pack has a compensation, but stands behind the pivot"),
        (made(RESERVE, result=lambda cart: 7), "does not say what it returns"),
        (made(RESERVE, result=receipt), "takes charge, which no step before it gives"),
    ],
)
def test_a_list_that_cannot_be_run_is_refused(make: Callable[[], object], said: str) -> None:
    """P4, H340: where it is written, not when the first customer comes to that step; each with what to do."""
    with pytest.raises(SagaDefinitionError, match=said) as refused:
        make()
    assert refused.value.remedy


class Named(Protocol):
    name: str


@pytest.mark.parametrize(
    ("parameter", "given", "fits"),
    [
        (object, str, True),
        (str | None, str, True),
        (str, str | None, False),
        (float, int, True),
        (int, float, False),
        (list[str], list[str], True),
        (list[str], list[int], False),
        (dict[str, int | None], dict[str, int], True),
        (tuple[int, ...], tuple[int, ...], True),
        (Named, str, True),
        (Event, Paid, True),
        (Paid, Event, False),
    ],
)
def test_a_result_fits_what_takes_it(parameter: Any, given: Any, fits: bool) -> None:
    """H340: as type checkers see it, as far as run time tells."""
    assert accepts(parameter, given) is fits


def test_what_has_a_default_is_no_result() -> None:
    """H340: a parameter that names no step keeps its default; so does what is bound beforehand."""

    async def labelled(tx: StepTransaction, cart: Cart, reserve: str, label: str = "plain") -> str:
        return label

    saga = Saga("checkout", Cart, [RESERVE, SagaStep("one", labelled), SagaStep("two", partial(labelled, label="x"))])
    assert [line.takes for stage in saga.stages for line in stage] == [[], ["reserve"], ["reserve"]]


def test_the_fingerprint_is_of_the_whole_list() -> None:
    """H171, H340: the order, each function's text and each setting; and the same for what is the same."""

    async def reserve_more(tx: StepTransaction, cart: Cart) -> str:
        return ""

    other_key = SagaWait("paid", Paid, key=lambda cart: cart.id, timeout=HOUR)
    charged = SagaCall("charge", charge, compensate=refund, probe=look_up, doubt=Doubt.ASK)
    ladder = RetryLadder((HOUR,))
    variants = [
        Saga("checkout", Cart, [RESERVE, PACK, CHARGE, PAID]),
        Saga("checkout", Cart, [RESERVE, PACK, CHARGE, PIVOT, PAID]),
        Saga("checkout", Cart, [RESERVE, PACK, charged, PAID]),
        Saga("checkout", Cart, [RESERVE, PACK, CHARGE, other_key]),
        Saga("checkout", Cart, [SagaStep("reserve", reserve), PACK, CHARGE, PAID]),
        Saga("checkout", Cart, [SagaStep("reserve", reserve_more, compensate=release), PACK, CHARGE, PAID]),
        Saga("checkout", Cart, [SagaStep("reserve", reserve, compensate=release, retry=ladder), PACK, CHARGE, PAID]),
        Saga("checkout", Cart, [RESERVE, SagaStep("other", reserve)]),
        Saga("checkout", Cart, [SagaStep("other", reserve), RESERVE]),
        Saga("checkout", Cart, [[SagaStep("other", reserve), RESERVE]]),
        Saga("checkout", Cart, [[RESERVE, PACKED], SEND_NOTHING]),
        Saga("checkout", Cart, [RESERVE, [PACKED, SEND_NOTHING]]),
        Saga("checkout", Cart, [[RESERVE, PACKED, SEND_NOTHING]]),
    ]
    assert len({saga.fingerprint for saga in variants}) == len(variants)
    assert checkout().fingerprint == checkout().fingerprint


def test_a_fingerprint_is_the_same_in_each_process() -> None:
    """H171, H340: otherwise a saga that has stopped at a mistake would be taken by one process after the other."""
    program = "from sagas.test_steplist import told; print(told())"
    told_there = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert told_there == {f"{told()}\n"}


def told() -> str:
    """Give the text of functions that have none in a file, with sets and functions within."""

    class Action:
        def __call__(self, name: str) -> bool:
            return name == "x"

    return " ".join(
        map(text_of, [lambda name: name in {"one", "two", "three"} or [each + "." for each in name], Action(), print])
    )


def test_a_list_serves_its_versions(sqlite_shop: Shop) -> None:
    """P4, H340: two lists for one version are refused, and it is said where each is written."""
    first = registered(sqlite_shop, checkout())
    definition = sqlite_shop.app.sagas.definitions.of(first)
    assert definition.options.signals == (Signal(Paid),)
    with pytest.raises(SagaDefinitionError, match=r"test_steplist.py:\d+ in checkout, and .*test_steplist.py:\d+ in"):
        registered(sqlite_shop, checkout())
    registered(sqlite_shop, checkout(), version=2, since=2)


async def test_code_waits_beside_a_list(sqlite_shop: Shop) -> None:
    """P4, H340: what a list waits for is heard without signals=, and only once."""

    async def code(saga: SagaContext, payment: str) -> str:
        return (await saga.wait_for(Paid, key=payment, timeout=None)).payment

    listed = registered(
        sqlite_shop, Saga("listed", Cart, [SagaWait("paid", Paid, key=lambda cart: cart.id, timeout=None)])
    )
    coded = registered(sqlite_shop, code, signals=[Paid])
    handles = [await sqlite_shop.start(listed, Cart("7"), id="1"), await sqlite_shop.start(coded, "7", id="2")]
    async with sqlite_shop.app.transaction() as session:
        sqlite_shop.app.outbox.add(session, Paid(payment="7"))
    await sqlite_shop.rest()
    assert [await handle.status() for handle in handles] == ["completed", "completed"]
