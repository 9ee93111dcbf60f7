"""Processes that have nothing of their caller's: what is explored is forked from these, never from the caller itself.

A fork takes over all that its parent has: connections, locks of threads that no longer run, and garbage. A collection
in the forked process then finalizes what belongs to the parent: a forgotten librdkafka consumer crashes it, or lets it
wait for ever for threads that are not there. So each exploration runs in fresh processes, forked by a server that was
itself a fresh interpreter (``multiprocessing``'s *forkserver*), free of threads.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any, TypeVar

from txpatterns.errors import ConfigurationError

T = TypeVar("T")

Places = Mapping[str, tuple[str | None, list[str] | None]]
"""Where modules are: their file, and a package's folders."""


def apart(works: Sequence[Callable[[], T]]) -> list[T]:
    """Call each in a fresh process of its own, all at the same time; gives what they return, or raises their error.

    They have the caller's environment and import path, and nothing else of it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["txpatterns.testing.explorer"])
    given = dict(os.environ), _places()
    running = []
    for work in works:
        # A pipe alone: queues and pools need semaphores, and so room in /dev/shm.
        answer, told = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(told, pickle.dumps(work), *given))
        process.start()
        told.close()
        running.append((process, answer))
    outcomes = [_outcome(process, answer) for process, answer in running]
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return outcomes


def _outcome(process: BaseProcess, answer: Connection) -> Any:
    with answer:
        try:
            outcome = answer.recv()
        except EOFError:
            process.join()
            outcome = RuntimeError(f"A process of the explorer ended with {process.exitcode} and no answer.")
    process.join()
    return outcome


def _work(told: Connection, work: bytes, environment: Mapping[str, str], places: Places) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.meta_path.append(_CallersModules(places))
    try:
        outcome = pickle.loads(work)()  # noqa: S301 - from the caller, whose own code it names
    except Exception as error:  # noqa: BLE001 - raised by the caller
        error.add_note(traceback.format_exc())
        outcome = error
    told.send(outcome)


def check_that_it_travels(work: object, name: str) -> None:
    """Refuse what another process cannot be given.

    Raises:
        ConfigurationError: it has a function of a function, or an object that cannot be pickled.
    """
    try:
        pickle.dumps(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"{name} cannot be told to another process: {error}.",
            fix="Define its functions at the top of a module; give them arguments with functools.partial.",
        ) from error


def place_of(found: object) -> str:
    """Say where a fresh process finds something, as ``module:name``.

    Raises:
        ConfigurationError: no module has it.
    """
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType):
            for attribute, value in list(vars(module).items()):
                if value is found:
                    return f"{name}:{attribute}"
    raise ConfigurationError(
        f"No module has this {type(found).__name__}, so another process cannot find it.",
        fix="Make it at the top of a module.",
    )


def _places() -> Places:
    return {
        name: (getattr(module, "__file__", None), list(getattr(module, "__path__", ())) or None)
        for name, module in list(sys.modules.items())
        if name != "__main__"
    }


class _CallersModules(MetaPathFinder):
    """Finds modules that the caller has under a name of its own, as pytest's ``importlib`` mode gives to test files."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file, folders = self._places.get(fullname, (None, None))
        if file is not None:
            return spec_from_file_location(fullname, file, submodule_search_locations=folders)
        if fullname not in self._places:
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = folders or []
        return spec
