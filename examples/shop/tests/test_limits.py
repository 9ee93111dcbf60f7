"""What a request may carry, and what of it is read."""

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from shop import ports
from shop.calls import serve
from shop.limits import LARGEST, Limited


class Sent:
    """A body that comes piece by piece, and counts what was asked for."""

    def __init__(self, pieces=1000, size=30_000):
        self.pieces, self.size, self.taken = pieces, size, 0

    async def __aiter__(self):
        for _ in range(self.pieces):
            self.taken += self.size
            yield b"x" * self.size


PATHS = ["/webhooks/payments/mock", "/api/v1/cart/items", "/api/v1/checkout", "/checkout", "/cart/items"]


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("path", PATHS)
async def test_thirty_megabytes_are_not_read(shop, path, announced):
    """H241: a body that is too large is refused at the limit, on every route; announced, not a byte of it is read."""
    anybody = await shop.visitor()
    body = Sent()
    kind = "application/x-www-form-urlencoded" if not path.startswith(("/api", "/web")) else "application/json"
    headers = {"content-type": kind}
    if announced:
        headers["content-length"] = str(body.pieces * body.size)
    answer = await anybody.post(path, content=body, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (413, "/api/v1/problems/too-large")
    assert body.taken <= (0 if announced else LARGEST + body.size)


async def test_a_page_says_it_to_people(shop):
    anybody = await shop.visitor()
    answer = await anybody.post("/checkout", content=b"x" * (LARGEST + 1), headers={"accept": "text/html"})
    assert (answer.status_code, "Too large" in answer.text) == (413, True)


async def test_what_fits_is_read_whole():
    """H241: the last byte that fits is taken, and the first that does not is not."""

    async def echo(scope, receive, send):
        read = await Request(scope, receive).body()
        await PlainTextResponse(str(len(read)))(scope, receive, send)

    app = Limited(echo, lambda request, problem: PlainTextResponse(problem.detail, problem.kind.status), 100)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://s") as client:
        assert (await client.post("/", content=b"x" * 100)).text == "100"
        assert (await client.post("/", content=b"x" * 101)).status_code == 413


async def test_calls_between_services_have_a_limit_too():
    """H241: what no service asks for, nobody may ask a service for."""
    body = Sent()
    transport = httpx.ASGITransport(serve(ports.Bank, object()))
    async with httpx.AsyncClient(transport=transport, base_url="http://s") as client:
        answer = await client.post("/charge", content=body)
    assert (answer.status_code, answer.json()["status"]) == (413, 413)
    assert body.taken < 1_000_000
