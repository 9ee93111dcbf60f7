import importlib.util

import pytest

from docs.reader import DOCS, Reader


@pytest.fixture
def reader(tmp_path):
    """Somebody who follows a page in an empty folder."""
    return Reader(tmp_path)


@pytest.fixture(scope="session")
def load_hooks():
    """What the site is built with."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    return lambda: hooks
