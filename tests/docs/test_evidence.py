"""The page of the evidence and the files that it is made of say the same."""

from __future__ import annotations

from evidence import page


def test_the_page_is_what_the_files_say():
    """A figure on it comes from a run that left its file; `python tests/evidence/page.py` writes it anew."""
    assert page.markdown(page.newest()) == page.PAGE.read_text(encoding="utf-8")
