"""Routes that answer a repeated request with the first answer, by its Idempotency-Key."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Annotated, Any, ClassVar

from fastapi import Depends, Header
from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from txpatterns.errors import BodyTooLarge
from txpatterns.integrations.fastapi.bodies import replayed, whole_body
from txpatterns.integrations.fastapi.course import begin_course, course_of
from txpatterns.integrations.fastapi.keeping import HEADER, Held, Keeping, give_again
from txpatterns.integrations.fastapi.problems import Refused
from txpatterns.integrations.idempotency import IdempotencyKeys, fingerprint_of, is_decided

METHODS = frozenset(("POST", "PATCH"))
"""What is not idempotent by itself."""
HEADERS_KEPT = ("content-type", "content-language", "etag", "link", "location")
_TOLD = "The same for the same wish, a new UUID for each new one; the first answer is given again."


def keyed_route(
    keys: IdempotencyKeys,
    *,
    principal: Callable[..., Any],
    required: bool = True,
    headers: Iterable[str] = HEADERS_KEPT,
    max_body: int = 1_048_576,
    decided: Callable[[int], bool] = is_decided,
) -> type[APIRoute]:
    """Make the class of routes for ``APIRouter(route_class=...)``, whose POST and PATCH are answered once a key.

    ``principal`` is a dependency that gives the id of whoever asks, authenticated: each has keys of their own. It is
    asked before a kept answer is given. Where all are one user, it gives a constant.

    With the session of ``session_dependency`` or ``sync_session_dependency``, the answer commits with the effect: who
    asks again after a crash, wherever that was, gets it. Work that is done elsewhere must be idempotent by itself.

    An answer for which ``decided`` says no, by default 500 and above, 401, 403, 429 and the like, is not kept, and
    the session is rolled back: the same key may try again. A request without a key is refused, if one is ``required``;
    otherwise it is answered as ever. Of the answer's head, ``headers`` are kept; of a request with a key, at most
    ``max_body`` bytes are read. The whole answer is held back until it is kept; background tasks run after it.
    """
    keeping = Keeping(keys, required, frozenset(name.lower() for name in headers), decided)

    async def begin(
        request: Request,
        who: Any = Depends(principal),
        idempotency_key: Annotated[str | None, Header(alias=HEADER, description=_TOLD)] = None,
    ) -> None:
        if request.method in METHODS:
            await keeping.begin(request, who)

    return type("KeyedRoute", (_KeyedRoute,), {"keeping": keeping, "begin": Depends(begin), "max_body": max_body})


class _KeyedRoute(APIRoute):
    """A route whose POST and PATCH are answered once for each principal and key."""

    keeping: ClassVar[Keeping]
    begin: ClassVar[Any]
    """The dependency that takes the turn to answer, behind those that the router and the route have."""
    max_body: ClassVar[int]

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        before = list(options.pop("dependencies", None) or ())
        if self.begin not in before and not METHODS.isdisjoint(options.get("methods") or ()):
            before.append(self.begin)
        super().__init__(path, endpoint, dependencies=before, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answered = super().get_route_handler()

        async def kept(request: Request) -> Response:
            response = await answered(request)
            course = course_of(request.scope)
            if course is not None:
                await self.keeping.keep_with_effect(course, response)
            return response

        return kept

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in METHODS or HEADER not in Headers(scope=scope):
            await super().handle(scope, receive, send)
            return
        try:
            body = await whole_body(scope, receive, self.max_body)
        except BodyTooLarge as error:
            raise Refused(error) from error
        course = begin_course(scope, fingerprint_of(scope["method"], _target(scope), body))
        # Else the server would send a file by itself, and not what comes through here.
        scope["extensions"] = {
            n: v for n, v in scope.get("extensions", {}).items() if not n.startswith("http.response.")
        }
        held = Held(self.keeping.keys.max_answer)
        try:
            await super().handle(scope, replayed(body, receive), held.take)
            await self.keeping.end(course, held)
        except BaseException as error:
            if not isinstance(error, Exception) or (course.first is None and not course.is_lost):
                await self.keeping.leave(course)
                raise
        first = await self.keeping.first(course)
        if first is not None:
            await give_again(first, send)
            return
        await held.release(send)
        if course.background is not None:
            await course.background()


def _target(scope: Scope) -> str:
    """Give path and query; a question mark inside the path is written as it was sent, or it would begin the query."""
    query: bytes = scope["query_string"]
    return f"{scope['path'].replace('%', '%25').replace('?', '%3F')}?{query.decode('latin-1')}"
