"""Turning values into pages: one template environment, and the few words templates may use."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from shop.gateway.story import Entry

_MOMENT = re.compile(r"\{\{(\w+) ([0-9T:.+\-]+)\}\}")
_SHAPES = {"minutes": "%H:%M", "seconds": "%H:%M:%S", "ms": "%H:%M:%S", "day": "%-d %B, %H:%M"}


def shown(when: datetime, shape: str) -> str:
    """Write a time in UTC."""
    return when.strftime(_SHAPES[shape]) + (f".{when.microsecond // 1000:03d}" if shape == "ms" else "") + " UTC"


def moment(when: datetime, shape: str = "minutes") -> Markup:
    """Show a time: in UTC at first, in the reader's own zone once the page's script has run."""
    return Markup('<time datetime="{}" data-shape="{}">{}</time>').format(when.isoformat(), shape, shown(when, shape))


def plain(text: str) -> str:
    """Show a sentence of the story to programs: its moments as words."""
    return _MOMENT.sub(lambda found: shown(datetime.fromisoformat(found[2]), found[1]), text)


def times(text: str) -> Markup:
    """Show the moments that a sentence of the story marks."""
    # Splitting leaves plain text, shape and moment in turn; joining escapes the text.
    pieces = _MOMENT.split(text)
    told = [Markup("{}").format(pieces[0])]
    for shape, when, after in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        told += [moment(datetime.fromisoformat(when), shape), Markup("{}").format(after)]
    return Markup("").join(told)


def again_at(stumble: Entry) -> datetime | None:
    """Say when a failed attempt is repeated; none when it was the last."""
    after = stumble.payload.get("again_after")
    return None if after is None else stumble.occurred_at + timedelta(seconds=after)


def pretty(value: Mapping[str, Any]) -> str:
    """Show JSON over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def environment() -> Environment:
    """Make the template environment. A name that a page forgot to give is an error, not an empty string."""
    made = Environment(
        loader=PackageLoader("shop.gateway"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["moment"] = moment
    made.filters["times"] = times
    made.filters["again_at"] = again_at
    made.filters["pretty"] = pretty
    return made
