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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from types import ModuleType

from txpatterns.errors import ConfigurationError

Places = Mapping[str, tuple[str | None, list[str] | None]]
"""Where modules are: their file, and a package's folders."""


@contextmanager
def processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """Give so many processes with the caller's environment and import path, and nothing else of it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["txpatterns.testing.explorer"])
    given = (dict(os.environ), _places())
    executor = ProcessPoolExecutor(number, context, initializer=_begin, initargs=given)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


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


def _begin(environment: Mapping[str, str], places: Places) -> None:
    os.environ.clear()
    os.environ.update(environment)
    sys.meta_path.append(_CallersModules(places))


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
