"""Other applications, asked by HTTP: their participants for ours, and their decisions for what is reserved here."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
from txpatterns.integrations.tcc_bodies import DECISION, TccTold, answer_to
from txpatterns.tcc.decisions import Decided, Told
from txpatterns.tcc.participants import AsyncParticipant, Mode, Participant
from txpatterns.tcc.schema import Operation
from txpatterns.tcc.signing import HEADER, checked_secret, signature, signed_by
from txpatterns.tcc.stock import Decision
from txpatterns.tcc.tcc import Tcc
from txpatterns.tcc.transactions import BranchCall
from txpatterns.text import one_line

P = ParamSpec("P")
R = TypeVar("R")

_LARGEST = 640 * 1024
_REFUSED, _LATE = 409, 425
_TIMEOUT = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class _Answer:
    code: int
    body: bytes
    signature: str

    @property
    def values(self) -> dict[str, Any]:
        """What it says, as far as it is JSON."""
        try:
            values = json.loads(self.body) if len(self.body) <= _LARGEST else {}
        except ValueError:
            values = {}
        return values if isinstance(values, dict) else {}


class _Door:
    """Where another application is asked by signed requests. It follows no redirect."""

    def __init__(self, url: str, secret: str, timeout: timedelta) -> None:
        parts = _address(url)
        if parts is None:
            raise ConfigurationError(
                "The address of a participant begins with http:// or https://, and has neither a password nor a query.",
                fix='For example: TccRemote(os.environ["WAREHOUSE_URL"], os.environ["WAREHOUSE_SECRET"])',
            )
        if timeout < INSTANT:
            raise ConfigurationError("timeout must be more than no time.")
        self._kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self.host, self._port, self._path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        self._secret = checked_secret(secret)
        self._timeout = timeout.total_seconds()

    def signed(self, what: str, body: bytes) -> str:
        """Give the signature of a request that is sent now."""
        return signature(self._secret, what, body)

    async def ask(self, what: str, body: bytes, signed: str) -> _Answer:
        """Send a request, in a thread.

        Raises:
            ConnectionError: there is no answer.
        """
        return await anyio.to_thread.run_sync(partial(self._send, what, body, signed), abandon_on_cancel=True)

    def _send(self, what: str, body: bytes, signed: str) -> _Answer:
        headers = {"content-type": "application/json", HEADER: signed}
        connection = self._kind(self.host, self._port, timeout=self._timeout)
        try:
            connection.request("POST", f"{self._path}/{quote(what)}", body, headers)
            response = connection.getresponse()
            read = response.read(_LARGEST + 1)
        except (HTTPException, OSError) as error:
            raise ConnectionError(f"{self.host} does not answer: {type(error).__name__}") from error
        finally:
            connection.close()
        return _Answer(response.status, read, response.getheader(HEADER) or "")


class TccRemote:
    """Another application that takes part in transactions, at an address from your settings.

    ``url`` is where its router is, ``https://warehouse.internal/tcc``. ``secret`` is what both know. ``timeout`` is how
    long one request may take; ``TccSettings.call_timeout`` bounds it, too. It follows no redirect.

    Raises:
        ConfigurationError: the address is none, or the secret too short.
    """

    def __init__(self, url: str, secret: str, *, timeout: timedelta = _TIMEOUT) -> None:
        self._door = _Door(url, secret, timeout)

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
        answer = await self._door.ask(what, body, self._door.signed(what, body))
        if answer.code == 200:
            text = json.dumps(answer.values.get("result"))
            return participant.result.read(text) if tries else None
        why = _why(answer)
        if tries and answer.code in (_REFUSED, _LATE):
            raise Reject(why)
        raise TccError(f"{participant.name} at {self._door.host} has answered {answer.code}: {why}", fix="Look there.")


class TccDecisions:
    """What another application has decided about its transactions, asked where its ``tcc_decisions_router`` is.

    ``app.tcc.overdue.ask("shop", TccDecisions(url, secret))`` in the application that has the participant: what the
    shop's transactions have left reserved beyond their time is asked for by its background part, and confirmed or
    cancelled as the shop says. An answer counts if it is signed with the same secret, and made for that question.

    Raises:
        ConfigurationError: the address is none, or the secret too short.
    """

    def __init__(self, url: str, secret: str, *, timeout: timedelta = _TIMEOUT) -> None:
        self._door = _Door(url, secret, timeout)
        self._is_theirs = signed_by(secret)

    async def about(self, xid: str, branch: str) -> Told:
        """Ask what becomes of a branch.

        Raises:
            ConnectionError: there is no answer now.
            TccError: the answer is none, or not from there.
        """
        body = pydantic_core.to_json({"xid": xid, "branch": branch})
        signed = self._door.signed(DECISION, body)
        answer = await self._door.ask(DECISION, body, signed)
        host = self._door.host
        if answer.code != 200:
            raise TccError(f"{host} has answered {answer.code}: {_why(answer)}", fix="Look there.")
        if not self._is_theirs(answer_to(signed), {HEADER: answer.signature}, answer.body):
            raise TccError(
                f"What {host} has answered is not signed as it should be.", fix="Set one secret on both sides."
            )
        try:
            return TccTold.model_validate_json(answer.body).told(xid, branch)
        except ValueError as error:
            raise TccError(f"What {host} has answered is no decision.", fix="Look which release runs there.") from error

    async def decision(self, reservation: str) -> Decision:
        """Say it for ``sweep`` of a stock whose reservations are called as ``tx.reservation`` is.

        Raises:
            ConnectionError: there is no answer now.
            TccError: the answer is none, or nobody there knows of it.
        """
        xid, _, branch = reservation.rpartition("/")
        told = await self.about(xid, branch)
        if told.decided is Decided.UNKNOWN:
            raise TccError(
                "Whoever runs its transaction does not know of it.", fix="Look there, and settle it by hand."
            )
        return Decision(told.decided.value)


def _address(url: str) -> SplitResult | None:
    """Take an address apart; None: it is none, or has what belongs elsewhere."""
    try:
        parts = urlsplit(url)
        good = parts.port != 0 and parts.scheme in ("http", "https") and parts.hostname
    except ValueError:
        return None
    return parts if good and not parts.username and not parts.query else None


def _why(answer: _Answer) -> str:
    return one_line(str(answer.values.get("why", "")), 500)
