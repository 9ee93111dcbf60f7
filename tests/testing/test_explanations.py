"""What a failing assertion says: what waits, since when, and the line that raised."""

import pytest

from txpatterns import App, Event, Transaction
from txpatterns.testing.harness import Txp


class OrderPlaced(Event, topic="orders", type="order.placed", key="order_id"):
    order_id: str


def print_label(order_id: str) -> None:
    raise ConnectionError("the printer is away")


async def print_it(event: OrderPlaced, tx: Transaction) -> None:
    print_label(event.order_id)


async def misread(event: OrderPlaced, tx: Transaction) -> None:
    int(event.model_dump_json(include={"order_id": {"no": "such"}}))


LINE = print_label.__code__.co_firstlineno + 1


@pytest.fixture
def txp_app() -> App:
    app = App("orders")
    app.on(OrderPlaced)(print_it)
    return app


async def place(app: App, order_id: str = "1") -> None:
    async with app.transaction() as session:
        app.outbox.add(session, OrderPlaced(order_id=order_id))


def waits(text: str) -> bool:
    return "orders.print_it, retrying: order.placed" in text and f"{__file__}:{LINE} in print_label" in text


async def test_a_missing_effect_says_what_waits_and_where_it_failed(txp: Txp):
    """P7, H25: attempts, due time, error, file and line."""
    await place(txp.app)
    await txp.drain()
    with pytest.raises(AssertionError) as failed:
        txp.assert_handled(print_it, order_id="1")
    text = str(failed.value)
    assert "expected print_it to have handled" in text
    assert "key 1, 1 attempts, due " in text
    assert "ConnectionError: the printer is away" in text
    assert waits(text)


async def test_so_does_a_plain_comparison(txp: Txp):
    """P7: the way in which everybody writes it."""
    await place(txp.app)
    await txp.drain()
    with pytest.raises(AssertionError) as failed:
        assert txp.handled(print_it) == [OrderPlaced(order_id="1")]
    assert waits(str(failed.value))
    with pytest.raises(AssertionError) as failed:
        assert [OrderPlaced(order_id="1")] == txp.handled(print_it)
    assert waits(str(failed.value))


async def test_a_missing_publication_says_it_too(txp: Txp):
    """P1, P7: the message that was expected may come of a handler that fails."""
    await place(txp.app)
    await txp.drain()
    with pytest.raises(AssertionError) as failed:
        txp.assert_published(OrderPlaced, order_id="2")
    assert waits(str(failed.value))


async def test_what_was_given_up_is_told(txp: Txp):
    """P7: a dead letter, with the last error."""
    await place(txp.app)
    await txp.advance(hours=2)
    with pytest.raises(AssertionError) as failed:
        txp.assert_handled(print_it)
    assert "given up: orders.print_it: order.placed" in str(failed.value)
    assert "7 attempts, exhausted: ConnectionError: the printer is away" in str(failed.value)


async def test_a_forgotten_drain_is_told(txp: Txp):
    """P1: the most frequent reason."""
    await place(txp.app)
    with pytest.raises(AssertionError, match=r"nothing was drained yet: call await txp\.drain\(\)"):
        txp.assert_handled(print_it)
    await txp.drain()
    await place(txp.app, "2")
    with pytest.raises(AssertionError, match="added since the last drain: 1"):
        txp.assert_handled(print_it)


async def test_an_error_inside_a_library_names_the_line_that_called_it(txp: Txp):
    """P7: a line of pydantic says nothing about the application."""
    txp.app.on(OrderPlaced)(misread)
    await place(txp.app)
    await txp.drain()
    with pytest.raises(AssertionError) as failed:
        txp.assert_handled(misread)
    assert f"{__file__}:{misread.__code__.co_firstlineno + 1} in misread" in str(failed.value)


async def test_a_handler_that_is_none_is_told(txp: Txp):
    """P1: it would have handled nothing, for ever."""
    with pytest.raises(ValueError, match=r"is no handler here; those are \['orders\.print_it'\]"):
        txp.handled(print_label)


async def test_a_handler_is_found_by_its_function_whatever_its_name(txp: Txp):
    """P2: `name=` is for the inbox."""

    @txp.app.on(OrderPlaced, name="second")
    async def look(event: OrderPlaced, tx: Transaction) -> None: ...

    await place(txp.app)
    await txp.drain()
    assert txp.handled(look) == txp.handled("second") == txp.handled("orders.second") == [OrderPlaced(order_id="1")]
