"""What holds for every call over gRPC: errors, deadlines, what travels along, health, and a calm end."""

import asyncio
import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry import context as tracing

from shop.ports import StockLevel
from shop.problems import KINDS, Problem
from shop.rpc import client as rpc_client
from shop.rpc.client import Channels
from shop.rpc.errors import STATUSES
from shop.rpc.server import Door, NotOpened, serving
from shop.rpc.services import SERVICES
from shop.rpc.travel import TRACE, time_left
from txpatterns.correlation import CORRELATION_ID, correlated, current_lineage

NAME = SERVICES["inventory"].name
ANY = "127.0.0.1:0"


class Fake:
    """Answers for the stock as a test wishes: ``does`` is called with what was asked for."""

    def __init__(self, does=None):
        self.does = does
        self.asked = asyncio.Event()
        self.went_on = asyncio.Event()

    async def levels(self, skus):
        self.asked.set()
        return await self.does(skus) if self.does else []

    async def waits(self, skus):
        await self.went_on.wait()
        return [StockLevel(sku=sku, available=1, reserved=0, sold=0) for sku in skus]


async def ready():
    return None


@pytest.fixture
async def channels():
    async with Channels() as opened:
        yield opened


def at(api, ready=ready):
    return serving([Door("inventory", api, ANY, ready)])


async def refused(call):
    with pytest.raises(Problem) as caught:
        await call
    return caught.value


def raising(error):
    async def does(_):
        raise error

    return does


async def test_every_problem_arrives_as_it_was(channels):
    """H347: with the status of its kind, and all that it says; each kind has a status."""
    assert set(STATUSES) == set(KINDS)
    for slug in KINDS:
        async with at(Fake(raising(Problem(slug, "Warum? äöü €", more=["this"])))) as addresses:
            problem = await refused(channels.caller("inventory", addresses["inventory"]).levels(["a"]))
        assert (problem.kind.slug, problem.detail, problem.extra) == (slug, "Warum? äöü €", {"more": ["this"]})
        assert problem.__cause__.code() is STATUSES[slug]


async def test_a_long_problem_arrives_whole(channels):
    """H347: sixty changed prices are more than the usual frame for what goes beside a status."""
    prices = [{"sku": f"SKU-{number}", "in_cart": "1.00 EUR", "now": "2.00 EUR"} for number in range(500)]
    async with at(Fake(raising(Problem("price-changed", "Dearer.", prices=prices)))) as addresses:
        problem = await refused(channels.caller("inventory", addresses["inventory"]).levels([]))
    assert problem.extra == {"prices": prices}


@pytest.mark.parametrize(
    ("status", "slug"),
    [
        (grpc.StatusCode.NOT_FOUND, "not-found"),
        (grpc.StatusCode.FAILED_PRECONDITION, "conflict"),
        (grpc.StatusCode.ALREADY_EXISTS, "exists"),
        (grpc.StatusCode.UNAVAILABLE, "unavailable"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "timeout"),
        (grpc.StatusCode.UNKNOWN, "internal"),
        (grpc.StatusCode.DATA_LOSS, "internal"),
    ],
)
async def test_a_status_without_a_problem_means_what_it_means(channels, status, slug):
    """H347: from somebody else's server, or from gRPC itself."""

    async def abort(_, context):
        await context.abort(status, "so")

    server = grpc.aio.server()
    handlers = {"GetStock": grpc.unary_unary_rpc_method_handler(abort)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(NAME, handlers),))
    port = server.add_insecure_port(ANY)
    await server.start()
    try:
        problem = await refused(channels.caller("inventory", f"127.0.0.1:{port}").levels([]))
    finally:
        await server.stop(None)
    assert problem.kind.slug == slug


async def test_a_call_that_does_not_fit_is_refused(channels):
    """H347: a call that there is not, a request that is none, one that is too large, a name that is none."""
    async with at(Fake()) as addresses:
        address = addresses["inventory"]
        for path, body, status in (
            (f"/{NAME}/Rob", b"", grpc.StatusCode.UNIMPLEMENTED),
            ("/shop.bank.v1.BankService/Rob", b"", grpc.StatusCode.UNIMPLEMENTED),
            (f"/{NAME}/GetStock", b"\xff", grpc.StatusCode.INVALID_ARGUMENT),
            (f"/{NAME}/GetStock", bytes(300_000), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channels.to(address).unary_unary(path)(body, timeout=10)
            assert caught.value.code() is status
        over = channels.caller("inventory", address)
        for sku in ("x" * 41, "", "a\x00b"):
            assert (await refused(over.levels([sku]))).kind.slug == "bad-request"
        assert await over.levels(["x" * 40]) == []


async def test_a_service_that_breaks_keeps_its_reasons(channels, caplog):
    """H347: INTERNAL for the caller, and the log has the rest."""
    async with at(Fake(raising(RuntimeError("the password is swordfish")))) as addresses:
        problem = await refused(channels.caller("inventory", addresses["inventory"]).levels([]))
    assert problem.kind.slug == "internal"
    assert "swordfish" not in problem.detail
    assert "swordfish" in caplog.text


async def test_nobody_there_is_unavailable(channels):
    """H347: at once, without waiting for the deadline; whoever comes to that address later is found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    over = channels.caller("inventory", address)
    assert (await refused(over.levels([]))).kind.slug == "unavailable"
    async with serving([Door("inventory", Fake(), address, ready)]), asyncio.timeout(120):
        await channels.to(address).channel_ready()
        assert await over.levels([]) == []


async def test_who_has_no_time_left_is_told(channels, monkeypatch):
    """H345: the caller is told `timeout`, and the work ends with the call."""
    cut_off = asyncio.Event()

    async def does(_):
        try:
            await asyncio.Event().wait()
        finally:
            cut_off.set()

    async with at(Fake(does)) as addresses:
        monkeypatch.setattr(rpc_client, "time_left", lambda: 0.2)
        problem = await refused(channels.caller("inventory", addresses["inventory"]).levels([]))
        assert problem.kind.slug == "timeout"
        async with asyncio.timeout(120):
            await cut_off.wait()


async def test_a_caller_that_gives_no_deadline_has_one(channels, monkeypatch):
    """H345: the service's own."""
    monkeypatch.setattr("shop.rpc.server.DEADLINE", 0.2)
    async with at(Fake(Fake().waits)) as addresses:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channels.to(addresses["inventory"]).unary_unary(f"/{NAME}/GetStock")(b"")
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_inside_a_call_has_what_is_left(channels, monkeypatch):
    """H345: at most the time of the call that is handled; with none left nothing is asked."""
    seen = []

    async def does(_):
        seen.append(time_left())
        return []

    async with at(Fake(does)) as addresses:
        monkeypatch.setattr(rpc_client, "time_left", lambda: 5.0)
        await channels.caller("inventory", addresses["inventory"]).levels([])
    assert 0 < seen[0] < 6.0
    monkeypatch.undo()
    assert time_left() == 10.0
    monkeypatch.setattr("shop.rpc.travel.DEADLINE", 0)
    assert (
        await refused(channels.caller("inventory", "127.0.0.1:9").levels([]))
    ).detail == "There was no time left to ask."


async def test_story_and_trace_go_on_in_the_next_process(channels):
    """H347: the correlation id and the W3C trace context; what one call brought is not there for the next."""
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "shop=1"}
    seen = []

    async def does(_):
        carried = {}
        TRACE.inject(carried)
        seen.append((current_lineage().get(CORRELATION_ID), carried))
        return []

    async with at(Fake(does)) as addresses:
        over = channels.caller("inventory", addresses["inventory"])
        token = tracing.attach(TRACE.extract(trace))
        try:
            with correlated("my-story"):
                await over.levels([])
        finally:
            tracing.detach(token)
        await over.levels([])
    assert seen == [("my-story", trace), (None, {})]


async def health_of(channels, address, service=NAME):
    stub = health_pb2_grpc.HealthStub(channels.to(address))
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)).status


async def test_health_is_that_of_the_service(channels):
    """H348: by its name and as a whole; without its database it is not serving; a stranger is not known."""
    able = [True]

    async def when_able():
        if not able[0]:
            raise Problem("unavailable", "The database does not answer.")

    async with at(Fake(), when_able) as addresses:
        address = addresses["inventory"]
        for name in ("", NAME):
            assert await health_of(channels, address, name) == health_pb2.HealthCheckResponse.SERVING
        able[0] = False
        assert await health_of(channels, address) == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health_of(channels, address, "shop.bank.v1.BankService")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_server_says_what_it_can(channels):
    """H349: reflection names the service, and gives its description."""
    async with at(Fake()) as addresses:
        stub = reflection_pb2_grpc.ServerReflectionStub(channels.to(addresses["inventory"]))
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME),
        ]
        listed, described = [answer async for answer in stub.ServerReflectionInfo(iter(asked), timeout=10)]
    names = {each.name for each in listed.list_services_response.service}
    assert names == {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert b"Reserve" in described.file_descriptor_response.file_descriptor_proto[0]


async def test_a_stop_finishes_what_is_under_way(channels):
    """H348: first the health says so, new calls are refused, and the call under way has its answer."""
    fake = Fake()
    fake.does = fake.waits
    opened = at(fake)
    address = (await opened.__aenter__())["inventory"]
    watching = health_pb2_grpc.HealthStub(channels.to(address)).Watch(health_pb2.HealthCheckRequest(service=NAME))
    assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING
    over = channels.caller("inventory", address)
    under_way = asyncio.create_task(over.levels(["a"]))
    await fake.asked.wait()
    stopping = asyncio.create_task(opened.__aexit__(None, None, None))
    assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watching.cancel()
    async with Channels() as others:
        assert (await refused(others.caller("inventory", address).levels([]))).kind.slug == "unavailable"
    fake.went_on.set()
    assert [level.sku for level in await under_way] == ["a"]
    await stopping


async def test_a_port_that_is_taken_is_refused():
    """H348: two servers would each get half of the calls; what was opened before is closed again."""
    async with at(Fake()) as addresses:
        doors = [Door("catalog", Fake(), ANY, ready), Door("inventory", Fake(), addresses["inventory"], ready)]
        with pytest.raises(NotOpened, match=addresses["inventory"]):
            async with serving(doors):
                pytest.fail("it was shared")


async def test_channels_are_made_once_and_closed():
    """H348: one for each address, and none is left open."""
    async with Channels() as channels:
        first = channels.to("127.0.0.1:9")
        assert channels.to("127.0.0.1:9") is first
    assert first.get_state() is grpc.ChannelConnectivity.SHUTDOWN
