"""The participants of a service, for the checkout that asks them over HTTP."""

from __future__ import annotations

from fastapi import FastAPI

from txpatterns import App
from txpatterns.integrations.fastapi_tcc import tcc_router
from txpatterns.tcc.signing import signed_by


def participants_of(app: App, secret: str) -> FastAPI:
    """Make the web application that answers for an App's participants, to who signs with this secret.

    It stands at ``/tcc`` of its service.
    """
    web = FastAPI(openapi_url=None)
    web.include_router(tcc_router(app, authenticate=signed_by(secret)))
    return web
