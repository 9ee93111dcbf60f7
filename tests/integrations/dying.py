"""A process that books a seat and kills itself where it is told to: `python dying.py URL POINT`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

import pytest
from sqlalchemy.engine import Connection

from integrations.halls import Hall, ask
from rig.planting import instead_of
from txpatterns.integrations.answers import Answer, AnswerStore, Turn
from txpatterns.integrations.fastapi.course import Course
from txpatterns.integrations.fastapi.keeping import Held, Keeping

PATCH = pytest.MonkeyPatch()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def before_the_answer() -> None:
    die()


def before_the_commit(self: AnswerStore, connection: Connection, turn: Turn, answer: Answer) -> None:
    keep_answer(self, connection, turn, answer)
    die()


async def after_the_commit(self: Keeping, course: Course, held: Held) -> None:
    die()


keep_answer = AnswerStore.keep_answer


async def main(url: str, point: str) -> None:
    hall = Hall(url)
    if point == "effect":
        hall.meanwhile = before_the_answer
    elif point == "answer":
        instead_of(PATCH, AnswerStore, AnswerStore.keep_answer)(before_the_commit)
    else:
        instead_of(PATCH, Keeping, Keeping.end)(after_the_commit)
    async with hall.open() as client:
        await ask(client)
    print("survived")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
