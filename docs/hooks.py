"""What pages are filled with when the site is built, so that they cannot fall behind.

`{tests H7}` becomes the test files whose docstrings name that id, folded when it is a line of its own; `{errors}` every
error class, from the classes; `{parity}` what the shop is measured by, from the list that `shop parity` shows.
"""

import ast
import csv
import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from txpatterns.errors import TxPatternsError

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"\{tests ([HPI]\d+)\}")
ALONE = re.compile(rf"^{MARK.pattern}$", re.MULTILINE)
ID = re.compile(r"\b([HPI])(\d{1,3})(?:\s?(?:-|\N{EN DASH}|to)\s?\1(\d{1,3}))?\b")
NONE_YET = "*no test yet*"
PARITY = ROOT / "examples/shop/src/shop/parity.csv"
BETWEEN = " ; "
"""What stands between two proofs in that list."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """Called by MkDocs for each page."""
    if "\n{errors}\n" in markdown:
        markdown = markdown.replace("\n{errors}\n", f"\n{errors()}\n")
    if "\n{parity}\n" in markdown:
        markdown = markdown.replace("\n{parity}\n", f"\n{parity()}\n")
    markdown = ALONE.sub(lambda mark: folded(mark[1]), markdown)
    return MARK.sub(lambda mark: named(mark[1]), markdown)


def named(name: str) -> str:
    """The test files that name an id."""
    return ", ".join(map(shown, sorted(cited()[name]))) or NONE_YET


def folded(name: str) -> str:
    """The same in a box that its reader opens."""
    return f'??? example "The {len(cited()[name])} test files that name {name}"\n\n    {named(name)}'


def shown(file: str) -> str:
    """A test file as it is named on a page: from the folder `tests` on."""
    return f"`{file.removeprefix('tests/').removeprefix('examples/')}`"


def errors() -> str:
    """One section for each error class, by code."""
    return "\n\n".join(section(error) for error in sorted(set(family(TxPatternsError)), key=lambda error: error.code))


def parity() -> str:
    """One table for each state, with how many there are, in the list's order."""
    rows = list(csv.DictReader(PARITY.read_text(encoding="utf-8").splitlines()))
    counts = Counter(row["state"] for row in rows)
    states = ("done", "partly", "open", "declined")
    text = [", ".join(f"{counts[state]} {state}" for state in states) + "."]
    for state in states:
        text += [f"## {state.capitalize()}", "| | what | shown by | what is missing |\n|---|---|---|---|"]
        text[-1] += "".join(f"\n{_line(row)}" for row in rows if row["state"] == state)
    return "\n\n".join(text)


def _line(row: dict[str, str]) -> str:
    proofs = [f"`{shown_proof(proof)}`" for proof in row["proof"].split(BETWEEN) if proof]
    return f"| {row['id']} | {_cell(row['what'])} | {'<br>'.join(proofs)} | {_cell(row['why'])} |"


def shown_proof(proof: str) -> str:
    """A test, a file or a command as it is named on the page."""
    return proof.removeprefix("$ ").removeprefix("tests/").removeprefix("examples/")


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def section(error: type[TxPatternsError]) -> str:
    """What one error means and how to mend it."""
    heading = f"## {error.code} {error.__name__} {{ #{error.code.lower()} }}"
    kind = "" if error is TxPatternsError else f"\n\n*A kind of `{error.__mro__[1].__name__}`.*"
    fix = "" if error.fix == TxPatternsError.fix else f"\n\n**Fix.** {error.fix}"
    return f"{heading}\n\n{inspect.cleandoc(error.__doc__ or '')}{fix}{kind}"


def family(error: type[TxPatternsError]) -> Iterator[type[TxPatternsError]]:
    """A class and all that derive from it."""
    yield error
    for child in error.__subclasses__():
        yield from family(child)


@cache
def cited() -> defaultdict[str, set[str]]:
    """The ids that docstrings of tests name, each with the files where it is named."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for folder in ("tests", "examples/shop/tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for docstring in docstrings(path):
                for name in ids(docstring):
                    found[name].add(str(path.relative_to(ROOT)))
    return found


def docstrings(path: Path) -> list[str]:
    """Every docstring of a file: the module's, the classes', the functions'."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    return [text for node in nodes if (text := ast.get_docstring(node))]


def ids(text: str) -> list[str]:
    """`P3, H15` and `I1-I3` as single ids."""
    return [
        f"{kind}{number}"
        for kind, first, last in ID.findall(text)
        for number in range(int(first), int(last or first) + 1)
    ]
