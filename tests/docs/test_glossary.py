"""The first hard word of a page leads to what it means; the names of tests do not drown a promise."""

from __future__ import annotations

import re

import pytest

from docs.reader import DOCS, load


@pytest.fixture(scope="module")
def linked():
    return load("glossary").linked


@pytest.mark.parametrize(
    "text",
    [
        "`outbox` and <!-- run outbox -->",
        "[the outbox](a.md)",
        "# The outbox",
        '??? note "outbox"',
        "```python\noutbox\n```",
        "an outboxer, un-outbox",
    ],
)
def test_what_is_code_link_or_heading_is_left_alone(linked, text):
    assert linked(text, "index.md") == text


def test_only_the_first_use_is_linked(linked):
    """In every form of the word, also where a line ends within it."""
    page = linked("# Relays\n\nTwo relays, a relay. Dead\nletters, a dead letter.", "how-to/deploy.md")
    assert re.findall(r"\[([^\]]+)\]\(\.\./explanation/glossary\.md#([\w-]+) \"", page) == [
        ("relays", "relay"),
        ("Dead\nletters", "dead-letter"),
    ]


def test_every_word_is_in_the_pages():
    """A word that no page uses needs no explanation."""
    pages = "\n".join(
        path.read_text(encoding="utf-8").lower() for path in DOCS.rglob("*.md") if path.name != "glossary.md"
    )
    assert [word for word in load("glossary").entries() if word not in " ".join(pages.split())] == []


def test_the_tests_of_a_promise_are_folded(load_hooks):
    """The page is about what is promised; whoever wants the names opens the box."""
    page = load_hooks().on_page_markdown((DOCS / "explanation" / "guarantees.md").read_text(encoding="utf-8"))
    named = [line for line in page.splitlines() if ".py`" in line]
    assert len(named) >= 4
    assert all(line.startswith("    `") for line in named)
    assert len(re.findall(r'^\?\?\? example "The \d+ test files that name P\d"$', page, re.MULTILINE)) == len(named)
