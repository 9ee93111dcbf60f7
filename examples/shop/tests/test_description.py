"""What the API says about itself is what it does."""

import re
from pathlib import Path

import pytest

from shop.gateway.description import ProblemBody
from shop.problems import MEDIA_TYPE

in_one_loop = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).resolve().parents[3]
WRONG = [
    ("GET", "/api/v1/products?limit=0", None),
    ("GET", "/api/v1/nowhere", None),
    ("POST", "/api/v1/cart/items", {"quantity": 0}),
    ("POST", "/api/v1/checkout", {}),
    ("DELETE", "/health", None),
    ("POST", "/webhooks/payments/mock", {}),
]


@in_one_loop
async def test_errors_are_described_as_they_are_sent(one_shop):
    """H242: every operation names the problem form for whatever is no success, and no other form is described."""
    anybody = await one_shop.visitor()
    described = (await anybody.get("/openapi.json")).json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            wrong = {code: answer for code, answer in operation["responses"].items() if not code.startswith("2")}
            assert wrong, (method, path)
            for answer in wrong.values():
                [(kind, form)] = answer["content"].items()
                assert (kind, form["schema"]) == (MEDIA_TYPE, {"$ref": "#/components/schemas/Problem"})
    assert "HTTPValidationError" not in str(described)
    assert set(described["components"]["schemas"]["Problem"]["required"]) == {
        "type", "title", "status", "detail", "instance",
    }  # fmt: skip


@in_one_loop
@pytest.mark.parametrize(("method", "path", "body"), WRONG)
async def test_what_is_sent_fits_the_description(one_shop, method, path, body):
    """H242: the errors of the wire, read with the described form."""
    answer = await (await one_shop.visitor()).request(method, path, json=body)
    assert answer.headers["content-type"] == MEDIA_TYPE
    told = ProblemBody.model_validate(answer.json())
    assert told.status == answer.status_code


@in_one_loop
async def test_the_page_for_trying_loads_nothing_from_elsewhere(one_shop):
    """H243: every file that `/docs` names is the shop's own, and its policy lets nothing else in."""
    anybody = await one_shop.visitor()
    answer = await anybody.get("/docs")
    assert "http" not in answer.headers["content-security-policy"]
    files = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert len(files) >= 4
    for file in files:
        assert file.startswith("/")
        assert (await anybody.get(file)).status_code == 200
    assert (await anybody.get("/redoc")).status_code == 404


def test_what_is_not_ours_has_its_licence_beside_it():
    """H243: vendored files are named in THIRD_PARTY.md and carry their licence and notice."""
    vendored = ROOT / "examples/shop/src/shop/gateway/static/swagger-ui"
    assert {"LICENSE", "NOTICE"} <= {file.name for file in vendored.iterdir()}
    assert "Swagger UI" in (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")


@in_one_loop
@pytest.mark.parametrize("path", ["/health", "/live", "/ready", "/", "/cart", "/api/v1/products", "/openapi.json"])
async def test_head_is_answered_where_get_is(one_shop, path):
    """H244: probes and link checkers ask with HEAD: the same head as GET, and no body."""
    anybody = await one_shop.visitor()
    await anybody.get(path)
    asked, head = await anybody.get(path), await anybody.head(path)
    assert (head.status_code, head.content) == (asked.status_code, b"")
    assert head.headers["content-type"] == asked.headers["content-type"]


@in_one_loop
@in_one_loop
async def test_head_of_a_stream_ends(one_shop):
    """H244: a stream that would go on for ever has a head, and that is all."""
    alice = await one_shop.visitor()
    order_id = await one_shop.buy(alice, "silent")
    head = await alice.head(f"/orders/{order_id}/stream")
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


@in_one_loop
@pytest.mark.parametrize(
    ("method", "path", "allowed"), [("POST", "/health", "GET"), ("GET", "/api/v1/checkout", "POST")]
)
async def test_another_method_is_told_which_one_works(one_shop, method, path, allowed):
    """H244: 405 names what is allowed."""
    answer = await (await one_shop.visitor()).request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
