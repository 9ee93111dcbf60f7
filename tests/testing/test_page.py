"""The page on testing shows files that run."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "snippets" / "testing"


def test_the_tests_of_the_page_pass(tmp_path: Path):
    """P1, P2: a user's tests, with nothing but the plugin."""
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    for name in ("orders.py", "test_orders.py", "web.py", "test_web.py", "test_checkout.py"):
        (tmp_path / name).write_text((FOLDER / name).read_text())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert not (tmp_path / "orders.db").exists()
