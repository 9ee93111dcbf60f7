"""Calls between services in different processes: a protocol of ``shop.ports``, carried as JSON over HTTP.

One process serves its object, the other holds a caller with the same methods. Problems come back as problems.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast, get_args, get_origin, get_type_hints

import httpx
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import ConfigDict, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from shop.limits import LARGEST, Limited
from shop.problems import MEDIA_TYPE, NoAnswer, Problem, problem_of, problem_of_status
from shop.telemetry import Telemetry
from txpatterns.correlation import CORRELATION_ID, current_lineage
from txpatterns.integrations.fastapi import CorrelationMiddleware

logger = logging.getLogger("shop.calls")
TRACE = TraceContextTextMapPropagator()

P = TypeVar("P")

_BYTES = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
_TEXT = ConfigDict(hide_input_in_errors=True)
"""A text may be a password: an error says what is wrong with it, and not what it is."""
DEADLINE = 10.0
"""Seconds that a call may take before it counts as unavailable."""
LARGEST_CALL = 4 * LARGEST
"""Bytes of a call: it may carry a whole request of the gateway's, written as base64."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a protocol, with what turns its arguments and its result to JSON and back."""

    names: tuple[str, ...]
    arguments: dict[str, TypeAdapter[Any]]
    result: TypeAdapter[Any]
    may_be_none: bool


def methods_of(port: type[Any]) -> dict[str, Method]:
    """Read the methods of a protocol."""
    found = {}
    for name, function in inspect.getmembers(port, inspect.isfunction):
        if name.startswith("_"):
            continue
        hints = get_type_hints(function, include_extras=True)
        result = hints.pop("return")
        arguments = {key: _adapter(hint) for key, hint in hints.items()}
        found[name] = Method(tuple(hints), arguments, _adapter(result), type(None) in get_args(result))
    return found


def _adapter(hint: Any) -> TypeAdapter[Any]:
    if hint is bytes:
        return TypeAdapter(hint, config=_BYTES)
    is_text = get_origin(hint) is Annotated and get_args(hint)[0] is str
    return TypeAdapter(hint, config=_TEXT) if is_text else TypeAdapter(hint)


async def _always() -> None:
    return None


def serve(
    port: type[P],
    api: P,
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None,
    ready: Callable[[], Awaitable[None]] = _always,
    telemetry: Telemetry | None = None,
    participants: ASGIApp | None = None,
) -> Starlette:
    """Make a web application that answers the calls of a protocol with an object's methods.

    It also says that it is there (``/health``, ``/live``), that it can work (``/ready``), and how it is doing
    (``/metrics``). Calls come in the trace and the story that they were made in.

    Args:
        port: The protocol.
        api: What has its methods.
        lifespan: What runs from the first call's eve to the last one's end.
        ready: Raises Problem when the service cannot work at this moment.
        telemetry: What the process tells about itself; its own if left out.
        participants: What answers below ``/tcc``, where the service takes part in transactions of others.
    """
    told = telemetry or Telemetry()
    methods = methods_of(port)

    async def answer(request: Request) -> Response:
        name = request.path_params["method"]
        method = methods.get(name)
        try:
            if method is None:
                raise Problem("not-found", f"There is no method {name}.")
            given = await request.json()
            arguments = {
                key: adapter.validate_json(json.dumps(given[key])) for key, adapter in method.arguments.items()
            }
            result = await getattr(api, name)(**arguments)
        except (ValidationError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise Problem("bad-request", f"The call does not fit {name}: {error}") from error
        return Response(method.result.dump_json(result), media_type="application/json")

    async def alive(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def able(request: Request) -> Response:
        await ready()
        return JSONResponse({"status": "ok"})

    async def figures(request: Request) -> Response:
        return told.page()

    reserving = [] if participants is None else [Mount("/", participants)]
    return Starlette(
        routes=[
            Route("/health", alive),
            Route("/live", alive),
            Route("/ready", able),
            Route("/metrics", figures),
            Route("/{method}", answer, methods=["POST"]),
            *reserving,
        ],
        lifespan=lifespan,
        middleware=[
            Middleware(told.around),
            Middleware(CorrelationMiddleware, header=CORRELATION_ID),
            Middleware(Limited, refuse=lambda _, problem: _refusal(problem), largest=LARGEST_CALL),
        ],
        exception_handlers={Problem: _on_problem, HTTPException: _on_http, Exception: _on_crash},
    )


def _refusal(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(problem.body(), problem.kind.status, headers, media_type=MEDIA_TYPE)


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _refusal(error)


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _refusal(problem_of_status(error.status_code), error.headers)


async def _on_crash(request: Request, error: Exception) -> Response:
    logger.error("%s failed", request.url.path, exc_info=error)
    return _refusal(Problem("internal", "The service could not answer."))


def carried() -> dict[str, str]:
    """Give what travels with a call that is made here: the correlation id, and the trace as W3C defines it."""
    story = {name: value for name, value in current_lineage().items() if name == CORRELATION_ID}
    TRACE.inject(story)
    return story


class Caller:
    """Has the methods of a protocol, and sends each call to another process.

    Raises, from every method:
        Problem: what the other side raised, or ``unavailable`` when it does not answer in time.
    """

    def __init__(self, port: type[Any], client: httpx.AsyncClient, address: str) -> None:
        self._methods = methods_of(port)
        self._client = client
        self._address = address

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = self._methods.get(name)
        if method is None:
            raise AttributeError(name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            given = dict(zip(method.names, args, strict=False)) | kwargs
            body = {key: json.loads(method.arguments[key].dump_json(value)) for key, value in given.items()}
            try:
                url, headers = f"http://{self._address}/{name}", carried()
                answer = await self._client.post(url, json=body, headers=headers, timeout=DEADLINE)
            except httpx.HTTPError as error:
                raise NoAnswer("unavailable", f"{self._address} does not answer.") from error
            if answer.status_code != 200:
                raise _problem_in(answer)
            return method.result.validate_json(answer.content)

        return call


def _problem_in(answer: httpx.Response) -> Problem:
    """Read the problem of an answer; what is none comes from something that is not our service."""
    try:
        return problem_of(answer.json())
    except (ValueError, AttributeError):
        return NoAnswer("unavailable", f"{answer.url.netloc.decode()} answered {answer.status_code}.")


def caller(port: type[P], client: httpx.AsyncClient, address: str) -> P:
    """Make an object with the methods of a protocol that live in another process."""
    return cast("P", Caller(port, client, address))
