"""The command ``txp``: its parts, its version, and how its errors look."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from sqlalchemy.exc import SQLAlchemyError

from txpatterns.cli import (
    config,
    db,
    dlq,
    doctor,
    explain,
    group,
    ids,
    inbox,
    outbox,
    publish,
    queues,
    run,
    saga,
    status,
    tcc,
)
from txpatterns.cli.output import FAILED, OK, USAGE, report, report_usage
from txpatterns.database.dialects import is_of_database
from txpatterns.errors import TxPatternsError

UsageError: Any = typer.BadParameter.__base__
"""What Typer raises for a wrong call. It has no public name there, and Typer may use a click of its own."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"txpatterns {version('txpatterns')}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
]

app = typer.Typer(
    name="txp",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
run.register(app)
app.add_typer(db.group, name="db")
app.add_typer(outbox.group, name="outbox")
app.add_typer(inbox.group, name="inbox")
app.add_typer(dlq.group, name="dlq")
app.add_typer(group.group, name="group")
app.add_typer(saga.group, name="saga")
app.add_typer(tcc.group, name="tcc")
app.add_typer(ids.group, name="ids")
status.register(app)
queues.register(app)
doctor.register(app)
publish.register(app)
app.add_typer(config.group, name="config")
explain.register(app)


@app.callback(
    epilog="\b\nExit codes: 0 done, 1 failed, 2 called wrongly, 3 not as asked (a difference, nothing found), "
    "4 drained, but something waits."
)
def _txp(version: VersionOption = False) -> None:
    """Reliable messages on your own database: run an App, look after its tables, see what it does."""


def main() -> None:
    """Run the command. An error of ours, or of the database, is one line with its code and fix."""
    try:
        code: int = app(prog_name="txp", standalone_mode=False) or OK
    except UsageError as error:
        report_usage(error)
        code = USAGE
    except typer.Abort:  # a question was not answered
        typer.echo("not done", err=True)
        code = FAILED
    except Exception as error:
        if not isinstance(error, (TxPatternsError, SQLAlchemyError)) and not is_of_database(error):
            raise
        report(error)
        code = FAILED
    sys.exit(code)
