"""The local participants of an App for coordinators elsewhere, by HTTP: each request signed, each done once."""

from __future__ import annotations

from typing import Any

import pydantic_core
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

from txpatterns.app import App
from txpatterns.errors import Reject, TccDefinitionError
from txpatterns.tcc.barrier import Request as Asked
from txpatterns.tcc.barrier import Verdict
from txpatterns.tcc.participants import Mode
from txpatterns.tcc.schema import Operation
from txpatterns.tcc.serving import Asking
from txpatterns.tcc.signing import Authenticate
from txpatterns.text import one_line

LARGEST = 640 * 1024
"""Bytes that a request may have: its arguments, and a result."""
_CODES = {Verdict.DONE: 200, Verdict.REFUSED: 409, Verdict.LATE: 425}


class TccRequest(BaseModel):
    """What a coordinator sends."""

    xid: str = Field(min_length=3, max_length=401, pattern=r"^[!-~]+/[!-~]+$")
    branch: str = Field(min_length=1, max_length=200, pattern=r"^[!-~]+$")
    args: list[Any]
    result: Any = None
    started_at: AwareDatetime
    expires_at: AwareDatetime
    correlation_id: str = Field(max_length=200)
    attempt: int = Field(default=1, ge=1)


def tcc_router(app: App, *, authenticate: Authenticate, prefix: str = "/tcc") -> APIRouter:
    """Make ``POST {prefix}/{participant}/{try|confirm|cancel}`` for the local participants of an App.

    ``authenticate`` says whether a request may be served: ``signed_by(secret)``, or a function of your own. There is no
    default, because whoever may ask here moves your stock.

    Answers 200 with the result, for repeats too; 409 where the participant or the barrier refuses; 425 where a try
    comes after the timeout of its transaction; 401, 404, 413 and 422 as their names say. Each other answer, and none,
    means that nobody knows: a coordinator asks again, and nothing is done twice.
    """
    router = APIRouter(prefix=prefix, tags=["tcc"])

    @router.post("/{participant}/{operation}")
    async def ask(participant: str, operation: str, request: Request) -> JSONResponse:
        body = await _body_of(request)
        if body is None:
            return _told(413, f"A request has at most {LARGEST} bytes.")
        headers = {name.lower(): value for name, value in request.headers.items()}
        if not authenticate(f"{participant}/{operation}", headers, body):
            return _told(401, "The request is not signed as it should be, or its signature is too old.")
        known = app.tcc.participants.find(participant)
        if operation not in list(Operation) or known is None or known.mode != Mode.LOCAL:
            return _told(404, "There is no such participant here.")
        try:
            asked = TccRequest.model_validate_json(body)
            return await _served(app, asked, participant, Operation(operation))
        except ValidationError as error:
            return _told(422, one_line(str(error.errors(include_input=False, include_url=False)[0]["msg"])))
        except TccDefinitionError as error:
            return _told(422, error.message)
        except Reject as refused:
            return _told(409, one_line(str(refused.reason or "The participant says no."), 500))

    return router


async def _served(app: App, asked: TccRequest, participant: str, operation: Operation) -> JSONResponse:
    asking = Asking(
        Asked(asked.xid, asked.branch, operation, participant, asked.expires_at),
        pydantic_core.to_json(asked.args).decode(),
        asked.started_at,
        asked.correlation_id,
        asked.attempt,
        None if asked.result is None else pydantic_core.to_json(asked.result).decode(),
    )
    admission = await app.tcc.serving.serve(asking)
    if admission.verdict is Verdict.DONE:
        result = None if admission.result is None else pydantic_core.from_json(admission.result)
        return JSONResponse({"result": result})
    return _told(_CODES[admission.verdict], admission.why)


async def _body_of(request: Request) -> bytes | None:
    """Read a body; None: it is too large, and was not read to its end."""
    parts, size = list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST:
            return None
        parts.append(part)
    return b"".join(parts)


def _told(code: int, why: str) -> JSONResponse:
    return JSONResponse({"why": why}, status_code=code)
