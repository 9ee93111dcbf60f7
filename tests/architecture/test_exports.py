"""The public surface: what the root exports, and that the reference knows all of it."""

import re
from pathlib import Path

import txpatterns
from txpatterns import ids, resilience, sagas
from txpatterns.tcc import stock

REFERENCE = Path(__file__).resolve().parent.parent.parent / "docs" / "reference" / "python.md"
MOST_NAMES = 25


def test_the_root_exports_one_screen_of_names():
    """The everyday names; the rest is one level down."""
    assert len(txpatterns.__all__) <= MOST_NAMES
    assert len(set(txpatterns.__all__)) == len(txpatterns.__all__)


def test_every_exported_name_exists():
    """`from txpatterns import *` works."""
    assert [name for name in txpatterns.__all__ if not hasattr(txpatterns, name)] == []


def test_the_reference_names_exactly_what_is_exported():
    """A name that is added, or taken away, changes the reference page with it."""
    assert listed("txpatterns") == set(txpatterns.__all__) - {"__version__"}


def test_the_reference_names_all_of_sagas():
    """What `txpatterns.sagas` exports, too: it is what everybody needs who writes one."""
    assert listed("txpatterns.sagas") == set(sagas.__all__)


def test_the_reference_names_all_of_ids():
    """What `txpatterns.ids` exports, too."""
    assert listed("txpatterns.ids") == set(ids.__all__)


def test_the_reference_names_all_of_stock():
    """What `txpatterns.tcc.stock` exports, too."""
    assert listed("txpatterns.tcc.stock") == set(stock.__all__)


def test_the_reference_names_all_of_resilience():
    """And what `txpatterns.resilience` exports."""
    assert listed("txpatterns.resilience") == set(resilience.__all__)


def listed(package: str) -> set[str]:
    """The names of a package on the reference page."""
    entry = rf"^::: {re.escape(package)}\.(\w+)$"
    return set(re.findall(entry, REFERENCE.read_text(encoding="utf-8"), flags=re.MULTILINE))
