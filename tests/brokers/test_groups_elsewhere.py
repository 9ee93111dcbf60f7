"""Apps that run as processes of their own: what is sent before one of them has ever run."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from rig.servers.fanout import fanned_out
from txpatterns import App, Event
from txpatterns.errors import ConfigurationError
from txpatterns.messages import new_id


@pytest.fixture(params=["rabbitmq", "sqs", "database"])
def broker(request):
    """A broker that gives a new group only what comes after it."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbitmq").url
    elif request.param == "sqs":
        with fanned_out(request.getfixturevalue("elasticmq")) as both:
            yield f"sqs://eu-central-1?poll=1&endpoint={both.url}"
    else:
        yield "database://"


def placed_on(topic):
    class Placed(Event, topic=topic, type="order.placed", key="order_id"):
        order_id: str

    return Placed


@asynccontextmanager
async def reading(app, event):
    """Run an App with a handler; gives what it has heard so far."""
    heard = asyncio.Queue()

    @app.on(event)
    async def hear(event, tx):
        heard.put_nowait(event.order_id)

    async with app.running():
        yield heard


async def place(app, event, order_id):
    async with app.session() as session, session.begin():
        app.outbox.add(session, event(order_id=order_id))


async def test_what_is_sent_before_another_app_has_ever_run_waits_for_it(broker, tmp_path):
    """P1, H428: an order reaches each App that was declared, also the one that starts later than the others."""
    placed, names = placed_on(f"orders-{new_id()}"), {name: f"{name}-{new_id()}" for name in ("gateway", "inventory")}
    at = {"database": f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}", "broker": broker}
    gateway, inventory = App(names["gateway"], **at), App(names["inventory"], **at)
    gateway.declare(inventory.name, placed)
    async with reading(gateway, placed) as heard:
        await place(gateway, placed, "first")
        assert await heard.get() == "first"
        async with reading(inventory, placed) as late:
            await place(gateway, placed, "second")
            assert {await late.get(), await late.get()} == {"first", "second"}


async def test_nobody_outside_is_waited_for_on_memory(tmp_path):
    """H428: on memory:// a declared App can never read, so nothing waits for it."""
    placed = placed_on("orders")
    gateway = App("gateway", database=f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}", broker="memory://")
    gateway.declare("inventory", placed)
    async with reading(gateway, placed) as heard:
        await place(gateway, placed, "first")
        assert await heard.get() == "first"
        await gateway.drained()


def test_a_group_without_a_name_is_refused():
    """H428: a mistyped name is told at once, not by a queue that nobody reads."""
    with pytest.raises(ConfigurationError, match="names no application"):
        App("gateway", broker="memory://").declare("  ", placed_on("orders"))
