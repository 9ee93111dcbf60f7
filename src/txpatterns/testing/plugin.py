"""The pytest plugin: the fixture ``txp``. It is there as soon as txpatterns is installed; no set-up is needed.

Say which App to test in pytest's configuration, ``txp_app = "orders:app"``, or by a fixture ``txp_app`` of your own.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from txpatterns.app import App
    from txpatterns.testing.harness import Txp


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the two settings."""
    parser.addini("txp_app", "the App under test, as MODULE:APP", default="")
    parser.addini("txp_database", "the URL of the tests' database; left out, a SQLite file for each test", default="")


@pytest.fixture
def txp_app(pytestconfig: pytest.Config) -> App:
    """The App under test. Override it, or set ``txp_app`` in pytest's configuration."""
    name = pytestconfig.getini("txp_app")
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        pytest.fail('Which App? Set txp_app = "MODULE:APP" in pytest\'s configuration, or write a fixture txp_app.')
    app: App = getattr(importlib.import_module(module), attribute)
    return app


@pytest.fixture
def txp(txp_app: App, tmp_path: Path, pytestconfig: pytest.Config) -> Iterator[Txp]:
    """The App under test on a database of its own, with a clock that only the test moves.

    Connections and tasks that are left behind fail the test.
    """
    # Imported here, because pytest loads a plugin in every run, also of projects that do not use it.
    harness = importlib.import_module("txpatterns.testing.harness")
    url = pytestconfig.getini("txp_database") or f"sqlite:///{tmp_path / 'txp.db'}"
    with harness.in_hand(txp_app, url) as txp:
        yield txp
