"""What RabbitMQ's refusals mean, told in one line and without secrets."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine, Iterable

from txpatterns.errors import BrokerError
from txpatterns.text import error_line

NOT_ALLOWED, NOT_FOUND, DIFFERS = 403, 404, 406

_EXCHANGE = re.compile(r"exchange '(.+?)' in vhost")
_LIMIT = re.compile(r"configured max size (\d+)")


class Refused(BrokerError):
    """RabbitMQ has closed a channel because of what was asked on it, or would not do it."""

    def __init__(self, code: int, text: str) -> None:
        self.status = code
        self.text = text
        super().__init__(f"RabbitMQ refused: {code} {text}", fix=_FIX.get(code, "Read RabbitMQ's reason."))

    @property
    def exchange(self) -> str | None:
        """The exchange that it was about, where the text names one."""
        found = _EXCHANGE.search(self.text)
        return found[1] if found else None

    @property
    def largest(self) -> int | None:
        """How many bytes a body may have, where one had more."""
        found = _LIMIT.search(self.text)
        return int(found[1]) if found else None


_FIX = {
    NOT_ALLOWED: "Give the user the right to configure, write or read what the reason names.",
    NOT_FOUND: "Make it, or leave out declare=False; it is tried again.",
    DIFFERS: "It is there with other arguments: delete it when it is empty, or use another name.",
}


async def refused_of(calls: Iterable[Coroutine[object, object, None]]) -> list[Refused | None]:
    """Make calls at the same time, because each may have to wait; gives what each was refused for.

    Raises:
        BaseException: the first other error, when all have ended.
    """
    ended = await asyncio.gather(*calls, return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException) and not isinstance(one, Refused):
            raise one
    return [one if isinstance(one, Refused) else None for one in ended]


def describe(error: BaseException) -> str:
    """Say an error in one line."""
    code, text = getattr(error, "reply_code", None), getattr(error, "reply_text", None)
    if code is not None:
        return f"{code} {text}"
    inner = getattr(error, "exceptions", None) or getattr(error, "exception", None)
    if isinstance(inner, list | tuple) and inner:
        inner = inner[-1]
    return describe(inner) if isinstance(inner, BaseException) else error_line(error)
