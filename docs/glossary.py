"""Links the first use of each word of the glossary on a page to its entry, when the site is built.

Left alone are code, links, headings and whatever else Markdown reads in its own way.
"""

import posixpath
import re
from functools import cache
from pathlib import Path
from typing import Protocol

PAGE = "explanation/glossary.md"
ENTRY = re.compile(r"^## (?P<word>[^{\n]+) \{ #(?P<anchor>[\w-]+) \}\n\n(?P<meaning>.+)$", re.MULTILINE)
UNTOUCHED = (
    r"^ *```.*?^ *```$",  # blocks of code
    r"`[^`]*`",
    r"!?\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])",  # links and pictures
    r"<[^>]+>",
    r"\{[^}]*\}",  # attributes
    r"^(?:#|!!!|\?\?\?|:::)[^\n]*$",  # headings, titles of boxes, what mkdocstrings fills in
)


class _File(Protocol):
    src_uri: str


class _Page(Protocol):
    file: _File


def on_page_markdown(markdown: str, page: _Page, **_: object) -> str:
    """Called by MkDocs for each page."""
    return markdown if page.file.src_uri == PAGE else linked(markdown, page.file.src_uri)


def linked(markdown: str, source: str) -> str:
    """A page's text with a link at the first use of each word; `source` is its path below `docs`."""
    target = posixpath.relpath(PAGE, posixpath.dirname(source))
    seen = set()

    def link(found: re.Match[str]) -> str:
        word = found["word"] and singular(found["word"])
        if not word or word in seen:
            return found[0]
        seen.add(word)
        anchor, meaning = entries()[word]
        return f'[{found[0]}]({target}#{anchor} "{meaning}")'

    return pattern().sub(link, markdown)


def singular(word: str) -> str:
    """The glossary's form of a word, which may be plural, capitalised, or broken over two lines."""
    plain = " ".join(word.lower().split())
    return (
        plain if plain in entries() else plain.removesuffix("es") if plain.endswith("xes") else plain.removesuffix("s")
    )


@cache
def entries() -> dict[str, tuple[str, str]]:
    """Each word of the glossary with its anchor and its meaning, as plain text."""
    text = (Path(__file__).parent / PAGE).read_text(encoding="utf-8")
    return {
        entry["word"].lower(): (entry["anchor"], entry["meaning"].replace("`", "")) for entry in ENTRY.finditer(text)
    }


@cache
def pattern() -> re.Pattern[str]:
    """What is left alone, or a word."""
    words = "|".join(re.escape(word).replace(r"\ ", r"\s") for word in entries())
    untouched = "|".join(UNTOUCHED)
    return re.compile(
        rf"(?P<untouched>{untouched})|(?<![\w-])(?P<word>(?i:{words})(?:e?s)?)(?![\w-])", re.MULTILINE | re.DOTALL
    )
