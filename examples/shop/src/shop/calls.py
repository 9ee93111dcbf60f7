"""Calls between services in different processes: a protocol of ``shop.ports``, carried as JSON over HTTP.

One process serves its object, the other holds a caller with the same methods. Problems come back as problems.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar, cast, get_type_hints

import httpx
from pydantic import ConfigDict, TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from shop.problems import MEDIA_TYPE, Problem, problem_of

P = TypeVar("P")

_BYTES = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
DEADLINE = 10.0
"""Seconds that a call may take before it counts as unavailable."""


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a protocol, with what turns its arguments and its result to JSON and back."""

    names: tuple[str, ...]
    arguments: dict[str, TypeAdapter[Any]]
    result: TypeAdapter[Any]


def methods_of(port: type[Any]) -> dict[str, Method]:
    """Read the methods of a protocol."""
    found = {}
    for name, function in inspect.getmembers(port, inspect.isfunction):
        if name.startswith("_"):
            continue
        hints = get_type_hints(function)
        result = _adapter(hints.pop("return"))
        found[name] = Method(tuple(hints), {key: _adapter(hint) for key, hint in hints.items()}, result)
    return found


def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=_BYTES) if hint is bytes else TypeAdapter(hint)


def serve(
    port: type[P], api: P, lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None
) -> Starlette:
    """Make a web application that answers the calls of a protocol with an object's methods."""
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
        except Problem as problem:
            return _refusal(problem)
        except (ValidationError, KeyError, json.JSONDecodeError) as error:
            return _refusal(Problem("bad-request", f"The call does not fit {name}: {error}"))
        return Response(method.result.dump_json(result), media_type="application/json")

    return Starlette(routes=[Route("/{method}", answer, methods=["POST"])], lifespan=lifespan)


def _refusal(problem: Problem) -> Response:
    return JSONResponse(problem.body(), status_code=problem.kind.status, media_type=MEDIA_TYPE)


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
                answer = await self._client.post(f"http://{self._address}/{name}", json=body, timeout=DEADLINE)
            except httpx.HTTPError as error:
                raise Problem("unavailable", f"{self._address} does not answer.") from error
            if answer.status_code != 200:
                raise problem_of(answer.json())
            return method.result.validate_json(answer.content)

        return call


def caller(port: type[P], client: httpx.AsyncClient, address: str) -> P:
    """Make an object with the methods of a protocol that live in another process."""
    return cast("P", Caller(port, client, address))
