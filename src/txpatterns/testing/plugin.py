"""The pytest plugin: the fixture ``txp``. It is there as soon as txpatterns is installed; no set-up is needed.

Say which App to test in pytest's configuration, ``txp_app = "orders:app"``, or by a fixture ``txp_app`` of your own.
"""

from __future__ import annotations

import importlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from txpatterns.app import App
    from txpatterns.testing.hands import Sessions
    from txpatterns.testing.harness import Txp
    from txpatterns.testing.homes import Given, Homes


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the two settings."""
    parser.addini("txp_app", "the App under test, as MODULE:APP; several with spaces between", default="")
    parser.addini("txp_database", "the URL of the tests' database; left out, a SQLite file for each test", default="")


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say what waits and why, when a comparison with what was published or handled fails."""
    story = getattr(left, "story", getattr(right, "story", None))
    if op != "==" or story is None:
        return None
    return [f"{list_of(left)} == {list_of(right)}", *str(story).splitlines()]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say it below any other failure of a test with the fixture, in whatever way it was asserted."""
    report = yield
    txp = getattr(item, "funcargs", {}).get("txp")
    if report.when == "call" and report.failed and txp is not None:
        txp.has_failed = True
        shown, left = report.longreprtext, str(txp)
        if not all(line.strip() in shown for line in left.splitlines()):
            report.sections.append(("txp", left))
    return report


def list_of(events: object) -> str:
    """Write events, one in each line when there are several."""
    if not isinstance(events, list) or len(events) < 2:
        return repr(events)
    return "[\n  " + ",\n  ".join(map(repr, events)) + "\n]"


@pytest.fixture
def txp_app(pytestconfig: pytest.Config) -> App | Sequence[App]:
    """The App under test, or several. Override it, or set ``txp_app`` in pytest's configuration."""
    names = pytestconfig.getini("txp_app").split()
    if not names or not all(name.partition(":")[2] for name in names):
        pytest.fail('Which App? Set txp_app = "MODULE:APP" in pytest\'s configuration, or write a fixture txp_app.')
    places = [name.partition(":") for name in names]
    return [getattr(importlib.import_module(module), attribute) for module, _, attribute in places]


@pytest.fixture
def txp_database(pytestconfig: pytest.Config) -> Given | Mapping[str, Given]:
    """The database of the tests: a URL, an engine or a sessionmaker, or for several Apps one each by their names.

    Override it, or set ``txp_database`` in pytest's configuration. Empty text stands for a SQLite file for each test.
    """
    name: str = pytestconfig.getini("txp_database")
    return name


@pytest.fixture
def txp_sessions() -> Sequence[Sessions]:
    """The application's own sessionmakers, which shall make sessions of the test's database. Override it."""
    return ()


@pytest.fixture(scope="session")
def _txp_homes(tmp_path_factory: pytest.TempPathFactory) -> Homes:
    homes: Homes = importlib.import_module("txpatterns.testing.homes").Homes(tmp_path_factory.mktemp("txp"))
    return homes


@pytest.fixture
def txp(
    txp_app: App | Sequence[App],
    txp_database: Given | Mapping[str, Given],
    txp_sessions: Sequence[Sessions],
    _txp_homes: Homes,
) -> Iterator[Txp]:
    """The App under test on a database of its own, with a clock that only the test moves.

    Calls that are made again by `Retrying`, or by stamina itself, are so at once.

    Connections and tasks that are left behind fail the test, and so do sagas and transactions that are open at its end.
    """
    # Imported here, because pytest loads a plugin in every run, also of projects that do not use it.
    hands = importlib.import_module("txpatterns.testing.hands")
    waits = importlib.import_module("txpatterns.testing.waits")
    apps = txp_app if isinstance(txp_app, Sequence) else [txp_app]
    with waits.switched_off(), hands.in_hand(apps, _txp_homes, database=txp_database, sessions=txp_sessions) as txp:
        yield txp
