"""The release before beside this one, on one database, while both work: what a deployment needs of the tables."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from migrations.working import handled
from rig.process import Child
from sagas.support import PATIENCE, reserve, tables
from txpatterns import App, Database
from txpatterns.sagas import SagaContext

HERE = Path(__file__).parent
WORKING = HERE / "working.py"
(WHEEL,) = (HERE / "released").glob("*.whl")
EVENTS = 60


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the release before."""
    folder = tmp_path_factory.mktemp("released")
    zipfile.ZipFile(WHEEL).extractall(folder)
    return folder


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}"
    url: str = request.getfixturevalue("database").url("asyncpg")
    return url


def upgraded(url: str, release: Path | None = None) -> str:
    """Run ``txp db upgrade`` of a release, or of this one; gives what it says."""
    environment = dict(os.environ) if release is None else {**os.environ, "PYTHONPATH": str(release)}
    command = [sys.executable, "-c", "from txpatterns.cli import main; main()", "db", "upgrade", "--database", url]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def work(url: str, before: Path, watchdog) -> Iterator[Callable[..., Child]]:
    """Start a process of a release that sends some events and handles all that come."""

    def start(name: str, *, old: bool, events: int = EVENTS) -> Child:
        environment = {"PYTHONPATH": str(before)} if old else None
        child = stack.enter_context(Child([WORKING, url, name, str(events)], watchdog, environment=environment))
        assert (str(before) in child.wait_for("runs")) is old
        return child

    with ExitStack() as stack:
        yield start


async def effects(url: str) -> Counter[str]:
    async with Database(url) as database:
        rows = await database.read(lambda connection: connection.execute(sa.select(handled.c.what)).scalars().all())
    return Counter(rows)


def sent_by(*names: str) -> Counter[str]:
    return Counter(f"{name} {number}" for name in names for number in range(EVENTS))


async def make_tables(url: str) -> None:
    async with Database(url) as database:
        await database.transact(handled.metadata.create_all)


async def test_two_releases_work_on_one_database_before_and_after_it_is_upgraded(url: str, before: Path, work) -> None:
    """P7, H100: none of them loses anything or does it twice, while the tables are upgraded under their load."""
    upgraded(url, before)
    await make_tables(url)
    old, new = work("old", old=True), work("new", old=False)
    old.wait_for("ready")
    new.wait_for("ready")
    assert url.startswith("sqlite") or "upgraded" in upgraded(url)  # a file is brought up to date at the start
    later = work("old again", old=True)
    for child in (old, new, later):
        child.wait_for("drained", within=timedelta(seconds=180))
    for child in (old, new, later):
        child.sigterm()
        assert child.wait() == 0, child.output
    assert await effects(url) == sent_by("old", "new", "old again")


async def test_sagas_come_with_the_upgrade(url: str, before: Path, work) -> None:
    """P4, P7, H100: to tables that the release before made and filled; on SQLite they come by themselves."""
    upgraded(url, before)
    await make_tables(url)
    old = work("old", old=True)
    old.wait_for("drained", within=timedelta(seconds=180))
    old.sigterm()
    assert old.wait() == 0, old.output
    if url.startswith("postgresql"):
        upgraded(url)

    async def order(saga: SagaContext) -> str:
        return await saga.step(reserve, "A1")

    async with Database(url) as database:
        await database.transact(tables.create_all)
        app = App("shop", database, "memory://")
        app.saga("order")(order)
        async with app.running():
            async with app.transaction() as session:
                handle = app.sagas.start(session, order, id="order-1")
            assert await handle.result(timeout=PATIENCE) == "hold A1"
    assert (await effects(url))["old 0"] == 1
