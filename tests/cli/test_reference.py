"""The reference pages and the code hold each other to the truth."""

import re
from pathlib import Path

import typer

from txpatterns.cli.main import app
from txpatterns.database import migrations
from txpatterns.settings import shown, variables

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def test_the_settings_page_lists_every_variable_with_its_default():
    """A new setting is not finished before it is on the page."""
    page = (DOCS / "reference" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(TXP_\w+)` \| (?:`([^`]*)`)? ?\|", page, flags=re.MULTILINE))
    known = {v.name: "" if v.default is None else shown(v.default) for v in variables()}
    beside = {"TXP_APP", "TXP_DATABASE_URL", "TXP_BROKER_URL"}
    assert {name: default for name, default in rows.items() if name not in beside} == known
    assert beside <= set(rows)


def test_the_command_page_names_every_command():
    """The page is where a command is looked for."""
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `txp ([a-z ]+?)(?: [A-Z-].*)?`", page, flags=re.MULTILINE))
    root = typer.main.get_command(app)
    commands = {
        f"{name} {inner}" if inner else name
        for name, command in root.commands.items()
        for inner in (getattr(command, "commands", None) or {"": None})
    }
    assert listed == commands


def test_the_how_to_tunes_the_tables_as_the_migration_does():
    """H28: whoever has a chain of their own gets the same vacuum settings."""
    page = (DOCS / "how-to" / "migrations.md").read_text(encoding="utf-8")
    (block,) = (
        text for text in re.findall(r"```python[^\n]*\n(.*?)```", page, flags=re.DOTALL) if "ALTER TABLE" in text
    )
    said, names = [], {}
    exec(block, names)
    names["op"] = type("Op", (), {"execute": said.append})
    names["tune"]()
    wanted = re.findall(r"^ALTER TABLE .*SET.*;$", migrations.sql("postgresql"), flags=re.MULTILINE)
    assert sorted(f"{statement};" for statement in said) == sorted(wanted)
