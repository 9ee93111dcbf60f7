"""An App for those who share transactions with it, by HTTP: its participants, and its decisions. All is signed."""

from __future__ import annotations

import pydantic_core
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from txpatterns.app import App
from txpatterns.errors import Reject, TccDefinitionError
from txpatterns.integrations.tcc_bodies import DECISION, TccBranch, TccRequest, TccTold, answer_to
from txpatterns.tcc.barrier import Verdict
from txpatterns.tcc.participants import Mode
from txpatterns.tcc.schema import Operation
from txpatterns.tcc.serving import Asking
from txpatterns.tcc.signing import HEADER, Authenticate, checked_secret, signature, signed_by
from txpatterns.text import one_line

LARGEST = 640 * 1024
"""Bytes that a request may have: its arguments, and a result."""
_CODES = {Verdict.DONE: 200, Verdict.REFUSED: 409, Verdict.LATE: 425}


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
            return await _served(app, asked.asking(asked.xid, asked.branch, Operation(operation), participant))
        except ValidationError as error:
            return _misshapen(error)
        except TccDefinitionError as error:
            return _told(422, error.message)
        except Reject as refused:
            return _told(409, one_line(str(refused.reason or "The participant says no."), 500))

    return router


def tcc_decisions_router(app: App, *secrets: str, prefix: str = "/tcc") -> APIRouter:
    """Make ``POST {prefix}/decision``: what an App has decided about its transactions, for participants elsewhere.

    A participant that has reserved, and heard nothing for longer than the transaction's timeout, asks here. The answer
    says ``confirm`` or ``cancel``, with all that a request to do so has; ``open`` where nothing is decided; or
    ``unknown``.

    Requests must be signed with one of these secrets, a new and an older one, and the answer is signed with the same.
    Who has one may ask for each transaction of this App.

    Raises:
        ConfigurationError: there is no secret, or one is too short.
    """
    known = [(checked_secret(secret), signed_by(secret)) for secret in secrets]
    signed_by(*secrets)
    router = APIRouter(prefix=prefix, tags=["tcc"])

    @router.post(f"/{DECISION}")
    async def decision(request: Request) -> Response:
        body = await _body_of(request)
        if body is None:
            return _told(413, f"A request has at most {LARGEST} bytes.")
        given = request.headers.get(HEADER, "")
        secret = next((secret for secret, is_good in known if is_good(DECISION, {HEADER: given}, body)), None)
        if secret is None:
            return _told(401, "The request is not signed as it should be, or its signature is too old.")
        try:
            asked = TccBranch.model_validate_json(body)
        except ValidationError as error:
            return _misshapen(error)
        content = TccTold.of(await app.tcc.told(asked.xid, asked.branch)).model_dump_json().encode()
        headers = {HEADER: signature(secret, answer_to(given), content)}
        return Response(content, media_type="application/json", headers=headers)

    return router


async def _served(app: App, asking: Asking) -> JSONResponse:
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


def _misshapen(error: ValidationError) -> JSONResponse:
    return _told(422, one_line(str(error.errors(include_input=False, include_url=False)[0]["msg"])))


def _told(code: int, why: str) -> JSONResponse:
    return JSONResponse({"why": why}, status_code=code)
