"""The reference pages and the code say the same."""

from __future__ import annotations

import inspect
import json
import re
from datetime import timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa

from crash import planted, planted_ids, planted_sagas
from docs.reader import DOCS, SNIPPETS
from txpatterns import BigInt, Event
from txpatterns.brokers import broker_from_url, known_schemes
from txpatterns.database.schema import metadata
from txpatterns.errors import TxPatternsError
from txpatterns.messages import Message
from txpatterns.serialization import EventRegistry
from txpatterns.transport import to_wire_headers

TABLES = (DOCS / "reference" / "tables.md").read_text(encoding="utf-8")
EVENTS = (DOCS / "reference" / "events.md").read_text(encoding="utf-8")
KINDS = {"Instant": "instant", "LargeBinary": "bytes", "SmallInteger": "small integer", "Text": "text"}
KINDS |= {"BigInteger": "big integer", "Integer": "integer"}


def kind(column: sa.Column) -> str:
    return KINDS.get(type(column.type).__name__) or f"text, {column.type.length}"


def test_every_column_of_every_table_is_described():
    """Names, order, types, keys and what may be empty."""
    shown = {
        table: re.findall(r"^\| `(\w+)`( \*\*key\*\*)? \| ([\w, ]+) \| (yes|no) \| \S", rows, re.MULTILINE)
        for table, rows in re.findall(r"^## (txp_\w+) [^\n]*\n(.*?)(?=^## |\Z)", TABLES, re.MULTILINE | re.DOTALL)
    }
    defined = {
        table.name: [
            (column.name, " **key**" if column.primary_key else "", kind(column), "yes" if column.nullable else "no")
            for column in table.columns
        ]
        for table in metadata.sorted_tables
    }
    assert shown == defined


def test_the_table_of_brokers_is_what_their_adapters_say():
    """An adapter that can more, or less, than its page says is noticed here."""
    page = (DOCS / "reference" / "brokers.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in page.splitlines() if line.count("|") == 11
    ]
    names, shown = rows[0][1:], {row[0]: row[1:] for row in rows[2:]}
    said = {url: [_said(getattr(broker_from_url(url).capabilities, name)) for name in names] for url in shown}
    assert shown == said
    assert {url.partition("://")[0] for url in shown} == set(known_schemes()) - {"amqps"}


def _said(value: object) -> str:
    if isinstance(value, timedelta):
        return f"{value.days} days"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def test_every_index_is_named():
    """An index that is gone, or new, changes the page."""
    shown = set(re.findall(r"`((?:ix|uq)_txp_\w+)`", TABLES))
    assert shown == {index.name for table in metadata.sorted_tables for index in table.indexes}


def test_all_that_the_shop_is_measured_by_is_on_its_page(load_hooks):
    page = load_hooks().on_page_markdown((DOCS / "shop" / "parity.md").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| ([GL]-\d{3}) \| \S.*\|$", page, re.MULTILINE)
    assert len(rows) == len(set(rows)) == 224
    assert re.search(r"^\d+ done, \d+ partly, \d+ open, \d+ declined\.$", page, re.MULTILINE)


def test_every_error_is_on_its_page(load_hooks):
    """Made from the classes, so this looks whether all of them arrive, each with a code of its own."""
    page = load_hooks().on_page_markdown((DOCS / "reference" / "errors.md").read_text(encoding="utf-8"))
    known = set(load_hooks().family(TxPatternsError))
    ours = {error for error in known if error.__module__ == "txpatterns.errors"}  # an adapter's own has its base's code
    assert {error for error in ours if f"## {error.code} {error.__name__} {{" not in page} == set()
    assert len({error.code for error in ours if "code" in vars(error)}) == len(ours)
    assert inspect.cleandoc(TxPatternsError.__doc__) in page


def test_the_envelope_has_the_fields_of_the_page():
    """What a reader in another language relies on."""

    class Priced(Event, topic="docs", type="priced", key="sku"):
        sku: str
        price: Decimal
        number: BigInt

    registry = EventRegistry()
    spec = registry.register(Priced)
    now = Message("1", "docs", "priced", b"").occurred_at
    encoded = registry.codec.encode(Priced(sku="A", price=Decimal("1.10"), number=2**62), spec, "1", now)
    section = EVENTS.split("### Fields of the envelope")[1].split("## Headers")[0]
    assert list(json.loads(encoded.payload)) == re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert json.loads(encoded.payload)["payload"] == {"sku": "A", "price": "1.10", "number": str(2**62)}


def test_the_headers_of_every_message_are_on_the_page():
    """Those that name a message on the wire."""
    headers = to_wire_headers(Message("1", "docs", "priced", b"", key="A"))
    section = EVENTS.split("## Headers")[1]
    assert [name for name in headers if f"| `{name}` |" not in section] == []


def test_the_snippet_of_the_page_uses_the_codecs_of_the_package():
    """The four wire forms are those that exist."""
    shown = (SNIPPETS / "codecs.out").read_text(encoding="utf-8")
    assert [line for line in shown.splitlines() if line and not line.startswith(" ")] == [
        "envelope (application/json)",
        "CloudEvents, binary (application/json)",
        "CloudEvents, structured (application/cloudevents+json)",
        "raw (application/json)",
    ]


@pytest.mark.parametrize(("bugs", "heading"), [(planted_sagas, "Planted bugs"), (planted_ids, "Bugs planted in ids")])
def test_every_planted_bug_is_on_the_page_of_hazards(bugs, heading):
    """P4, P6: with the invariant that finds it."""
    section = (DOCS / "explanation" / "hazards.md").read_text(encoding="utf-8").split(f"### {heading}")[1]
    shown = dict(re.findall(r"^\| ([\w ]+) \| (I\d+)\b", section.split("\n## ")[0], re.MULTILINE))
    found = {each.name: each.breaks for each in planted.PLANTED if each.plant.__module__ == bugs.__name__}
    assert shown == found
