"""Writes the page of the docs from what the long runs have left in this folder: ``python tests/evidence/page.py``."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PAGE = FOLDER.parent.parent / "docs/reference/evidence.md"
NAMED = re.compile(r"\d{4}-\d\d-\d\d-(?P<name>.+)")

DATABASES = {"asyncpg": "PostgreSQL, asyncpg", "psycopg": "PostgreSQL, psycopg", "sqlite": "SQLite"}
BROKERS = {"kafka": "Kafka", "rabbitmq": "RabbitMQ", "sqs": "SQS (ElasticMQ)", "database": "`database://`"}
MACHINE = ("python", "system", "cpu", "cores")

LOST = ("not_committed", "lost", "not_published")
TWICE = ("phantoms", "effects_twice", "published_but_not_committed", "bodies_that_differ")
INVERTED = ("inversions_of_first_effects", "inversions_of_first_publications")
SUMS = ("money_missing", "pieces_missing", "sold_but_not_bought", "shelves_below_zero", "snapshots_without_all_money")

_HEAD = """# Evidence

Written by `python tests/evidence/page.py` from the files in `tests/evidence`, which the long runs leave there; do not
edit. `tox run -e soak` runs them all and writes this page anew. A run that finds something wrong fails, and leaves
nothing here.
"""
_FAULTS = """## Messages, under faults of processes, servers and the network

Two relays and two consumers, each a process of its own, on two sides of a network; each side reaches each server
through a proxy. Buyers pay in the transaction that sends the message; its handler pays the seller and takes a piece
from the shelf. Meanwhile one fault after the other strikes, at a random place, each while messages are under way. A
fault counts when it was seen: the proxy counts what it did to bytes or connections, a process or a server is seen to
have stopped or ended. The money, with what is on its way, is counted after each fault too.

One command: `tox run -e soak -- tests/endtoend/test_faults.py`; `TXP_SOAK_SHARE=0.1` before it runs a tenth.
"""
_SAGAS = """## Sagas, under kills

Three engines, each a process of its own, run sagas that move money: in steps, by a call to somebody who takes no part
in their transactions, with a wait for an event, under a lock with a child, and in two branches at once. A third is
undone at its end; in a quarter the first attempt fails of each step, call and undoing. So half of them fail somewhere.
Meanwhile one fault after the other strikes, each when another eighth of them has ended. Then each saga must have come
to its own end, each effect must be there once, and the money must add up.

One command: `tox run -e soak -- tests/endtoend/test_sagas.py`; `TXP_SOAK_SAGAS=1000` before it runs a tenth.
"""
_COLUMNS = (
    "messages",
    "faults",
    "lost",
    "twice or made up",
    "out of order",
    "dead letters",
    "wrong sums",
    "sent again",
)

Figures = Mapping[str, Any]


def newest() -> dict[str, Figures]:
    """The last run of each name."""
    found = {}
    for file in sorted(FOLDER.glob("*.json")):
        if named := NAMED.fullmatch(file.stem):
            found[named["name"]] = json.loads(file.read_text())
    return found


def markdown(runs: Mapping[str, Figures]) -> str:
    """The whole page.

    Raises:
        LookupError: a run has no section here, so its figures would be left out in silence.
    """
    parts, left = [_HEAD], dict(runs)
    for prefix, section in SECTIONS.items():
        mine = {name.removeprefix(prefix): left.pop(name) for name in runs if name.startswith(prefix)}
        if mine:
            parts += section(mine)
    if left:
        raise LookupError(f"no section tells of {', '.join(left)}")
    return "\n".join(parts)


def _of_faults(runs: Mapping[str, Figures]) -> Iterator[str]:
    yield _FAULTS
    yield f"| database | broker | {' | '.join(_COLUMNS)} |"
    yield f"|---|---|{'---:|' * len(_COLUMNS)}"
    for name, run in runs.items():
        database, broker = name.split("-")
        again = f"{run['duplicates_on_the_wire']:,}" if "duplicates_on_the_wire" in run else "not kept"
        counts = [run["messages"], sum(run["fired"].values()), *(_sum(run, keys) for keys in (LOST, TWICE, INVERTED))]
        cells = [f"{count:,}" for count in [*counts, run["dead_letters"], _sum(run, SUMS)]]
        yield f"| {DATABASES[database]} | {BROKERS[broker]} | {' | '.join(cells)} | {again} |"
    messages = sum(run["messages"] for run in runs.values())
    fired = sum((Counter(run["fired"]) for run in runs.values()), Counter[str]())
    yield f"\n{messages:,} messages and {fired.total():,} faults in all. {_bound(fired.total(), 'fault')}"
    yield "*Sent again* is how many copies the broker had of what was there already: the inbox drops them.\n"
    yield "| fault | times |\n|---|---:|"
    yield from (f"| {kind} | {times:,} |" for kind, times in sorted(fired.items()))
    yield "\nThe runs, each with its seed, servers and machine:\n"
    for name, run in runs.items():
        database, broker = name.split("-")
        yield f"- {DATABASES[database]} with {BROKERS[broker]}: {run['seconds']:,} s, seed {run['seed']}. {_ran(run)}"
    yield ""


def _of_crashes(runs: Mapping[str, Figures]) -> Iterator[str]:
    [run] = runs.values()
    yield "## Crash points\n"
    yield (
        "Every flow of the library is run once, to count the places where it waits for the database or the broker. "
        "Then it is run again for each case: killed or disturbed at one of these places, recovered, and judged.\n"
    )
    yield "One command: `tox run -e soak -- tests/crash/test_crash_points.py`.\n"
    failed = f"{len(run['failed'])} failed. {_bound(run['cases'], 'case')}"
    yield f"{run['points']:,} points, {run['cases']:,} cases in {run['seconds']:,} s, seed {run['seed']}. {failed}"
    yield "*Then* is a second fault, in the recovery from the first.\n"
    yield "| fault | cases |\n|---|---:|"
    yield from (f"| {kind} | {cases:,} |" for kind, cases in sorted(run["cases_by_fault"].items()))
    yield f"\n{len(run['not_reached'])} more were drawn whose place the flow did not come to. {_ran(run)}\n"


def _of_sagas(runs: Mapping[str, Figures]) -> Iterator[str]:
    [run] = runs.values()
    yield _SAGAS
    ends = " and ".join(f"{count:,} {end}" for end, count in sorted(run["ends"].items(), reverse=True))
    failed = f"{run['failed_attempts']:,} attempts failed and were followed by another one."
    yield f"{run['sagas']:,} sagas in {run['seconds']:,} s: {ends}. {failed} {_ran(run)}"
    yield f"The faults, in this order: {'; '.join(run['faults'])}.\n"
    yield "| what must not be | times |\n|---|---:|"
    yield from (f"| {name.replace('_', ' ')} | {count:,} |" for name, count in sorted(run["wrong"].items()))
    yield ""


def _bound(trials: int, what: str) -> str:
    """What none of so many says: with 95 % confidence the rate is below 3 in that number."""
    return f"Nothing wrong in {trials:,} bounds the rate to {3 / trials:.1e} for each {what}, with 95 % confidence."


def _ran(run: Figures) -> str:
    servers = ", ".join(run["servers"]) or "no server"
    return f"On {run['when'][:10]}: {servers}; {', '.join(f'{name} {run[name]}' for name in MACHINE)}."


def _sum(run: Figures, names: tuple[str, ...]) -> int:
    return sum(abs(run.get(name, 0)) for name in names)


SECTIONS = {"faults-": _of_faults, "crash-points": _of_crashes, "sagas-end-to-end": _of_sagas}
"""Who tells of the runs whose names begin so."""


if __name__ == "__main__":
    PAGE.write_text(markdown(newest()))
