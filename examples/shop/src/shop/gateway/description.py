"""The API's own description: OpenAPI that tells the errors as they are on the wire, and a page to try it on."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict

from shop.problems import MEDIA_TYPE

SCHEMA = "Problem"


class InvalidPart(BaseModel):
    where: str
    what: str


class ProblemBody(BaseModel):
    """An error as the API answers it (RFC 9457). Some kinds say more, in members of their own."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[InvalidPart] | None = None


ERRORS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem: what its `type` names is explained at that address.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{SCHEMA}"}}},
    }
}
"""What every route may answer instead. With it FastAPI describes no error form of its own."""


def describe(app: FastAPI) -> None:
    """Make the application's description, once asked for, contain the form of our errors."""

    def openapi() -> dict[str, Any]:
        if not app.openapi_schema:
            made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
            whole = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
            parts = whole.pop("$defs", {})
            made.setdefault("components", {}).setdefault("schemas", {}).update({SCHEMA: whole} | parts)
            app.openapi_schema = made
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # the way that FastAPI documents
