"""Running the user's code that makes an App: what goes wrong there is shown as theirs, without our frames."""

from __future__ import annotations

import importlib
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path

import txpatterns
from txpatterns.errors import ConfigurationError, TxPatternsError
from txpatterns.text import error_line, without_secrets

_OURS = str(Path(txpatterns.__file__).parent)
_IMPORTLIB = str(Path(importlib.__file__).parent)
_OTHERS = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


@contextmanager
def aside() -> Iterator[None]:
    """Let what the user's code prints go to standard error where a command's own words are JSON for a program."""
    with redirect_stdout(sys.stderr) if "--json" in sys.argv else nullcontext():
        yield


@contextmanager
def users_code(place: str) -> Iterator[None]:
    """Say where the user's code failed, and what with: their frames as a note, and one line with a fix.

    Raises:
        ConfigurationError: anything but an error of ours was raised; that one gets the note and passes.
    """
    try:
        with aside():
            yield
    except KeyboardInterrupt:
        raise
    except TxPatternsError as error:
        _note(error, _frames(error))
        raise
    except BaseException as error:
        frames = _frames(error)
        told = ConfigurationError(f"{place} cannot be imported: {_said(error)}{_at(error, frames)}.", fix=_fix(error))
        _note(told, frames, error if isinstance(error, SyntaxError) else None)
        raise told from error


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Give the frames that are the user's: those of an installed library too, if there are no others."""
    found = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    return [frame for frame in found if not frame.filename.startswith(_OTHERS)] or found


def _is_machinery(file: str) -> bool:
    return file.startswith(("<frozen", _OURS, _IMPORTLIB))


def _note(error: Exception, frames: list[traceback.FrameSummary], syntax: SyntaxError | None = None) -> None:
    lines = traceback.format_list(frames)
    if syntax is not None:
        lines += traceback.format_exception_only(syntax)[:-1]  # the place, the line and the mark below it
    if lines:
        error.add_note(without_secrets("".join(lines).rstrip()))


def _said(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error.msg}" if isinstance(error, SyntaxError) else error_line(error)
    return without_secrets(text).rstrip(".")


def _at(error: BaseException, frames: list[traceback.FrameSummary]) -> str:
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f" ({error.filename}:{error.lineno})"
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _fix(error: BaseException) -> str:
    match error:
        case SyntaxError():
            return "Correct that line."
        case ModuleNotFoundError():
            return f"Correct the name, or install what provides {error.name!r} into {sys.prefix}."
        case ImportError():
            return "Correct the name that is imported; a module that imports itself in a circle has it only later."
        case SystemExit():
            return 'Put what runs and ends the program under: if __name__ == "__main__":'
        case _:
            return "Correct the line that is shown."
