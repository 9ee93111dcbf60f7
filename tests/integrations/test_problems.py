"""Refusals and errors as problem details: RFC 9457."""

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from txpatterns.errors import KeyInUse, KeyMissing
from txpatterns.integrations.fastapi import Refused, answer_with_problems


async def answers(docs, *paths):
    web = FastAPI()
    answer_with_problems(web, docs)

    @web.get("/numbers/{number}")
    async def number(number: int) -> int:
        raise HTTPException(number, headers={"x-why": "because"})

    @web.get("/keys")
    async def keys() -> None:
        raise Refused(KeyInUse())

    @web.get("/missing")
    async def missing() -> None:
        raise Refused(KeyMissing())

    transport = httpx.ASGITransport(web)
    async with httpx.AsyncClient(transport=transport, base_url="http://web") as client:
        return [await client.get(path) for path in paths]


async def test_each_error_has_the_members_of_the_standard():
    """Type, title, status, detail and instance, under the media type of problems; the headers of an error stay."""
    gone, unknown, odd, wrong = await answers(
        None, "/numbers/410", "/elsewhere", "/numbers/599", "/numbers/secret-4711"
    )
    for answer, status, title in ((gone, 410, "Gone"), (unknown, 404, "Not Found"), (odd, 599, "Error")):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() | {"detail": ""} == {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": "",
            "instance": answer.url.path,
        }
        assert answer.status_code == status
    assert gone.headers["x-why"] == "because"
    assert (wrong.status_code, wrong.json()["errors"][0]["where"]) == (422, "path.number")
    assert "4711" not in str(wrong.json()["errors"])


@pytest.mark.parametrize(
    ("docs", "type_", "title"),
    [(None, "about:blank", "Conflict"), ("/docs/keys", "/docs/keys#txp-2004", KeyInUse.title)],
)
async def test_a_refusal_leads_to_the_page_that_explains_it(docs, type_, title):
    """As the draft wants it, where there is a page; without one the code says which it is."""
    (busy, missing) = await answers(docs, "/keys", "/missing")
    told = busy.json()
    assert (busy.status_code, told["type"], told["title"], told["code"]) == (409, type_, title, "TXP-2004")
    assert told["fix"] == KeyInUse.fix
    assert (missing.status_code, "retry-after" in missing.headers) == (400, False)


@pytest.mark.parametrize("status", [204, 304])
async def test_what_has_no_body_gets_none(status):
    """A problem would be a broken answer there."""
    (answer,) = await answers(None, f"/numbers/{status}")
    assert (answer.status_code, answer.content) == (status, b"")
