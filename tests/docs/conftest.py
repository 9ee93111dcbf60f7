from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from docs.reader import Reader, load


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    """Somebody who follows a page in an empty folder."""
    return Reader(tmp_path)


@pytest.fixture(scope="session")
def load_hooks() -> Callable[[], ModuleType]:
    """What the site is built with."""
    hooks = load("hooks")
    return lambda: hooks
