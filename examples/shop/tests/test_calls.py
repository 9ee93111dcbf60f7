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
        await bank.look_up("c")
    assert caught.value.kind.status == 503
