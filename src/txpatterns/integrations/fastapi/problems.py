"""Refusals and errors as problem details (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from txpatterns.errors import RequestRefused

MEDIA_TYPE = "application/problem+json"


class Refused(HTTPException):
    """A refusal of the library's, as FastAPI knows it. ``refusal`` is the error: its code, its fix."""

    def __init__(self, refusal: RequestRefused) -> None:
        super().__init__(refusal.status, refusal.message, headers=dict(refusal.headers))
        self.refusal = refusal


def answer_with_problems(web: FastAPI, docs: str | None = None) -> None:
    """Answer refusals, ``HTTPException`` and requests that do not validate as ``application/problem+json``.

    ``docs`` is the page of yours that says which operations take a key, and for how long its answer is kept: the
    ``type`` of the library's refusals leads there, with their code behind ``#``.

    What a request was refused for stands in ``errors``, by where it is; what was sent does not come back.
    """

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        told = error.refusal
        more = {"code": told.code, "fix": told.remedy}
        if docs is not None:
            more |= {"type": f"{docs}#{told.code.lower()}", "title": told.title}
        return _problem(request, told.status, told.message, more, told.headers)

    async def failed(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code < 200 or error.status_code in (204, 205, 304):
            return Response(status_code=error.status_code, headers=error.headers)
        return _problem(request, error.status_code, str(error.detail), {}, error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        errors = [{"where": ".".join(map(str, each["loc"])), "what": each["msg"]} for each in error.errors()]
        return _problem(request, 422, "The request does not fit; see the errors.", {"errors": errors})

    web.add_exception_handler(Refused, refused)
    web.add_exception_handler(HTTPException, failed)
    web.add_exception_handler(RequestValidationError, invalid)


def _problem(
    request: Request, status: int, detail: str, more: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> Response:
    """Make the answer: ``more`` are further members, or better ones."""
    phrase = next((each.phrase for each in HTTPStatus if each == status), "Error")
    members = {"type": "about:blank", "title": phrase, "status": status, "detail": detail}
    body = {**members, "instance": request.url.path, **more}
    return JSONResponse(body, status, dict(headers or {}), media_type=MEDIA_TYPE)
