"""Every piece of Python on a page runs as a reader pastes it: no fragments, on no page."""

from __future__ import annotations

import builtins
import dis
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

import pytest

from docs.reader import DOCS, LESSONS, ROOT, expanded

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PYTHON = re.compile(
    r"^(?:<!-- file: (?P<comment>\S+) -->\n+)?"
    r' *```python(?: title="(?P<title>[^"]+)")?\n(?P<code>.*?)^ *```$'
    r'|^--8<-- "(?P<output>docs/snippets/[^"]+\.out)"$',
    re.MULTILINE | re.DOTALL,
)
CONTINUED = ", continued"


@dataclass
class File:
    """What a reader has pasted into one file, and what the page shows as its output, if anything."""

    name: str
    text: str
    output: str = "..."
    is_typed: bool = False
    """Whether the commands of its page run it."""


def pasted(page: Path) -> list[File]:
    """The files of a page, in the order in which its reader begins them; one begun anew replaces the former."""
    files: list[File] = []
    is_lesson = page.is_relative_to(DOCS) and page.relative_to(DOCS).as_posix() in LESSONS
    for block in PYTHON.finditer(page.read_text(encoding="utf-8")):
        if block["output"]:
            files[-1].output = (ROOT / block["output"]).read_text(encoding="utf-8")
            continue
        code = expanded(textwrap.dedent(block["code"]))
        title = block["title"] or block["comment"]
        assert title, f"{page.name} shows Python and does not say which file it belongs to:\n{code}"
        name = title.removesuffix(CONTINUED)
        if name == title:
            files.append(File(name, code, is_typed=is_lesson and block["comment"] is not None))
        else:
            begun = [file for file in files if file.name == name]
            assert begun, f"{page.name} has nothing that {title!r} could continue"
            begun[-1].text += f"\n\n{code}"
    return files


def unknown(text: str) -> set[str]:
    """Names that a file uses, in functions that nobody calls too, and neither defines nor imports."""
    used, defined = set(), {*vars(builtins), "__file__", "__annotations__"}
    for part in parts(compile(text, "pasted", "exec", dont_inherit=True)):
        for step in dis.get_instructions(part):
            if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
                used.add(step.argval)
            elif step.opname in {"STORE_GLOBAL", "STORE_NAME"}:
                defined.add(step.argval)
    return used - defined


def parts(code: CodeType) -> Iterator[CodeType]:
    """The code of a module, and of all functions and classes in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from parts(constant)


def with_python() -> list[Path]:
    return [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]


@pytest.mark.parametrize("page", with_python(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_runs_as_pasted(page, reader):
    """Block after block, each below the one that it continues, and every file run when it is complete.

    What the commands of a lesson run, test_tutorial.py types.
    """
    for file in pasted(page):
        assert unknown(file.text) == set(), f"{page.name}: {file.name}"
        (reader.folder / file.name).write_text(file.text, encoding="utf-8")
        if not file.is_typed:
            reader.type(f"python {file.name}", file.output)


@pytest.mark.parametrize("line", ["def f():\n    return Missing", "class A:\n    x: Missing", "Missing()"])
def test_a_name_that_nobody_defines_is_found(line):
    """Also where it is used only when somebody calls it."""
    assert unknown(f"import os\n{line}\nos.getpid()") == {"Missing"}
