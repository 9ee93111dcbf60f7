import httpx
import pytest

from shop import ports
from shop.calls import caller, methods_of, serve
from shop.money import Money
from shop.problems import Problem

PORTS = [ports.Catalog, ports.Carts, ports.Inventory, ports.Orders, ports.Payments, ports.Bank]


class Echo:
    """Answers with what it was asked, as the real services' values."""

    async def receive_webhook(self, body, headers):
        if body == b"bad":
            raise Problem("signature-invalid", "No.", hint=1)
        return ports.WebhookResult(webhook_id=headers["webhook-id"], first=True, outcome=body.hex())

    async def charge(self, key, amount, method, window_seconds):
        return ports.Charge(id=f"{key}:{method}:{window_seconds}", status="pending", amount=amount)


def over_http(port, api):
    client = httpx.AsyncClient(transport=httpx.ASGITransport(serve(port, api)))
    return caller(port, client, "service.test")


@pytest.mark.parametrize("port", PORTS)
def test_every_port_can_be_called_from_another_process(port):
    assert methods_of(port)


async def test_bytes_arrive_as_they_were():
    """A signature is checked over the raw body, so no byte may change on the way."""
    payments = over_http(ports.Payments, Echo())
    body = bytes(range(256))
    result = await payments.receive_webhook(body, {"webhook-id": "evt"})
    assert (result.webhook_id, result.outcome) == ("evt", body.hex())


async def test_values_arrive_as_they_were():
    bank = over_http(ports.Bank, Echo())
    charge = await bank.charge("k", Money(amount="0.10"), "card", 1.5)
    assert charge == ports.Charge(id="k:card:1.5", status="pending", amount=Money(amount="0.10"))


async def test_problems_arrive_as_problems():
    payments = over_http(ports.Payments, Echo())
    with pytest.raises(Problem) as caught:
        await payments.receive_webhook(b"bad", {})
    assert (caught.value.kind.slug, caught.value.detail, caught.value.extra) == (
        "signature-invalid",
        "No.",
        {"hint": 1},
    )


async def test_a_call_that_does_not_fit_is_refused():
    client = httpx.AsyncClient(transport=httpx.ASGITransport(serve(ports.Bank, Echo())), base_url="http://s")
    assert (await client.post("/charge", json={"key": "k"})).json()["status"] == 400
    assert (await client.post("/charge", content=b"{")).status_code == 400
    assert (await client.post("/rob", json={})).status_code == 404


async def test_nobody_there_is_unavailable():
    def refuse(request):
        raise httpx.ConnectError("refused")

    bank = caller(ports.Bank, httpx.AsyncClient(transport=httpx.MockTransport(refuse)), "nobody.test")
    with pytest.raises(Problem) as caught:
        await bank.stop("k", Money(amount="0.10"))
    assert caught.value.kind.status == 503


@pytest.mark.parametrize("path", ["/health", "/live", "/ready"])
async def test_a_service_says_that_it_is_there(path):
    """H244: probes ask each service with GET or HEAD; another method is told which one works."""
    transport = httpx.ASGITransport(serve(ports.Bank, Echo()))
    async with httpx.AsyncClient(transport=transport, base_url="http://s") as client:
        asked = await client.get(path)
        assert (asked.status_code, asked.json()) == (200, {"status": "ok"})
        assert (await client.head(path)).status_code == 200
        wrong = await client.get("/charge")
        assert (wrong.status_code, wrong.json()["type"], wrong.headers["allow"]) == (
            405,
            "/api/v1/problems/method-not-allowed",
            "POST",
        )


async def test_a_service_without_its_database_is_not_ready():
    """H244: there, but not able: 503, as a problem."""

    async def away():
        raise Problem("unavailable", "The database does not answer.")

    transport = httpx.ASGITransport(serve(ports.Bank, Echo(), ready=away))
    async with httpx.AsyncClient(transport=transport, base_url="http://s") as client:
        assert (await client.get("/ready")).json()["status"] == 503
        assert (await client.get("/health")).status_code == 200


async def test_an_answer_that_is_no_problem_is_one():
    """Something else on the service's address, or a service that broke, is told as such."""

    class Broken:
        async def stop(self, key, amount):
            raise RuntimeError("oh")

    transport = httpx.ASGITransport(serve(ports.Bank, Broken()), raise_app_exceptions=False)
    with pytest.raises(Problem) as caught:
        await caller(ports.Bank, httpx.AsyncClient(transport=transport), "s").stop("k", Money(amount="0.10"))
    assert caught.value.kind.slug == "internal"
    stranger = httpx.MockTransport(lambda request: httpx.Response(500, text="oops"))
    with pytest.raises(Problem) as caught:
        await caller(ports.Bank, httpx.AsyncClient(transport=stranger), "s").stop("k", Money(amount="0.10"))
    assert (caught.value.kind.slug, caught.value.detail) == ("unavailable", "s answered 500.")
