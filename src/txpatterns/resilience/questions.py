"""What is asked of somebody else, in a thread that waits or in an event loop: each question is written once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Question(ABC, Generic[T]):
    """One question, asked once, in either way."""

    @abstractmethod
    def plain(self) -> T:
        """Ask, and wait in this thread."""

    @abstractmethod
    async def awaited(self) -> T:
        """Ask, in an event loop."""


class Known(Question[T]):
    """What is known without asking anybody."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def plain(self) -> T:
        return self._value

    async def awaited(self) -> T:
        return self._value


class Loading(Question[T]):
    """The user's own code, ``def`` or ``async def`` as the way of asking is."""

    __slots__ = ("_load",)

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load

    def plain(self) -> T:
        found: T = self._load()
        return found

    async def awaited(self) -> T:
        given: Awaitable[T] = self._load()
        return await given


Flow = Generator[Question[Any], Any, T]
"""Code that asks by ``yield``, and is told the answer, or what was raised instead."""


def run(flow: Flow[T]) -> T:
    """Run a flow in this thread."""
    try:
        question = next(flow)
        while True:
            try:
                answer = question.plain()
            except BaseException as error:  # noqa: BLE001 - the flow decides
                question = flow.throw(error)
            else:
                question = flow.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value


async def arun(flow: Flow[T]) -> T:
    """Run a flow in an event loop."""
    try:
        question = next(flow)
        while True:
            try:
                answer = await question.awaited()
            except BaseException as error:  # noqa: BLE001 - the flow decides
                question = flow.throw(error)
            else:
                question = flow.send(answer)
    except StopIteration as end:
        value: T = end.value
        return value
