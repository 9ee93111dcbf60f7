"""Errors as problem details (RFC 9457): one catalogue, one exception, one shape on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MEDIA_TYPE = "application/problem+json"
BASE = "/api/v1/problems/"
A_MOMENT = 1
"""Seconds after which what did not answer may be asked again, where nobody knows better."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of problem. Its page, under its ``type`` address, shows ``title`` and ``help``."""

    slug: str
    status: int
    title: str
    help: str

    @property
    def type(self) -> str:
        """The address that names this kind and explains it."""
        return BASE + self.slug


KINDS = {
    kind.slug: kind
    for kind in (
        Kind("not-found", 404, "Not found", "There is no such thing, or it is not yours to see."),
        Kind("invalid", 422, "Invalid request", "Something in the request is missing or out of range; see `errors`."),
        Kind("bad-request", 400, "Bad request", "The request could not be read."),
        Kind("conflict", 409, "Conflict", "The thing is not in a state that allows this."),
        Kind("exists", 409, "Exists already", "There is one already, and it is not the same."),
        Kind(
            "out-of-stock",
            409,
            "Out of stock",
            "There is too little; see `short`. Nothing was set aside.",
        ),
        Kind(
            "cart-ordered",
            409,
            "This cart is ordered already",
            "Its order is named in `order`. Change the cart, or wait until that order has ended, to order again.",
        ),
        Kind("cart-empty", 409, "The cart is empty", "Put something into the cart before checking out."),
        Kind(
            "price-changed",
            409,
            "A price has changed",
            "See `prices`. POST /api/v1/cart/prices to agree to them, then check out again.",
        ),
        Kind(
            "coupon-refused",
            409,
            "The coupon cannot be used",
            "See `detail` for why. Nothing was ordered: check out without it, or with another one.",
        ),
        Kind(
            "stale-version", 412, "Changed meanwhile", "The cart changed since you read it. Read it again, then retry."
        ),
        Kind(
            "idempotency-key-reused",
            422,
            "Idempotency key used before",
            "This key came with another request. Use a new key for a new request.",
        ),
        Kind(
            "idempotency-key-in-use",
            409,
            "Idempotency key in use",
            "The first request with this key is not answered yet. Send it again after the seconds of `Retry-After`.",
        ),
        Kind(
            "idempotency-key-invalid",
            400,
            "Idempotency key malformed",
            "Send one key of 1 to 200 printable characters, without spaces or in double quotes.",
        ),
        Kind(
            "unauthenticated",
            401,
            "Not signed in",
            "This is for people who are signed in. POST /api/v1/auth/login gives an access token; send it as "
            "`Authorization: Bearer ...`. One that has run out is exchanged at /api/v1/auth/refresh.",
        ),
        Kind("credentials-refused", 401, "Not signed in", "Address and password do not belong together; try again."),
        Kind(
            "session-ended",
            401,
            "Not signed in any more",
            "The refresh token has run out, its session was ended, or it was exchanged before. Sign in again.",
        ),
        Kind(
            "too-many-tries",
            429,
            "Too many tries",
            "Somebody tried to sign in too often. Wait for the seconds of `Retry-After`.",
        ),
        Kind("signature-invalid", 401, "Signature refused", "The webhook's signature or its time stamp is not valid."),
        Kind("forbidden", 403, "Forbidden", "The form is out of date. Load the page again."),
        Kind("too-large", 413, "Too large", "The request is larger than anything that the shop takes."),
        Kind(
            "too-many-requests",
            429,
            "Too many requests",
            "Come again after the seconds of `Retry-After`; `violated-policies` names the limit. Nothing was done.",
        ),
        Kind("method-not-allowed", 405, "Method not allowed", "This address does not take that method."),
        Kind("unavailable", 503, "Not available", "A part of the shop does not answer. Try again in a moment."),
        Kind(
            "timeout",
            504,
            "No answer in time",
            "It may have been done all the same. Ask how it stands, or ask again with the same key.",
        ),
        Kind("internal", 500, "Something broke", "The fault is ours, and it is in the log."),
    )
}

BY_STATUS = {
    400: "bad-request",
    401: "signature-invalid",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    413: "too-large",
    429: "too-many-requests",
}


class Problem(Exception):
    """An error that a caller should see. Raised by services, shown by the gateway.

    Args:
        slug: Which kind, by its name in the catalogue.
        detail: What happened this time, in one sentence.
        extra: More members of the answer, JSON values.
    """

    def __init__(self, slug: str, detail: str, **extra: Any) -> None:
        super().__init__(detail)
        self.kind = KINDS[slug]
        self.detail = detail
        self.extra = extra

    @property
    def headers(self) -> dict[str, str]:
        """Give the headers that go with the answer."""
        told = {}
        if self.kind.slug == "unauthenticated":
            told["WWW-Authenticate"] = "Bearer"
        again = self.extra.get("retry_after", A_MOMENT if self.kind.slug == "unavailable" else None)
        if again is not None:
            told["Retry-After"] = str(again)
        return told

    def body(self, instance: str | None = None) -> dict[str, Any]:
        """Give the members of the answer."""
        members: dict[str, Any] = {
            "type": self.kind.type,
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
        }
        if instance is not None:
            members["instance"] = instance
        return members | self.extra


class NoAnswer(Problem):
    """Nobody answered: the other side is not there, or did not say anything in time. Never one that it has told."""


def problem_of(body: dict[str, Any]) -> Problem:
    """Make the exception again from an answer of another service."""
    known = {"type", "title", "status", "detail", "instance"}
    slug = str(body.get("type", "")).removeprefix(BASE)
    extra = {name: value for name, value in body.items() if name not in known}
    return Problem(slug if slug in KINDS else "internal", str(body.get("detail", "")), **extra)


def problem_of_status(status: int, detail: str = "") -> Problem:
    """Make a problem for a plain HTTP status, as frameworks raise it; without a detail it says what its kind means."""
    slug = BY_STATUS.get(status, "internal" if status >= 500 else "bad-request")
    return Problem(slug, detail or KINDS[slug].help)
