"""`txp run`, `txp relay`, `txp consume` as processes."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys

import pytest

TXP = ("-c", "from txpatterns.cli import main; main()")


def slips(project):
    connection = sqlite3.connect(project / "orders.db")
    try:
        return connection.execute("SELECT count(*) FROM packing_slips").fetchone()[0]
    finally:
        connection.close()


def test_run_drain_does_what_is_due_and_ends(txp_process, place, project):
    """P1, P2: an order whose process is long gone is packed, once, however often the command runs."""
    order = place()
    ran = txp_process("run", "orders:app", "--drain")
    assert "orders runs on sqlite+aiosqlite:///orders.db and memory://" in ran.out
    assert f"packing {order}" in ran.out
    assert "packing" not in txp_process("run", "orders:app", "--drain").out
    assert slips(project) == 1


def test_run_makes_missing_tables_and_says_so(txp):
    """H100: the first start on SQLite needs no other command; the second says nothing of it."""
    assert re.search(r"made \d+ tables in sqlite\+aiosqlite:///orders.db", txp("run", "orders:app", "--drain").out)
    assert "made" not in txp("run", "orders:app", "--drain").out


def test_run_says_in_json_what_it_runs_on(txp):
    """One line for a program that starts others."""
    started, ended = map(json.loads, txp("run", "orders:app", "--drain", "--json").out.splitlines())
    assert started["app"] == "orders"
    assert ended["drained"]["handled"] == 0
    assert (started["database"], started["broker"]) == ("sqlite+aiosqlite:///orders.db", "memory://")


BARE = """
from txpatterns import App, Event
class Placed(Event, topic="o", type="placed", key="id"):
    id: str
app = App("plain", broker={broker!r})
"""


def test_an_app_whose_handlers_nobody_imported_is_refused_on_memory(txp, project):
    """P1, H205: its messages would be gone; they are kept instead."""
    (project / "plain.py").write_text(BARE.format(broker="memory://"))
    txp("db", "upgrade", "--app", "plain:app")
    txp("publish", "o", "placed", "--json", '{"id": "1"}', "--unknown", "--app", "plain:app")
    ran = txp("run", "plain:app", "--drain", code=1)
    assert ran.err.startswith("plain has no handlers here: on memory:// nothing is sent, and messages are kept.")
    assert "Import the modules with the handlers" in ran.err
    assert "TXP-1013 Messages wait" in ran.err
    assert "pending" in txp("outbox", "list", "--app", "plain:app").out


ONLY_SAGAS = """
import asyncio
from datetime import timedelta
from txpatterns import App
from txpatterns.sagas import SagaContext, StepTransaction

app = App("plain")

async def step(tx: StepTransaction) -> None:
    print("step of", tx.saga_id)

@app.saga()
async def short(saga: SagaContext) -> None:
    await saga.step(step)

@app.saga()
async def long(saga: SagaContext) -> None:
    await saga.step(step)
    await saga.sleep(timedelta(days=1))

async def main() -> None:
    async with app, app.transaction() as session:
        app.sagas.start(session, short, id="short-1")
        app.sagas.start(session, long, id="long-1")

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_an_app_that_has_only_sagas_is_drained(txp, project):
    """P4, P7: they run, and what is left of them is told; its messages are kept as of any App without handlers."""
    (project / "plain.py").write_text(ONLY_SAGAS)
    subprocess.run([sys.executable, "plain.py"], cwd=project, check=True, timeout=60)
    ran = txp("run", "plain:app", "--drain", code=4)
    assert ran.err.startswith(
        "plain has no handlers here: on memory:// nothing is sent, and messages are kept; its sagas"
    )
    assert sorted(re.findall("step of .*", ran.out)) == ["step of long-1", "step of short-1"]
    assert "done: 1 saga ended" in ran.out
    assert re.search("sagas +waiting +plain.long +- +long-1", ran.out)


def test_an_app_without_handlers_has_nothing_to_consume(txp, project):
    """P7, H205: refused, and not idle for ever."""
    (project / "plain.py").write_text(BARE.format(broker="kafka://127.0.0.1:1"))
    ran = txp("consume", "plain:app", code=1)
    assert ran.err.startswith("TXP-1001 plain:app has no handlers, so there is nothing to consume.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(child, project, number):
    """H37: the exit code of a stop that was asked for is 0, and nothing is printed but the line of the start."""
    running = child(*TXP, "run", "orders:app")
    running.wait_for("orders runs on")
    os.kill(running.pid, number)
    assert running.wait() == 0
    assert [line for line in running.lines if "runs on" not in line and "made" not in line] == []


def test_an_order_placed_while_it_runs_is_packed(child, place):
    """P1: another process commits; the running one finds it."""
    running = child(*TXP, "run", "orders:app")
    running.wait_for("orders runs on")
    order = place()
    running.wait_for(f"packing {order}")
    running.sigterm()
    assert running.wait() == 0


def test_the_collector_spares_what_is_loaded(child, project):
    """H378: in a process that is ours; what its handlers make is collected."""
    (project / "plain.py").write_text(
        BARE.format(broker="memory://") + "import gc\nfrom txpatterns import Transaction\n@app.on(Placed)\n"
        "async def see(event: Placed, tx: Transaction) -> None:\n"
        '    print("spared" if gc.get_freeze_count() > 10_000 else "none", "collects" if gc.isenabled() else "not")\n'
    )
    running = child(*TXP, "run", "plain:app")
    running.wait_for("plain runs on")
    publish = [*TXP, "publish", "o", "placed", "--json", '{"id": "1"}', "--app", "plain:app"]
    subprocess.run([sys.executable, *publish], cwd=project, check=True, timeout=60)
    running.wait_for("spared collects")
    running.sigterm()
    assert running.wait() == 0


@pytest.mark.parametrize("command", ["relay", "consume"])
def test_half_of_it_on_the_broker_in_the_process_is_refused(txp, command):
    """P1: a relay without handlers on memory:// would confirm what nobody handles."""
    ran = txp(command, "orders:app", code=1)
    assert (ran.out, ran.err[:21]) == ("", "TXP-1013 On memory://")
    assert ran.err.count("\n") == 1


def test_an_app_that_is_not_there_is_one_line(txp, project):
    """H256: a mistyped name is the commonest first error."""
    (project / "store").mkdir()
    (project / "store" / "orders.py").touch()
    for name, said in (
        ("ordres:app", "There is no module 'ordres'"),
        ("orders:ap", "orders has orders:app"),
        ("orders:Order", "orders has orders:app"),
        ("orders", "is not MODULE:APP"),
        ("ordres:app", "Did you mean orders:app?"),
        ("orders.py:app", "Name the module, not its file: orders:app"),
        ("store/orders.py:app", "Name the module, not its file: store.orders:app"),
        ("store.ordres:app", "Did you mean store.orders:app?"),
        ("zzz.orders:app", "Run it where zzz can be imported"),
    ):
        err = txp("run", name, code=1).err
        assert err.startswith("TXP-1001 "), err
        assert said in err
        assert "Fix: " in err
        assert err.count("\n") == 1


FAILING = """
from txpatterns import App, Event, Transaction

app = App("failing", "sqlite+aiosqlite:///failing.db", "memory://")


class Failing(Event, topic="failing", type="failing", key="number"):
    number: int


@app.on(Failing, permanent=[TypeError])
async def fail(event: Failing, tx: Transaction) -> None:
    raise (TypeError if event.number else ValueError)(f"number {event.number}\\nrow: {event.number + 4111}")
"""


def test_a_failing_handler_is_seen(child, project, txp):
    """P4: without any telemetry, whoever looks at the terminal sees what failed and what was given up."""
    (project / "failing.py").write_text(FAILING)
    for number in (0, 1):
        txp("publish", "failing", "failing", "--json", f'{{"number": {number}}}', "--app", "failing:app")
    running = child(*TXP, "run", "failing:app", "--verbose")
    failed = running.wait_for("failing.fail failed at failing")
    assert re.search(r"WARNING txpatterns .* on failing in attempt 1: ValueError: number 0$", failed)
    assert running.wait_for("is a dead letter, failing.fail gave it up")
    running.wait_for('failing.py", line 13, in fail')
    assert "row: 411" not in running.output
    running.sigterm()
    assert running.wait() == 0


def test_a_database_without_tables_is_refused_with_the_command(txp, database, project):
    """H100: on PostgreSQL nothing is made behind anybody's back."""
    (project / "plain.py").write_text("from txpatterns import App\napp = App('plain')\n")
    url = database.url("asyncpg")
    ran = txp("run", "plain:app", "--drain", code=1, TXP_DATABASE_URL=url)
    assert ran.err.startswith("TXP-1020")
    assert "txp db upgrade" in ran.err
    txp("db", "upgrade", TXP_DATABASE_URL=url)
    ran = txp("run", "plain:app", "--drain", TXP_DATABASE_URL=url)
    assert "(to change: TXP_DATABASE_URL, TXP_BROKER_URL)" in ran.out
