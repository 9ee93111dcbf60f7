"""One id and one trace for one order, from the request to its last effect; figures and log lines."""

import json

import httpx
import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from rig.waiting import until, wait_until
from shop.users.seed import DEMO_PASSWORD

TRACE = "0af7651916cd43dd8448eb211c80319c"
FROM_BROWSER = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": "from-the-browser"}
SKU = "PLAY-01"


@pytest.fixture
def spans(shop):
    """What the shop has traced so far."""
    exporter = InMemorySpanExporter()
    shop.web.state.context.telemetry.tracers.add_span_processor(SimpleSpanProcessor(exporter))
    return exporter.get_finished_spans


async def bought(shop, client, mode, *ends):
    await client.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1})
    body = {"method": "succeed", "mode": mode}
    placed = await client.post("/api/v1/checkout", json=body, headers=FROM_BROWSER)
    assert placed.headers["x-request-id"] == "from-the-browser"
    await shop.until(client, placed.json()["id"], *ends)
    return (await client.get(f"/api/v1/orders/{placed.json()['id']}/timeline")).json()["entries"]


@pytest.mark.parametrize("mode", ["choreographed", "orchestrated"])
async def test_one_trace_from_the_browser_to_the_last_effect(shop, spans, mode):
    """H385, G-071: every event of an order, those that the bank's webhook causes too, is in the browser's trace."""
    client = await shop.visitor()
    entries = await bought(shop, client, mode, "stock.sold", "cart.settled")
    assert {entry["headers"]["traceparent"].split("-")[1] for entry in entries} == {TRACE}
    (posted,) = shop.posted
    assert posted[1]["traceparent"].split("-")[1] == TRACE

    def seen():
        return {span.name for span in spans() if f"{span.context.trace_id:032x}" == TRACE}

    topic = "order-events" if mode == "choreographed" else "checkout-outbox"
    wanted = {"POST /api/v1/checkout", "POST /webhooks/payments/mock", f"process {topic}"}

    async def ended():
        return wanted <= seen()

    await until(ended, "the spans of its requests")
    if mode == "orchestrated":
        assert any(name.startswith("step ") for name in seen())


@pytest.mark.parametrize("mode", ["choreographed", "orchestrated"])
async def test_one_id_joins_all_that_a_request_causes(shop, mode):
    """H385, L-083: the id that the client gave is the correlation id of every event."""
    client = await shop.visitor()
    entries = await bought(shop, client, mode, "stock.sold", "cart.settled")
    assert {entry["headers"]["correlation-id"] for entry in entries} == {"from-the-browser"}


async def test_what_a_timer_starts_belongs_to_the_request(hasty_shop):
    """H385, L-083: the time to pay is over: what follows has the id of the request that began it all."""
    client = await hasty_shop.visitor()
    await client.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1})
    placed = await client.post("/api/v1/checkout", json={"method": "silent"}, headers=FROM_BROWSER)
    await hasty_shop.until(client, placed.json()["id"], "order.canceled")
    entries = (await client.get(f"/api/v1/orders/{placed.json()['id']}/timeline")).json()["entries"]
    assert {entry["headers"]["correlation-id"] for entry in entries} == {"from-the-browser"}


@pytest.mark.parametrize("given", [None, "", "   ", "é" * 5])
async def test_a_request_without_an_id_is_given_one(shop, given):
    """H385: also one with nothing in it that an id may have; and no two have the same."""
    client = await shop.visitor()
    headers = {} if given is None else {"x-request-id": given.encode()}
    ids = [(await client.get("/health", headers=headers)).headers["x-request-id"] for _ in range(2)]
    assert len(set(ids)) == 2
    assert all(len(each) == 36 for each in ids)


async def test_an_id_from_outside_is_cut_to_what_an_id_may_be(shop):
    """H385: whatever a stranger sends fits into a header, a row and a line of the log; errors carry it, too."""
    client = await shop.visitor()
    answer = await client.get("/nowhere", headers={"x-request-id": b"a b\t\xe9<c>" + b"x" * 500})
    assert answer.status_code == 404
    assert answer.headers["x-request-id"] == ("ab<c>" + "x" * 500)[:128]
    refused = await client.get("/api/v1/me", headers={"x-request-id": "mine", "authorization": "Bearer forged"})
    assert (refused.status_code, refused.headers["x-request-id"]) == (401, "mine")


async def test_figures_are_there_for_prometheus(shop):
    """G-076: what waits, what was handled, and how long requests took; the parts of one process are told apart."""
    client = await shop.visitor()
    await bought(shop, client, "choreographed", "stock.sold", "cart.settled")

    async def figures():
        answer = await client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        return {family.name: family for family in text_string_to_metric_families(answer.text)}

    async def all_counted():  # what has come to the timeline may be counted a moment later
        handled = (await figures()).get("txpatterns_messages_handled")
        apps = {sample.labels["app"] for sample in handled.samples} if handled else set()
        return apps >= {"cart", "inventory", "orders", "payment"}

    await until(all_counted, "what each of them has handled")
    assert any(name.startswith("http_server") for name in await figures())


def lines_of(process):
    whole, _, _ = (process.data.parent / "log").read_text().rpartition("\n")  # the last line may be half written
    return [json.loads(line) for line in whole.splitlines()]


def hops_of(process):
    """The line of each service that handled something of the request, by its name."""
    mine = [line for line in lines_of(process) if line.get("correlation_id") == "from-the-browser"]
    told = [line for line in mine if line["logger"] == "txpatterns" and "consumer" in line]
    return {line["consumer"].split(".")[0]: line for line in told}


def test_each_line_of_the_log_is_json_with_its_ids(process):
    """H385, G-075, L-083: the request's line and those of what it caused have one id and one trace."""
    process.env |= {"SHOP_LOG": "json"}
    process.start()
    with httpx.Client(base_url=process.url, timeout=60) as client:
        credentials = {"email": "ada@example.com", "password": DEMO_PASSWORD}
        login = client.post("/api/v1/auth/login", json=credentials, headers=FROM_BROWSER).json()
        client.headers["authorization"] = f"Bearer {login['access_token']}"
        client.post("/api/v1/cart/items", json={"sku": SKU, "quantity": 1}).raise_for_status()
        body = {"method": "fail", "mode": "orchestrated"}
        client.post("/api/v1/checkout?secret=x", json=body, headers=FROM_BROWSER).raise_for_status()
        everybody = {"checkout", "orders", "gateway", "postman"}
        wait_until(lambda: hops_of(process).keys() >= everybody, what="the lines of all who handle something of it")
    assert process.end() == 0
    lines = lines_of(process)
    mine = [line for line in lines if line.get("correlation_id") == "from-the-browser"]
    request = next(line for line in mine if line.get("path") == "/api/v1/checkout")
    assert (request["request_id"], request["trace_id"], request["status"]) == ("from-the-browser", TRACE, 202)
    assert {line["trace_id"] for line in hops_of(process).values()} == {TRACE}
    text = (process.data.parent / "log").read_text()
    for secret in (DEMO_PASSWORD, login["access_token"], login["refresh_token"], "secret=x", "ada@example.com"):
        assert secret not in text
