"""The command ``shop load``."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from shop.load.command import TargetRefused, checked_target, load
from shop.load.driver import Plan
from shop.load.figures import demand
from shop.load.profiles import Profile

SEED = 42
"""Who buys what: each load of one profile draws the same."""
PATIENCE = 120.0
"""Seconds that orders have to end once no more visitors come, where invariants are asserted."""


def load_command(
    target: Annotated[str, typer.Argument(help="The store's address.")] = "http://127.0.0.1:8080",
    profile: Annotated[Profile, typer.Option(help="What the visitors come for.")] = Profile.CHECKOUT,
    rate: Annotated[float, typer.Option(min=0.01, max=10_000, help="Visitors a second.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=0.1, max=86_400, help="For how long they come.")] = 10.0,
    asserts: Annotated[
        list[str] | None,
        typer.Option("--assert", help="'p99<300ms', 'errors<0.1%' or 'invariants'; may be given several times."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write all figures to this file, as JSON.")] = None,
    is_mine: Annotated[bool, typer.Option("--i-own-this-target", help="Load something that is not loopback.")] = False,
) -> None:
    """Send visitors at a stated rate, and measure from when each was to begin. Exit code 1: an assertion failed."""
    try:
        demands = [demand(text) for text in asserts or []]
        plan = Plan(checked_target(target, is_mine), profile, rate, seconds, SEED)
        result = asyncio.run(load(plan, demands, PATIENCE, lambda line: print(line, flush=True)))
        if report is not None:
            report.write_text(json.dumps(result.report, indent=2) + "\n")
    except (TargetRefused, ValueError, OSError) as error:
        print(f"shop: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    if result.failed:
        raise typer.Exit(1)
