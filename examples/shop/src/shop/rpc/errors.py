"""The one place where the shop's problems become statuses of gRPC, and become problems again."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import grpc

from shop.problems import NoAnswer, Problem, problem_of

PROBLEM = "shop-problem-bin"
"""The trailing metadata that carries the problem as it was raised, as JSON."""
LONGEST = 1_000
"""Characters of an explanation that go with a status."""

STATUSES = {
    "not-found": grpc.StatusCode.NOT_FOUND,
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "bad-request": grpc.StatusCode.INVALID_ARGUMENT,
    "conflict": grpc.StatusCode.FAILED_PRECONDITION,
    "exists": grpc.StatusCode.ALREADY_EXISTS,
    "out-of-stock": grpc.StatusCode.FAILED_PRECONDITION,
    "cart-ordered": grpc.StatusCode.FAILED_PRECONDITION,
    "cart-empty": grpc.StatusCode.FAILED_PRECONDITION,
    "price-changed": grpc.StatusCode.FAILED_PRECONDITION,
    "coupon-refused": grpc.StatusCode.FAILED_PRECONDITION,
    "stale-version": grpc.StatusCode.ABORTED,
    "idempotency-key-reused": grpc.StatusCode.ALREADY_EXISTS,
    "idempotency-key-in-use": grpc.StatusCode.ABORTED,
    "idempotency-key-invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "credentials-refused": grpc.StatusCode.UNAUTHENTICATED,
    "session-ended": grpc.StatusCode.UNAUTHENTICATED,
    "too-many-tries": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "signature-invalid": grpc.StatusCode.UNAUTHENTICATED,
    "forbidden": grpc.StatusCode.PERMISSION_DENIED,
    "too-large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "too-many-requests": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "method-not-allowed": grpc.StatusCode.UNIMPLEMENTED,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "timeout": grpc.StatusCode.DEADLINE_EXCEEDED,
    "internal": grpc.StatusCode.INTERNAL,
}
"""By the name of the problem's kind."""

KINDS = {
    grpc.StatusCode.NOT_FOUND: "not-found",
    grpc.StatusCode.INVALID_ARGUMENT: "bad-request",
    grpc.StatusCode.FAILED_PRECONDITION: "conflict",
    grpc.StatusCode.ALREADY_EXISTS: "exists",
    grpc.StatusCode.ABORTED: "conflict",
    grpc.StatusCode.OUT_OF_RANGE: "invalid",
    grpc.StatusCode.UNAUTHENTICATED: "signature-invalid",
    grpc.StatusCode.PERMISSION_DENIED: "forbidden",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "too-large",
    grpc.StatusCode.UNIMPLEMENTED: "method-not-allowed",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.CANCELLED: "unavailable",
    grpc.StatusCode.DEADLINE_EXCEEDED: "timeout",
}
"""For a status that came without its problem: from gRPC itself, or from somebody else's server."""


async def refuse(context: grpc.aio.ServicerContext[Any, Any], problem: Problem) -> NoReturn:
    """End a call with the status of a problem, and the problem itself beside it."""
    told = json.dumps(problem.body()).encode()
    await context.abort(STATUSES[problem.kind.slug], problem.detail[:LONGEST], ((PROBLEM, told),))


def problem_in(error: grpc.aio.AioRpcError, address: str) -> Problem:
    """Make the problem of a call that failed: what the other side raised, or what the status means."""
    for name, value in error.trailing_metadata() or ():
        if name == PROBLEM:
            return problem_of(json.loads(value))
    slug = KINDS.get(error.code(), "internal")
    if slug == "unavailable":
        return NoAnswer(slug, f"{address} does not answer.")
    if slug == "timeout":
        return NoAnswer(slug, f"{address} did not answer in time.")
    return Problem(slug, f"{address}: {error.details()}"[:LONGEST])
