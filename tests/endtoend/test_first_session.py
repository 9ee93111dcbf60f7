"""The first session of somebody who has the README and nothing else, from the pasted file to a message sent again.

Read it from top to bottom: what is typed is what they type, in an empty folder, and `txp` is all they have. The rest of
their hour is elsewhere: the installation in tests/smoke/readme.py, the shop in two windows of a browser in
examples/shop/tests/test_browser.py.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing

import pytest

from docs.reader import BLOCK, ROOT, Reader

TXP_RUN = ("-c", "from txpatterns.cli import main; main()", "run", "orders:app")
SHELVES = """SHELVES = {Decimal("5.00"): "A"}


@app.on(OrderPlaced)"""


class Stranger:
    """Somebody at a terminal, with the README's file in an empty folder."""

    def __init__(self, folder):
        self.file, self._database = folder / "orders.py", folder / "orders.db"
        self._reader = Reader(folder)
        page = (ROOT / "README.md").read_text(encoding="utf-8")
        *_, self._pasted = (block["text"] for block in BLOCK.finditer(page) if block["file"] == "orders.py")
        self.file.write_text(self._pasted, encoding="utf-8")

    def types(self, command, code=0):
        """Run a command that ends with this exit code; gives what is seen, the log included."""
        seen, ended = self._reader.output(command)
        assert ended == code, f"$ {command}\n{seen}\nended with {ended}"
        assert "Traceback" not in seen or "show" in command, seen
        return seen

    def changes(self, before, after):
        """Edit the file."""
        text = self.file.read_text(encoding="utf-8")
        assert text.count(before) == 1
        self.file.write_text(text.replace(before, after), encoding="utf-8")

    def line_of(self, code):
        """The number of the line that has this code."""
        lines = self.file.read_text(encoding="utf-8").splitlines()
        (number,) = (number for number, line in enumerate(lines, start=1) if code in line)
        return number

    def packed(self):
        """The orders that have a packing slip."""
        with closing(sqlite3.connect(self._database)) as connection:
            return [order for (order,) in connection.execute("SELECT order_id FROM packing_slips")]


@pytest.fixture
def stranger(tmp_path):
    return Stranger(tmp_path)


def test_a_handler_fails_and_is_seen_understood_mended_and_retried(stranger, child):
    """P1, P2, P3, P7, H250, H253, H255, H260: by `txp` alone; nothing is lost, and the effect happens once."""
    # An order for which there is no shelf: the handler fails.
    stranger.changes("@app.on(OrderPlaced)", SHELVES)
    stranger.changes('print("packing", event.order_id)', 'print("packing", event.order_id, SHELVES[event.total])')
    order = stranger.types("python orders.py").removeprefix("placed ").strip()
    failing = f"orders.py:{stranger.line_of('SHELVES[event.total]')}"

    # Seen: the log begins with the line, and the end says what waits, until when and why.
    seen = stranger.types("txp run orders:app --drain", code=4)
    assert re.search(rf"{failing}: orders\.start_packing failed at .* in attempt 1: KeyError: .*19\.90", seen)
    assert "done: 1 published, 1 failed\n1 waits:\n" in seen
    assert f"(at {failing} in start_packing)" in seen.splitlines()[-1]

    # Understood: each command names the next one, as it can be copied.
    (look,) = re.findall(r"^1 .*  (txp .*)$", stranger.types("txp status --app orders:app"), re.MULTILINE)
    waiting = stranger.types(look).splitlines()[1].split()
    assert waiting[1:4] == ["orders.start_packing", "retrying", "order.placed"]
    shown = stranger.types(f"txp inbox show {waiting[0]} --app orders:app")
    assert "retrying after 1 attempt, next attempt at" in shown
    assert "SHELVES[event.total]" in shown
    assert '"total":"19.90"' in shown

    # No further attempt will bring a shelf; so it is given up, and none of its effect is there.
    stranger.changes("@app.on(OrderPlaced)", "@app.on(OrderPlaced, permanent=[KeyError])")
    running = child(*TXP_RUN)
    running.wait_for("is a dead letter, orders.start_packing gave it up: KeyError")
    running.sigterm()
    assert running.wait() == 0
    assert stranger.packed() == []
    (look,) = re.findall(r"^1 .*  (txp .*)$", stranger.types("txp status --app orders:app"), re.MULTILINE)
    letter = stranger.types(look).splitlines()[1]
    assert re.search(rf"order\.placed +{order} .* permanent +KeyError: .* \(at {failing} in start_packing\)$", letter)
    number = letter.split()[0]
    assert "SHELVES[event.total]" in stranger.types(f"txp dlq show {number} --app orders:app")

    # Mended and retried, while it runs.
    stranger.changes("SHELVES[event.total]", 'SHELVES.get(event.total, "on the floor")')
    running = child(*TXP_RUN)
    running.wait_for("orders runs on")
    retried = stranger.types(f"txp dlq retry {number} --app orders:app --reason 'no shelf was needed'")
    assert retried.startswith(f"put back: 1 ({number})\n")
    running.wait_for(f"packing {order} on the floor")
    running.sigterm()
    assert running.wait() == 0

    # Done, once, and written down.
    assert "done: nothing was due" in stranger.types("txp run orders:app --drain")
    assert stranger.packed() == [order]
    assert stranger.types("txp status --app orders:app").endswith("nothing waits\n")
    assert "orders.start_packing: handled at" in stranger.types(f"txp inbox show {waiting[0]} --app orders:app")
    assert "no shelf was needed" in stranger.types("txp dlq audit --app orders:app")


def test_typing_errors_are_a_line_and_a_fix(stranger):
    """H256: in the module's name, in the command, and in the file: the stranger's own lines and nobody else's."""
    said = stranger.types("txp run ordres:app", code=1)
    assert said.count("\n") == 1
    assert said.startswith("TXP-1001 There is no module 'ordres'. Fix: ")
    assert said.endswith("Did you mean orders:app?\n")
    assert "Did you mean 'list'?" in stranger.types("txp outbox lst --app orders:app", code=2)

    stranger.changes("total: Mapped[Decimal]", "total: Maped[Decimal]")
    for command in ("txp run orders:app", "txp status --app orders:app"):
        *frames, line = stranger.types(command, code=1).splitlines()
        assert f'  File "{stranger.file}", line {stranger.line_of("Maped")}, in Order' in frames
        assert all("File" not in frame or str(stranger.file) in frame for frame in frames)
        assert line.startswith("TXP-1001 orders cannot be imported: NameError: name 'Maped' is not defined (")
        assert line.endswith("Fix: Correct the line that is shown.")

    stranger.changes("total: Maped[Decimal]", "total: Mapped[Decimal]")
    assert "done: nothing was due" in stranger.types("txp run orders:app --drain")
