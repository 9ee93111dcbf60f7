"""The source of the library and the shop as syntax trees, read once for all architecture tests."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = (ROOT / "src" / "txpatterns", ROOT / "examples" / "shop" / "src" / "shop")


@pytest.fixture(scope="session")
def modules() -> dict[str, ast.Module]:
    """Every module, by its path in the repository."""
    paths = [path for source in SOURCES for path in sorted(source.rglob("*.py"))]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@pytest.fixture(scope="session")
def functions(modules: dict[str, ast.Module]) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function and method, with the place where it stands."""
    return [
        (f"{path}:{node.lineno} {node.name}", node)
        for path, tree in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
