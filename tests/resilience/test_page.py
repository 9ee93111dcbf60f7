"""The snippets of the pages that need a server."""

import os
import subprocess
import sys
from pathlib import Path

SNIPPETS = Path(__file__).resolve().parent.parent.parent / "docs" / "snippets" / "resilience"


def said(name, redis_url):
    environment = os.environ | {"REDIS_URL": redis_url}
    ran = subprocess.run([sys.executable, SNIPPETS / name], env=environment, capture_output=True, text=True, check=True)
    return ran.stdout


def test_shared_cache(redis_url):
    """H327, H329: shared_cache.py runs as shown, and without Redis as well."""
    assert said("shared_cache.py", redis_url) == "1.17\n"
    assert said("shared_cache.py", "redis://127.0.0.1:1/0") == "1.17\n"


def test_shared_breakers(redis_url):
    """H176, H327: shared_breakers.py runs as shown, and without Redis as well."""
    assert said("shared_breakers.py", redis_url) == "the bank is closed\n"
    assert said("shared_breakers.py", "redis://127.0.0.1:1/0") == "the bank is closed\n"


def test_shared_limits(redis_url):
    """H327, H328: shared_limits.py runs as shown, and without Redis as well."""
    assert said("shared_limits.py", redis_url) == "19 more at once\n"
    assert said("shared_limits.py", "redis://127.0.0.1:1/0") == "19 more at once\n"
