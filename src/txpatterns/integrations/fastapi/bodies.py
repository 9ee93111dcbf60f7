"""A request's body as a whole, within a limit that is kept while it is read."""

from __future__ import annotations

from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from txpatterns.errors import BodyTooLarge


async def whole_body(scope: Scope, receive: Receive, most: int) -> bytes:
    """Read the body: nothing of it where more is announced than ``most`` bytes, and never more than that.

    Raises:
        BodyTooLarge: there is more.
    """
    announced = Headers(scope=scope).get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > most:
        raise BodyTooLarge(f"A request may carry {most} bytes here.")
    parts, size, is_more = [], 0, True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HTTPException(400, "The request has ended early.")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise BodyTooLarge(f"A request may carry {most} bytes here.")
        is_more = message.get("more_body", False)
    return b"".join(parts)


def replayed(body: bytes, receive: Receive) -> Receive:
    """Give what was read to whoever reads next, and then what comes after it."""
    is_given = False

    async def again() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
