"""What lies behind an error: the members of a group, its causes, and the line of the user's code that it came from."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

from txpatterns.text import error_line

_NOT_USERS = (f"{Path(__file__).parent}{os.sep}", "<frozen")
_STANDARD = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_PLUMBING = ("/asyncio/", "/sqlalchemy/", "/contextlib.py", "/threading.py")
_MARK = "It came from outside of the code that ran, which is written at "
_MOST = 100
"""Errors looked at: a chain may be as long as a loop that went on failing."""
_SHOWN = 3
"""Members of a group that one line names."""
_LONGEST = 7000
"""Characters of a stored story; what is longer loses its middle."""


# What an error's class makes of these names is the application's code, and may fail.
_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_MEMBERS: Any = BaseExceptionGroup.__dict__["exceptions"]


def members_of(error: BaseException) -> tuple[BaseException, ...]:
    """Give the members of an exception group; nothing of another error."""
    found: tuple[BaseException, ...] = _MEMBERS.__get__(error) if isinstance(error, BaseExceptionGroup) else ()
    return found


def cause_of(error: BaseException) -> BaseException | None:
    """Give what an error was raised from."""
    found: BaseException | None = _CAUSE.__get__(error)
    return found


def behind(error: BaseException) -> Iterator[BaseException]:
    """Give an error, the members of its groups, and all that they were raised from or during: the outermost first."""
    waiting, seen = [error], set[int]()
    while waiting and len(seen) < _MOST:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        around = (cause_of(each), _CONTEXT.__get__(each))
        waiting += [found for found in (*members_of(each), *around) if found is not None]


def place_of(error: BaseException) -> str:
    """Say where in the user's own code an error came from: ``file:line in function``; empty where nobody knows.

    The innermost line outside of installed libraries counts, because the innermost of all is mostly a driver's. Of a
    group it is that of its first member; of an error of ours that of its cause.
    """
    frames = list(_frames(walk_tb(error.__traceback__)))
    found = next(filter(None, map(place_of, members_of(error))), "") or _users(frames) or _marked(error)
    cause = cause_of(error)
    if not found and not frames and cause is not None:
        return place_of(cause)
    return found or _of_package(frames)


def place_among(stack: Sequence[FrameType]) -> str:
    """Say the same of code that runs: of its frames, the innermost last."""
    frames = list(_frames((frame, frame.f_lineno) for frame in stack))
    return _users(frames) or _of_package(frames)


def mark(error: BaseException, place: str) -> None:
    """Say which code an error belongs to that does not come from it: at a commit that code has returned."""
    with suppress(Exception):  # what else it has for notes is the application's, and may be no list
        error.add_note(f"{_MARK}{place}")


def one_of(error: BaseException) -> str:
    """Say in one line what happened; of a group also what its members say."""
    return "; ".join((error_line(error), *map(one_of, members_of(error)[:_SHOWN])))


def summary_of(error: BaseException) -> str:
    """Say what happened in full, and where in the user's own code."""
    told, place = traceback.TracebackException(type(error), error, None), place_of(error)
    told.__notes__ = None
    text = "".join(told.format_exception_only()).strip()
    members = members_of(error)[:_SHOWN]
    return "; ".join((f"{text} (at {place})" if place else text, *map(one_of, members)))


def story_of(error: BaseException) -> str:
    """Tell an error as it is stored: what sums it up, then the traceback with all that lies behind it."""
    try:
        told = traceback.TracebackException.from_exception(error)
        told.stack = traceback.StackSummary.from_list(_without_ours(told.stack))
        whole = f"{summary_of(error)}\n{''.join(told.format()).rstrip()}"
    except Exception as failed:  # noqa: BLE001 - what becomes of the message must not fail on how its error is told
        return f"{type(error).__name__} (which cannot be told: {type(failed).__name__})"
    if len(whole) <= _LONGEST:
        return whole
    return f"{whole[: _LONGEST // 2]}\n  […]\n{whole[-_LONGEST // 2 :]}"


def _without_ours(frames: traceback.StackSummary) -> list[traceback.FrameSummary]:
    """Leave out the lines that lead to the user's code: they are the same for everybody."""
    first = next((n for n, frame in enumerate(frames) if not _leads_there(frame.filename)), 0)
    return [frame for frame in frames[first:] if first or not frame.filename.startswith(_NOT_USERS)]


@dataclass(frozen=True, slots=True)
class _Frame:
    file: str
    line: int
    function: str
    package: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


def _frames(lines: Iterable[tuple[FrameType, int]]) -> Iterator[_Frame]:
    """Give the lines of a traceback but for ours and those that lead to the user's code."""
    arrived = False
    for frame, line in lines:
        code = frame.f_code
        arrived = arrived or not _leads_there(code.co_filename)
        if arrived and not code.co_filename.startswith(_NOT_USERS):
            package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
            yield _Frame(code.co_filename, line, code.co_qualname, package)


def _users(frames: Sequence[_Frame]) -> str:
    # What is generated or compiled names no real file, but for what was typed in.
    mine = (f for f in reversed(frames) if f.package == "__main__" or Path(f.file).is_absolute())
    return next((str(frame) for frame in mine if not _is_installed(frame.file)), "")


def _of_package(frames: Sequence[_Frame]) -> str:
    """Tell of an application that is installed like a library: all its lines are there, and its own package tells."""
    theirs = [frame for frame in frames if not frame.file.startswith(_STANDARD) or _is_package(frame.file)]
    return next((str(frame) for frame in reversed(theirs) if frame.package == theirs[0].package), "")


def _marked(error: BaseException) -> str:
    notes = vars(error).get("__notes__")
    texts = (note for note in notes if isinstance(note, str)) if isinstance(notes, list) else ()
    return next((note.removeprefix(_MARK) for note in texts if note.startswith(_MARK)), "")


def _leads_there(file: str) -> bool:
    """Whether a line belongs to what runs user code: this library, the event loop, SQLAlchemy's bridge to it."""
    return file.startswith(_NOT_USERS) or (_is_installed(file) and any(part in file for part in _PLUMBING))


def _is_installed(file: str) -> bool:
    return file.startswith(_STANDARD) or _is_package(file)


def _is_package(file: str) -> bool:
    return any(folder in file for folder in ("site-packages", "dist-packages"))
