"""The Start page, the lessons and what has commands in it, typed as they stand on their pages, in an empty folder."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from docs.reader import DOCS, LESSONS, ROOT


@pytest.mark.parametrize("page", LESSONS)
def test_a_lesson_runs_as_it_is_shown(page, reader):
    """P1, P2, P4: what the page says is what is seen, the kills included."""
    assert reader.follow(DOCS / page) >= LESSONS[page]


def test_the_start_page_installs_as_the_readme_does():
    """The README's lines are typed in every run of the gate, from a clone on."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (install,) = re.findall(r"^<!-- install -->\n\n(```console\n.*?^```)$", readme, re.MULTILINE | re.DOTALL)
    assert install in (DOCS / "index.md").read_text(encoding="utf-8")
    assert install.replace("sixty", "lesson") in (DOCS / "tutorial" / "survive-a-kill.md").read_text(encoding="utf-8")


@pytest.mark.server
def test_the_same_file_runs_on_servers(reader, database, kafka):
    """P1, P2. The lesson's last part: two URLs, and not a line of the file is changed."""
    page = DOCS / "tutorial" / "survive-a-kill.md"
    urls = {"TXP_DATABASE_URL": database.url("asyncpg"), "TXP_BROKER_URL": f"kafka://{kafka.bootstrap}?create_topics=6"}
    assert replace(reader, environment=urls).follow(page, "run servers") >= 4
