"""Errors on the wire: problem details for programs, a page for people."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shop.gateway.sessions import signed_in_of
from shop.gateway.visitors import visitor_of
from shop.problems import MEDIA_TYPE, Problem, problem_of_status
from txpatterns.errors import KeyInUse, KeyInvalid, KeyReused
from txpatterns.integrations.fastapi import Refused

logger = logging.getLogger("shop.gateway")

REFUSALS = {
    KeyInUse: "idempotency-key-in-use",
    KeyInvalid: "idempotency-key-invalid",
    KeyReused: "idempotency-key-reused",
}
"""What the library refuses of a request, in the words of our catalogue."""


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Refused, _on_refused)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_crash)


def answer(request: Request, problem: Problem) -> Response:
    """Show a problem to whoever asked: a page to a browser on a page, JSON to everybody else."""
    body = problem.body(instance=request.url.path)
    wants_page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
    if wants_page:
        return HTMLResponse(_page(request, body), problem.kind.status, problem.headers)
    return JSONResponse(body, problem.kind.status, problem.headers, media_type=MEDIA_TYPE)


def _page(request: Request, body: dict[str, Any]) -> str:
    template = request.app.state.context.templates.get_template("error.html")
    # What is refused before anybody knows who asks, as a cookie from elsewhere, has no form on its page.
    token = visitor_of(request).form_token if hasattr(request.state, "visitor") else ""
    signed_in = signed_in_of(request) is not None
    page: str = template.render(problem=body, here="", cart_count=0, words=None, token=token, signed_in=signed_in)
    return page


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return answer(request, error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"where": ".".join(str(part) for part in found["loc"]), "what": found["msg"]} for found in error.errors()]
    return answer(request, Problem("invalid", "The request does not fit; see the errors.", errors=errors))


async def _on_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    slug = REFUSALS.get(type(error.refusal))
    if slug is None:
        return await _on_http(request, error)
    refused = answer(request, Problem(slug, error.refusal.message))
    refused.headers.update(error.refusal.headers)
    return refused


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = "" if error.detail == HTTPStatus(error.status_code).phrase else f"{error.detail}."
    refused = answer(request, problem_of_status(error.status_code, said))
    refused.headers.update(error.headers or {})
    return refused


async def _on_crash(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(request, Problem("internal", "The shop could not answer."))
