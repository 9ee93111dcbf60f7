"""What keeps the code readable: nothing grows past the size that one sitting can take in."""

import ast
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent.parent
LARGEST_MODULE, LARGEST_MEDIAN, LARGEST_FUNCTION, MOST_PARAMETERS = 400, 150, 50, 7


def test_no_module_is_longer_than_one_sitting(modules):
    """A longer module holds two things and should be two modules."""
    lengths = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {path: length for path, length in lengths.items() if length > LARGEST_MODULE} == {}


def test_the_usual_module_is_short(modules):
    """The median tells of the style; package files that only re-export are left out."""
    lengths = [
        len((ROOT / path).read_text(encoding="utf-8").splitlines())
        for path in modules
        if not path.endswith("__init__.py")
    ]
    assert median(lengths) <= LARGEST_MEDIAN


def test_no_function_is_longer_than_a_screen(functions):
    """Counted without the docstring, which may be as long as its guarantee needs."""

    def body(node):
        documented = ast.get_docstring(node, clean=False) is not None and len(node.body) > 1
        return node.end_lineno - (node.body[0].end_lineno if documented else node.lineno)

    assert {place: body(node) for place, node in functions if body(node) > LARGEST_FUNCTION} == {}


def test_no_function_takes_more_than_seven_parameters(functions):
    """More of them belong together in a policy object with a name."""

    def count(node):
        given = node.args
        every = [*given.posonlyargs, *given.args, *given.kwonlyargs]
        return len([argument for argument in every if argument.arg not in {"self", "cls"}])

    assert {place: count(node) for place, node in functions if count(node) > MOST_PARAMETERS} == {}


def test_our_own_code_is_imported_at_the_top(functions):
    """An import of ours inside a function hides a cycle from import-linter's readers."""
    hidden = [
        place
        for place, node in functions
        for inner in ast.walk(node)
        if (isinstance(inner, ast.ImportFrom) and (inner.module or "").split(".")[0] in {"txpatterns", "shop"})
        or (isinstance(inner, ast.Import) and any(n.name.split(".")[0] in {"txpatterns", "shop"} for n in inner.names))
    ]
    assert hidden == []
