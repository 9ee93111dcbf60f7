"""A limit for what a request may carry, kept while it is read: nothing larger is ever held in memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.problems import Problem

LARGEST = 65_536
"""Bytes that a request's body may have. The largest that the shop takes on purpose is a few hundred."""


class _TooLarge(Exception):
    """Ends the reading of a body that has gone past the limit."""


class Limited:
    """Middleware that refuses a large body: at once when its length is announced, else when it passes the limit.

    Args:
        app: The application that reads the body.
        refuse: Makes the answer to a request that is too large.
        largest: How many bytes are read.
    """

    def __init__(self, app: ASGIApp, refuse: Callable[[Request, Problem], Response], largest: int = LARGEST) -> None:
        self.app = app
        self._refuse = refuse
        self._largest = largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Request(scope).headers.get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._largest:
            await self._answer(scope, receive, send)
            return
        read, started = 0, False

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._largest:
                raise _TooLarge
            return message

        async def sent(message: Message) -> None:
            # What the application makes of a body that was cut short is not the answer.
            nonlocal started
            if started or read <= self._largest:
                started = True
                await send(message)

        with suppress(_TooLarge):
            await self.app(scope, counted, sent)
        if read > self._largest and not started:
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        # What still comes is thrown away by the server, piece by piece. To close the connection instead would tear
        # the answer away from a client that sends everything before it reads anything.
        answer = self._refuse(Request(scope), Problem("too-large", f"A request may carry {self._largest} bytes."))
        await answer(scope, receive, send)
