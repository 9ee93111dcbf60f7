"""The scripts that run inside Redis, and how their answers are read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files

from txpatterns.tcc.stock.contract import Reservation, State
from txpatterns.tcc.stock.ledger import Held, Hold
from txpatterns.tcc.stock.limits import read, written

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script, and the digest that Redis knows it by."""

    name: str
    text: str
    sha: str


def _script(name: str, *, guarded: bool = True) -> Script:
    folder = files("txpatterns.tcc.stock.redis") / "lua"
    parts = [f"{part}.lua" for part in (("head", name) if guarded else (name,))]
    text = "\n".join((folder / part).read_text(encoding="utf-8") for part in parts)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


RESERVE = _script("reserve")
SETTLE = _script("settle")
PROLONG = _script("prolong")
COUNT = _script("count")
LEVELS = _script("levels")
RECORD = _script("record")
OVERDUE = _script("overdue")
# Of the rebuilding, which is what makes a generation ready for the others.
BEGIN = _script("begin", guarded=False)
LOAD = _script("load", guarded=False)
SERVE = _script("serve", guarded=False)
RELEASE = _script("release", guarded=False)


def milliseconds(duration: timedelta) -> str:
    """Write a duration for a script."""
    return str(duration // _MILLISECOND)


def instant(at: datetime | None) -> str:
    """Write a time for a script; 0 is none."""
    return "0" if at is None else milliseconds(at - _EPOCH)


def write_record(held: Held) -> str:
    """Write a reservation as the scripts keep it."""
    made = held.reservation
    return f"{made.state} {instant(made.expires_at)} {int(made.prolonged)} {held.hold} {written(made.lines)}"


def read_record(reservation_id: str, record: str) -> Held:
    """Read what the scripts keep of a reservation."""
    first, _, short = record.partition("\n")
    state, until, prolonged, hold, lines = first.split(" ", 4)
    expires_at = None if until == "0" else _EPOCH + int(until) * _MILLISECOND
    generation, _, number = hold.partition(".")
    made = Reservation(
        reservation_id, State(state), read(lines), expires_at, prolonged == "1", read(short) if short else {}
    )
    return Held(made, Hold(int(generation), int(number)))
