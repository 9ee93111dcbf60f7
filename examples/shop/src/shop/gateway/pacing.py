"""How often one visitor may ask: a bucket of tokens for each class of routes, in this process or in Redis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.gateway.visitors import visitor_of
from shop.problems import Problem
from txpatterns.hooks import HookList
from txpatterns.resilience import MemoryBuckets, RateLimit, RedisBuckets

FREE = ("/static/", "/health", "/live", "/ready", "/metrics")
"""What is not counted: files, and those who look after the shop."""
ORDERING = ("/checkout", "/api/v1/checkout", "/show/compensation")
A_MINUTE = timedelta(minutes=1)
BURSTS = 4
"""A bucket holds what comes in a quarter of a minute."""
ONE_NETWORK = 64
"""Bits of an IPv6 address that are its network's: one customer has all the others."""

Counted = RedisBuckets | MemoryBuckets


class Pace:
    """The limits of a gateway, one for each class of routes: ``read``, ``change``, ``checkout`` and ``webhook``.

    Args:
        calls: By class, how many there may be a minute. A class with none, or zero, has no limit.
        buckets: Where they are counted: one Redis for several gateways together, or this process.
        hooks: Who is told of those that are refused.
    """

    def __init__(
        self,
        calls: Mapping[str, int],
        buckets: RedisBuckets | MemoryBuckets | None = None,
        hooks: HookList | None = None,
    ) -> None:
        counted = buckets or MemoryBuckets()
        self._limits = {
            name: RateLimit(name, calls=most, per=A_MINUTE, burst=max(1, most // BURSTS), buckets=counted, hooks=hooks)
            for name, most in calls.items()
            if most
        }

    def of(self, method: str, path: str) -> RateLimit | None:
        """Give the limit of a request, if it has one."""
        return None if path.startswith(FREE) else self._limits.get(class_of(method, path))


def class_of(method: str, path: str) -> str:
    """Say to which class of routes a request belongs."""
    if path.startswith("/webhooks/"):
        return "webhook"
    if method in ("GET", "HEAD", "OPTIONS"):
        return "read"
    return "checkout" if path.rstrip("/") in ORDERING else "change"


def payer_of(connection: HTTPConnection) -> str:
    """Say whose bucket pays: the account's, the visitor's, or that of the address of one who brings no id of ours.

    Who signs in in several browsers has one bucket, and who threw the cookie away after each request would otherwise be
    somebody new each time.
    """
    visitor = visitor_of(connection)
    if visitor.user_id is not None:
        return f"account {visitor.user_id}"
    if not visitor.is_new:
        return f"visitor {visitor.id}"
    return f"address {network_of(connection.client.host if connection.client else '')}"


def network_of(host: str) -> str:
    """Give the address that is counted for a host: of IPv6 the network, which is one customer's."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return str(ip_network((address, ONE_NETWORK), strict=False)) if isinstance(address, IPv6Address) else host


class Paced:
    """Middleware that refuses what comes too often, and tells in each answer how much is left.

    Args:
        app: The application.
        pace: The limits.
        refuse: Makes the answer to a request that came too often.
    """

    def __init__(self, app: ASGIApp, pace: Pace, refuse: Callable[[Request, Problem], Response]) -> None:
        self.app = app
        self._pace = pace
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._pace.of(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if limit is None:
            await self.app(scope, receive, send)
            return
        taken = await limit.atake(payer_of(HTTPConnection(scope)))
        headers = taken.headers()

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(headers)
            await send(message)

        if taken.is_allowed:
            await self.app(scope, receive, told)
            return
        detail = f"You may ask again in {headers['Retry-After']} seconds."
        answer = self._refuse(
            Request(scope), Problem("too-many-requests", detail, **{"violated-policies": [taken.name]})
        )
        await answer(scope, receive, told)
