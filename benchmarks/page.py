"""The page of the docs and the figures behind it, written anew after each table: nothing is lost by stopping early."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.harness import Extra, Line, Ratio, Table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results"
PAGE = ROOT / "docs/reference/benchmarks.md"
_HEAD = """# Benchmarks

Written by `tox run -e bench`; do not edit. Read the ratios: both sides of each ran in turn, round by round, in one run,
and the median of the rounds' own ratios is shown, with its goal. The figures themselves say little about your machine.
A goal that was missed is marked. `python -m benchmarks trouble --rounds 1` is quick, and shows what flows beside a
topic or a key in trouble.
"""


def save(table: Table) -> None:
    """Put a table among those of this day, and write the page from the newest of each."""
    today = RESULTS / f"{datetime.now(UTC):%Y-%m-%d}.json"
    kept = json.loads(today.read_text())["tables"] if today.exists() else []
    tables = [one for one in kept if one["title"] != table.title] + [asdict(table)]
    RESULTS.mkdir(parents=True, exist_ok=True)
    today.write_text(json.dumps({"tables": tables}, indent=1) + "\n")
    newest: dict[str, Table] = {}
    for file in sorted(RESULTS.glob("*.json")):
        newest |= {one["title"]: _table(one) for one in json.loads(file.read_text())["tables"]}
    PAGE.write_text(markdown(list(newest.values()), table.ran_on))


def markdown(tables: Sequence[Table], ran_on: Mapping[str, str]) -> str:
    """Write the tables with what they ran on; what was another for one of them is said under it."""
    text = [_HEAD, f"Ran on: {_shown(ran_on)}.\n"]
    for table in tables:
        text += [f"## {table.title}\n", *_rows(table), ""]
        text += [f"{note}\n" for note in table.notes]
        differing = _shown({name: value for name, value in table.ran_on.items() if ran_on.get(name) != value})
        text.append(f"{table.rounds} rounds, {table.when}{', ' if differing else ''}{differing}.\n")
    return "\n".join(text)


def _shown(ran_on: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in ran_on.items() if name != "when")


def _rows(table: Table) -> list[str]:
    columns = list(dict.fromkeys(name for line in table.lines for name in line.extras))
    named = "".join(f" {name} |" for name in columns)
    rows = [
        f"| case | {table.unit}, median | lowest to highest |{named} ratio |",
        "|---|---:|---:|" + "---:|" * len(columns) + "---|",
    ]
    for line in table.lines:
        extras = "".join(f" {_extra(line.extras.get(name))} |" for name in columns)
        ratios = "; ".join(_ratio(ratio, lower=table.lower_is_better) for ratio in line.ratios)
        rows.append(f"| {line.name} | {line.median:,.4g} | {line.low:,.4g} to {line.high:,.4g} |{extras} {ratios} |")
    return rows


def _ratio(ratio: Ratio, *, lower: bool) -> str:
    said = f"**{ratio.value:.2f}** x {ratio.base}"
    if ratio.goal is None:
        return said
    met = ratio.value <= ratio.goal if lower else ratio.value >= ratio.goal
    return f"{said} (goal {'at most' if lower else 'at least'} {ratio.goal:g}{'' if met else ', missed'})"


def _extra(extra: Extra | None) -> str:
    if extra is None:
        return ""
    if extra.most is None:
        return f"{extra.value:,.3g}"
    return f"{extra.value:,.3g} (goal at most {extra.most:g}{'' if extra.value <= extra.most else ', missed'})"


def _table(kept: Mapping[str, Any]) -> Table:
    lines = [
        Line(
            **{
                **line,
                "ratios": [Ratio(**ratio) for ratio in line["ratios"]],
                "extras": {name: Extra(**extra) for name, extra in line["extras"].items()},
            }
        )
        for line in kept["lines"]
    ]
    return Table(**{**kept, "lines": lines})
