"""How the answer to a request with a key is kept: with its effect where that can be, and otherwise after it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Send

from txpatterns.database.dialects import may_pass
from txpatterns.errors import AnswerNotKept, ConfigurationError, KeyMissing, RequestRefused, TurnLost
from txpatterns.integrations.answers import Answer, refuse_large
from txpatterns.integrations.fastapi.course import Course, course_of
from txpatterns.integrations.fastapi.problems import Refused
from txpatterns.integrations.idempotency import IdempotencyKeys, parsed_key

logger = logging.getLogger("txpatterns.http")

HEADER = "Idempotency-Key"
REPLAYED = b"idempotent-replayed"
"""The header of an answer that was given before."""


class AnsweredBefore(Exception):
    """Ends a request whose answer is there already, before anything is done."""


class Held:
    """Holds an answer back until it is kept. Raises AnswerNotKept when it becomes larger than can be kept."""

    def __init__(self, most: int) -> None:
        self._messages: list[Message] = []
        self._most = most
        self._size = 0

    async def take(self, message: Message) -> None:
        """Stand in for the server's ``send``."""
        self._size += len(message.get("body", b""))
        refuse_large(self._size, self._most)
        self._messages.append(message)

    async def release(self, send: Send) -> None:
        """Send what was held back."""
        for message in self._messages:
            await send(message)

    def answer(self, names: frozenset[str]) -> Answer:
        """Give it as it is kept, with the headers of these names."""
        status, headers = 500, []
        for message in self._messages:
            if message["type"] == "http.response.start":
                status, headers = message["status"], list(message.get("headers", ()))
        body = b"".join(message.get("body", b"") for message in self._messages)
        return Answer(status, _chosen(headers, names), body)


@dataclass(frozen=True, slots=True)
class Keeping:
    """What is kept, for whom, and where."""

    keys: IdempotencyKeys
    is_required: bool
    headers: frozenset[str]
    is_decided: Callable[[int], bool]

    async def begin(self, request: Request, principal: Any) -> None:
        """Take the turn to answer.

        Raises:
            Refused: there is no key, it cannot be read, or another request has it.
            AnsweredBefore: the answer is there.
        """
        course = course_of(request.scope)
        try:
            key = parsed_key(request.headers.getlist(HEADER))
            if key is None or course is None:
                if self.is_required:
                    raise KeyMissing
                return
            if course.session is not None and self.keys.app.database.is_sqlite:
                raise ConfigurationError(
                    "The request's session holds the one writer's place before its key is looked at.",
                    fix="Let principal= do without session_dependency on SQLite.",
                )
            found = await self.keys.begin(principal, key, course.fingerprint)
        except RequestRefused as error:
            raise Refused(error) from error
        if isinstance(found, Answer):
            course.first = found
            raise AnsweredBefore
        course.turn = found

    async def keep_with_effect(self, course: Course, response: Response) -> None:
        """Write the answer down in the session of the request; roll that back where the answer is not to be kept.

        Raises:
            TurnLost: another request has taken over; what this one did is rolled back.
            AnswerNotKept: the answer is streamed, or too large.
        """
        course.background, response.background = response.background, None
        session, turn = course.session, course.turn
        if turn is None or session is None or not session.in_transaction():
            return
        if not self.is_decided(response.status_code):
            await (session.rollback() if isinstance(session, AsyncSession) else run_in_threadpool(session.rollback))
            return
        body = getattr(response, "body", None)
        if body is None:
            raise AnswerNotKept("The answer is streamed, so it cannot commit with its effect.")
        answer = Answer(response.status_code, _chosen(response.raw_headers, self.headers), bytes(body))
        try:
            if isinstance(session, AsyncSession):
                await session.run_sync(self.keys.keep, turn, answer)
            else:
                await run_in_threadpool(self.keys.keep, session, turn, answer)
        except TurnLost:
            course.is_lost = True
            raise
        course.kept = answer

    async def end(self, course: Course, held: Held) -> None:
        """See that the answer that is held back is the one that was kept, or keep it, or leave the key to others."""
        if course.turn is None or course.is_lost or course.first is not None:
            return
        answer = held.answer(self.headers)
        if answer == course.kept:
            return
        if not self.is_decided(answer.status):
            await self.leave(course)
            return
        try:
            await self.keys.keep_alone(course.turn, answer)
        except TurnLost:
            course.is_lost = True

    async def leave(self, course: Course) -> None:
        """Leave the key to whoever comes next; where that fails, its lease ends by itself."""
        if course.turn is None:
            return
        try:
            await self.keys.give_up(course.turn)
        except Exception as error:
            if not may_pass(error):
                raise
            logger.warning("an Idempotency-Key stays taken until its lease is over: %s", type(error).__name__)

    async def first(self, course: Course) -> Answer | None:
        """Give what an earlier request was answered, if there was one, or the one that has taken over.

        Raises:
            Refused: the one that has taken over has not answered yet.
        """
        if course.first is None and course.is_lost and course.turn is not None:
            try:
                course.first = await self.keys.look(course.turn)
            except RequestRefused as error:
                raise Refused(error) from error
        return course.first


async def give_again(answer: Answer, send: Send) -> None:
    """Send an answer that was given before, with a header that says so."""
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
    if answer.status not in (204, 304):
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": [*headers, (REPLAYED, b"true")]})
    await send({"type": "http.response.body", "body": answer.body})


def _chosen(headers: list[tuple[bytes, bytes]], names: frozenset[str]) -> tuple[tuple[str, str], ...]:
    pairs = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in headers)
    return tuple(pair for pair in pairs if pair[0] in names)
