"""Participants of other applications, asked by HTTP: what ``tcc_router`` serves takes part in transactions here."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import SplitResult, quote, urlsplit

import anyio.to_thread
import pydantic_core

from txpatterns.checks import INSTANT
from txpatterns.correlation import CORRELATION_ID, current_lineage
from txpatterns.errors import ConfigurationError, Reject, TccError
from txpatterns.tcc.participants import AsyncParticipant, Mode, Participant
from txpatterns.tcc.schema import Operation
from txpatterns.tcc.signing import HEADER, checked_secret, signature
from txpatterns.tcc.tcc import Tcc
from txpatterns.tcc.transactions import BranchCall
from txpatterns.text import one_line

P = ParamSpec("P")
R = TypeVar("R")

_LARGEST = 640 * 1024
_REFUSED, _LATE = 409, 425


class TccRemote:
    """Another application that takes part in transactions, at an address from your settings.

    ``url`` is where its router is, ``https://warehouse.internal/tcc``. ``secret`` is what both know. ``timeout`` is how
    long one request may take; ``TccSettings.call_timeout`` bounds it, too. It follows no redirect.

    Raises:
        ConfigurationError: the address is none, or the secret too short.
    """

    def __init__(self, url: str, secret: str, *, timeout: timedelta = timedelta(seconds=10)) -> None:
        parts = _address(url)
        if parts is None:
            raise ConfigurationError(
                "The address of a participant begins with http:// or https://, and has neither a password nor a query.",
                fix='For example: TccRemote(os.environ["WAREHOUSE_URL"], os.environ["WAREHOUSE_SECRET"])',
            )
        if timeout < INSTANT:
            raise ConfigurationError("timeout must be more than no time.")
        self._kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        self._secret = checked_secret(secret)
        self._timeout = timeout.total_seconds()

    def participant(
        self, tcc: Tcc, name: str, *, there: str | None = None
    ) -> Callable[[Callable[Concatenate[BranchCall, P], Awaitable[R]]], Participant[P, R]]:
        """Register, as a decorator, a participant there; ``there`` is its name there, if that is another.

        The function is only looked at, and never called: it says which arguments there are, and what comes back.

        Raises:
            TccDefinitionError: the name is taken, or an annotation cannot be sent.
        """

        def register(function: Callable[Concatenate[BranchCall, P], Awaitable[R]]) -> Participant[P, R]:
            made: AsyncParticipant[BranchCall, P, R] = AsyncParticipant(name, Mode.INTENT, function)
            made.functions = {each: partial(self._asked, made, f"{there or name}/{each}") for each in Operation}
            tcc.participants.add(made)
            return made

        return register

    async def _asked(self, participant: Participant[..., Any], what: str, call: BranchCall, /, *args: Any) -> Any:
        """Ask, and give what is answered.

        Raises:
            Reject: a try is refused there: nothing is reserved.
            TccError: nobody knows what came of it; or what is to be confirmed or cancelled is refused there.
        """
        xid, _, branch = call.reservation.rpartition("/")
        tries = what.endswith(f"/{Operation.TRY}")
        arguments, _ = participant.arguments.write(args)
        result = None if call.result is None else json.loads(participant.result.write(call.result)[0])
        body = pydantic_core.to_json(
            {
                "xid": xid,
                "branch": branch,
                "args": json.loads(arguments),
                "result": result,
                "started_at": call.started_at,
                "expires_at": call.expires_at,
                "correlation_id": current_lineage().get(CORRELATION_ID, call.transaction_id),
                "attempt": call.attempt,
            }
        )
        send = partial(self._send, what, body)
        code, answer = await anyio.to_thread.run_sync(send, abandon_on_cancel=True)
        if code == 200:
            text = json.dumps(answer.get("result"))
            return participant.result.read(text) if tries else None
        why = one_line(str(answer.get("why", "")), 500)
        if tries and code in (_REFUSED, _LATE):
            raise Reject(why)
        raise TccError(f"{participant.name} at {self._host} has answered {code}: {why}", fix="Look there.")

    def _send(self, what: str, body: bytes) -> tuple[int, dict[str, Any]]:
        headers = {"content-type": "application/json", HEADER: signature(self._secret, what, body)}
        connection = self._kind(self._host, self._port, timeout=self._timeout)
        try:
            connection.request("POST", f"{self._path}/{quote(what)}", body, headers)
            response = connection.getresponse()
            read = response.read(_LARGEST + 1)
        except (HTTPException, OSError) as error:
            raise ConnectionError(f"{self._host} does not answer: {type(error).__name__}") from error
        finally:
            connection.close()
        return response.status, _answer_in(read)


def _address(url: str) -> SplitResult | None:
    """Take an address apart; None: it is none, or has what belongs elsewhere."""
    try:
        parts = urlsplit(url)
        good = parts.port != 0 and parts.scheme in ("http", "https") and parts.hostname
    except ValueError:
        return None
    return parts if good and not parts.username and not parts.query else None


def _answer_in(read: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(read) if len(read) <= _LARGEST else {}
    except ValueError:
        answer = {}
    return answer if isinstance(answer, dict) else {}
