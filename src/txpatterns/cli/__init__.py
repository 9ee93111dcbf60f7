"""The command ``txp``. Imported only by the command itself."""

from txpatterns.cli.main import main

__all__ = ["main"]
