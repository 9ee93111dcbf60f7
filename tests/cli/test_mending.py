"""A stranger's first failure: seen, understood, mended and retried by `txp` alone; and what each command says of it."""

import json
import re

import pytest

FAILING = """
from datetime import timedelta

from txpatterns import App, Event, FailurePolicies, FailurePolicy, OnFailure, RetryLadder, Transaction

quick = RetryLadder((timedelta(milliseconds={wait}),))
app = App("ledger", policies=FailurePolicies(FailurePolicy(OnFailure.{policy}, quick)))


class Paid(Event, topic="payments", type="order.paid", key="order"):
    order: str
    number: int


@app.on(Paid)
async def book(event: Paid, tx: Transaction) -> None:
    if event.number in {bad}:
        raise ValueError("the ledger is closed")
    print("booked", event.order, event.number)
"""
APP = ("--app", "ledger:app")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def ledger(request, txp, project):
    """`ledger("dlq", "list")`; `ledger.write(...)` is the user who changes the module."""
    url = "sqlite+aiosqlite:///ledger.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("database").url("asyncpg")
        txp("db", "upgrade", "--database", url)

    def run(*arguments, code=0, **environment):
        return txp(*arguments, code=code, TXP_DATABASE_URL=url, **environment)

    def write(policy="HOLD", bad=(), wait=20):
        said = {"{policy}": policy, "{bad}": repr(tuple(bad)), "{wait}": str(wait)}
        source = FAILING
        for name, text in said.items():
            source = source.replace(name, text)
        (project / "ledger.py").write_text(source)

    def pay(*numbers):
        for number in numbers:
            run("publish", "payments", "order.paid", "--json", json.dumps({"order": "A", "number": number}), *APP)

    run.write, run.pay = write, pay
    return run


def drained(ledger):
    """Drain until no attempt is left to come; gives all that was printed."""
    out = ""
    while True:
        ran = ledger("run", "ledger:app", "--drain", "--json", code=None)
        out += ran.out
        if "retrying" not in ran.out:
            return out


def test_a_failure_is_seen_understood_mended_and_retried(ledger):
    """P2, P3, P7, H250, H251, H253: by `txp` alone, on both databases; the counts fall when it is mended."""
    ledger.write("PARK", bad=[1])
    ledger.pay(1, 2)
    drained(ledger)
    (letter,) = ledger("dlq", "list", *APP, "--json").json
    assert "the ledger is closed" in letter["error"]
    assert "ledger.py" in letter["error"]
    shown = ledger("dlq", "show", str(letter["id"]), *APP).out
    assert '"number":1' in shown
    assert [entry["state"] for entry in ledger("inbox", "list", *APP, "--json").json] == ["parked", "behind"]
    assert ledger("status", *APP, "--json").json["dead"] == 1
    assert "2 messages at handlers" in (told := ledger("outbox", "list", *APP).out)
    assert "1 dead letter (see: txp dlq list --app ledger:app)" in told
    ledger.write("PARK")
    assert "put back: 1" in ledger("dlq", "retry", str(letter["id"]), *APP, "--reason", "opened").out
    ran = ledger("run", "ledger:app", "--drain", code=None).out + drained(ledger)
    assert ran.index("booked A 1") < ran.index("booked A 2")
    depths = ledger("status", *APP, "--json").json
    assert (depths["waiting"], depths["dead"], depths["oldest_age"]) == (0, 0, "0ms")
    (entry,) = ledger("dlq", "audit", *APP, "--json").json
    assert (entry["action"], entry["reason"], entry["dead_letter"]) == ("retry", "opened", letter["id"])
    assert "@" in entry["who"]
    assert "handled at" in ledger("inbox", "show", letter["message_id"], *APP).out


def test_what_is_said_to_show_more_runs_as_it_is_printed(ledger):
    """H260: it leads to the same database, as the options or the environment of the first command did."""
    ledger.write(bad=[1])
    ledger.pay(1)
    out = drained(ledger) + ledger("run", "ledger:app", "--drain", code=None).out
    looks = [ledger(*command, *APP, code=None).out for command in (["status"], ["outbox", "list"], ["dlq", "list"])]
    (letter,) = ledger("dlq", "list", *APP, "--json").json
    looks += [ledger(place, "show", letter["message_id"], *APP, code=None).out for place in ("outbox", "inbox")]
    printed = set(re.findall(r"txp (?:outbox|inbox|dlq) [a-z]+[^;()\n]*", "\n".join([out, *looks])))
    assert len(printed) >= 6
    for line in printed:
        ledger(*line.replace(" ID", f" {letter['id']}").split()[1:], code=None if " show " in line else 0)
        assert line.endswith(" --app ledger:app")
    assert "--app" not in ledger("status", TXP_APP="ledger:app").out


def test_a_long_error_keeps_the_line_of_the_users_code(ledger, project):
    """H260: where there is room for 80 characters, they are not those of a folder's name."""
    ledger.write(bad=[1], wait=3_600_000)
    source = (project / "ledger.py").read_text().replace("the ledger is closed", f"{'very ' * 40}closed\\nrow: 4111")
    (project / "ledger.py").write_text(source)
    ledger.pay(1)
    out = ledger("run", "ledger:app", "--drain", code=4).out
    assert re.search(r"ValueError: very very .*… \(at ledger\.py:18 in book\)$", out, re.MULTILINE)
    assert "4111" not in out


def test_many_are_looked_at_first_and_then_exactly_those_are_done(ledger):
    """H254: a dry run changes nothing, without a terminal it takes --yes, and what does not match stays."""
    ledger.write(bad=[1, 2, 3])
    ledger.pay(1, 2, 3)
    drained(ledger)
    first, *_ = ledger("dlq", "list", *APP, "--json").json
    chosen = ("--matching", f"message:{first['message_id']} error:*LEDGER*")
    assert "to drop, in this order: 1" in ledger("dlq", "drop", *chosen, *APP, "--dry-run", "--reason", "x").out
    refused = ledger("dlq", "drop", *chosen, *APP, "--reason", "x", code=1).err
    assert "1 dead letter would be affected, and there is nobody to ask" in refused
    assert len(ledger("dlq", "list", *APP, "--json").json) == 3
    assert ledger("dlq", "drop", *chosen, *APP, "--reason", "x", "--yes", "--json").json["done"] == [first["id"]]
    assert ledger("dlq", "list", *chosen, *APP, "--json").json == []
    ledger.write()
    ran = ledger("dlq", "retry", "--matching", "consumer:ledger.book", *APP, "--yes", "--json").json
    assert (len(ran["done"]), ran["kept"]) == (2, [])
    out = ledger("run", "ledger:app", "--drain", code=None).out
    assert out.index("booked A 2") < out.index("booked A 3")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["retry", "99"], 3, "no dead letters like that"),
        (["show", "99"], 3, "there is no dead letter 99"),
        (["show", "9" * 30], 2, "9223372036854775807"),
        (["retry", "0"], 2, "Invalid value"),
        (["retry"], 2, "give either one ID, or --matching"),
        (["retry", "1", "--matching", "topic:*"], 2, "give either one ID, or --matching"),
        (["drop", "1"], 1, "Give --reason TEXT"),
        (["list", "--matching", "colour:red"], 1, "the names are topic, type"),
        (["list", "--matching", ""], 1, "Nothing is said of what to match"),
        (["list", "--matching", '"'], 1, "cannot be read"),
    ],
)
def test_what_is_called_wrongly_says_how(txp, place, arguments, code, said):
    """H254: nothing is guessed where messages are moved."""
    place()
    ran = txp("dlq", *arguments, "--app", "orders:app", code=code)
    assert said in ran.out + ran.err


def test_a_retry_needs_the_app_that_knows_the_handlers(txp):
    """H250: a database alone cannot say who handles a message."""
    assert txp("dlq", "retry", "7", code=1).err.startswith("TXP-1001 Which App?")


def test_a_drain_says_what_waits_until_when_and_why(ledger):
    """H255: with an exit code of its own; 0 when nothing waits."""
    ledger.write()
    ledger.pay(5)
    assert "done: 1 published, 1 handled" in ledger("run", "ledger:app", "--drain").out
    assert "done: nothing was due" in ledger("run", "ledger:app", "--drain").out
    ledger.write(bad=[6], wait=3_600_000)
    ledger.pay(6)
    started, ended = map(json.loads, ledger("run", "ledger:app", "--drain", "--json", code=4).out.splitlines())
    assert started["app"] == "ledger"
    assert (ended["drained"]["published"], ended["waits"]) == (1, 1)
    (waiting,) = ended["waiting"]
    assert (waiting["where"], waiting["state"], waiting["key"]) == ("ledger.book", "retrying", "A")
    assert waiting["until"] > "2026"
    assert "the ledger is closed" in waiting["why"]


BROKEN = {
    "syntax": ("app = App(", "SyntaxError: '(' was never closed", "Correct that line."),
    "missing": ("import frobnicate", "No module named 'frobnicate'", "install what provides 'frobnicate'"),
    "name": (
        "def make():\n    return Ap('x')\n\napp = make()",
        "NameError: name 'Ap' is not defined",
        "Correct the line",
    ),
    "import": ("from txpatterns import Evnt", "cannot import name 'Evnt'", "Correct the name"),
    "exit": ("import sys\nsys.exit(3)", "SystemExit: 3", "__main__"),
    "raised": ("raise ValueError('postgresql://u:hunter2@h/x is bad')", "ValueError: ", "Correct the line"),
    "event": (
        "from txpatterns import Event\nclass A(Event, type='x'): ...",
        "A needs both topic= and type=",
        "Write: ",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_module_shows_the_users_frames_one_line_and_a_fix(txp, project, kind):
    """H256, H151: nothing of the library or of Python's import, no secret; JSON for programs."""
    source, said, fix = BROKEN[kind]
    (project / "plain.py").write_text(source + "\n")
    *frames, line = txp("run", "plain:app", code=1).err.rstrip().splitlines()
    assert said in line
    assert fix in line.partition("Fix: ")[2]
    assert line.startswith("TXP-10")
    shown = "\n".join(frames)
    assert "plain.py" in shown
    for foreign in ("importlib", "txpatterns/cli", "hunter2"):
        assert foreign not in shown + line.partition("(")[0]
    error = json.loads(txp("outbox", "list", "--app", "plain:app", "--json", code=1).err)["error"]
    assert "plain.py" in error["where"]


def test_a_type_that_the_app_does_not_know_is_not_published_by_mistake(txp):
    """H258: without a terminal it is refused, with the types that are near; a wish is a flag."""
    given = ("publish", "order-events", "order.place", "--json", '{"order_id": "7"}', "--app", "orders:app")
    err = txp(*given, code=1).err
    assert err.startswith("TXP-1201 The App knows no type 'order.place'; near it are order.placed.")
    assert "--unknown" in err
    assert txp(*given, "--unknown").out.strip()


def test_on_a_terminal_one_is_asked(txp, place, monkeypatch):
    """H254, H258: no is an answer, and changes nothing."""
    place()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    given = ("publish", "order-events", "order.place", "--json", '{"order_id": "7"}', "--app", "orders:app")
    assert "nothing was published" in txp(*given, code=3).err
