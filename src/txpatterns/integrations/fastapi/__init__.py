"""An App inside a FastAPI application: its lifespan, sessions, correlation ids, health, keyed answers, webhooks."""

from __future__ import annotations

from importlib.util import find_spec

from txpatterns.errors import MissingExtra

if find_spec("fastapi") is None:
    raise MissingExtra("FastAPI is not installed.", fix="pip install 'txpatterns[fastapi]'")

from txpatterns.integrations.fastapi.course import idempotency_key
from txpatterns.integrations.fastapi.hosting import (
    CorrelationMiddleware,
    Lifespan,
    health_router,
    session_dependency,
    sync_session_dependency,
    txpatterns_lifespan,
)
from txpatterns.integrations.fastapi.keyed import keyed_route
from txpatterns.integrations.fastapi.problems import Refused, answer_with_problems
from txpatterns.integrations.fastapi.receiving import webhook_dependency

__all__ = [
    "CorrelationMiddleware",
    "Lifespan",
    "Refused",
    "answer_with_problems",
    "health_router",
    "idempotency_key",
    "keyed_route",
    "session_dependency",
    "sync_session_dependency",
    "txpatterns_lifespan",
    "webhook_dependency",
]
