"""``txp config``: what an App runs with, and where each value comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import typer

from txpatterns.cli.loading import AppOption, JsonOption, load_app
from txpatterns.cli.output import examples, show, table
from txpatterns.settings import BROKER_URL, DATABASE_URL, AppSettings, shown, variables
from txpatterns.text import masked

group = typer.Typer(no_args_is_help=True, help="What an App runs with.")


@group.callback()
def _config() -> None:
    """What an App runs with."""


@group.command("show", epilog=examples("txp config show", "txp config show --app orders:app --json"))
def show_(app: AppOption = None, json: JsonOption = False) -> None:
    """Show every setting, its value and where that comes from. Passwords are masked."""
    rows = _of_environment() if app is None else _of_app(app)
    show(rows, table(rows), as_data=json)


def _of_app(place: str) -> Sequence[Mapping[str, str]]:
    app = load_app(place)
    urls = [
        _row(DATABASE_URL, app.database.shown_url, app.sources["database"]),
        _row(BROKER_URL, app.broker_name, app.sources["broker"]),
    ]
    return urls + _settings(app.settings, AppSettings.from_environment())


def _of_environment() -> Sequence[Mapping[str, str]]:
    settings = AppSettings.from_environment()
    urls = [
        _row(name, masked(os.environ.get(name) or usual), "environment" if os.environ.get(name) else "default")
        for name, usual in ((DATABASE_URL, "sqlite+aiosqlite:///NAME.db"), (BROKER_URL, "memory://"))
    ]
    return urls + _settings(settings, settings)


def _settings(settings: AppSettings, environment: AppSettings) -> list[dict[str, str]]:
    rows = []
    for variable in variables():
        value = variable.value_in(settings)
        source = "default"
        if value != variable.value_in(environment):
            source = "constructor"
        elif os.environ.get(variable.name):
            source = "environment"
        text = "-" if value is None else shown(value)
        rows.append(_row(variable.name, masked(text) if variable.name.endswith("_URL") else text, source))
    return rows


def _row(name: str, value: str, source: str) -> dict[str, str]:
    return {"setting": name, "value": value, "from": source}
