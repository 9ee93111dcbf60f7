from datetime import UTC, datetime, timedelta

from shop.gateway.lanes import draw
from shop.gateway.render import plain, times
from shop.gateway.story import STUMBLED, TELLERS, Entry, tell
from shop.gateway.timeline import HEARD
from txpatterns.messages import describe

START = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
MONEY = {"amount": "12.30", "currency": "EUR"}
LINES = [{"sku": "A", "name": "Quiet headphones", "quantity": 2}]
PAYLOADS = {
    "order.created": {"lines": LINES, "total": MONEY, "pay_by": (START + timedelta(minutes=4)).isoformat()},
    "stock.reserved": {
        "lines": [{"sku": "A", "quantity": 2}],
        "until": (START + timedelta(minutes=4)).isoformat(),
    },
    "stock.rejected": {"short": [{"sku": "A", "quantity": 1}]},
    "stock.released": {"lines": [{"sku": "A", "quantity": 2}]},
    "stock.sold": {"lines": [{"sku": "A", "quantity": 2}]},
    "payment.session_opened": {"amount": MONEY},
    "payment.captured": {"amount": MONEY, "source": "webhook"},
    "payment.refunded": {"amount": MONEY},
    "order.cancel_requested": {"reason": "payment_window"},
    "webhook.repeated": {"why": "known"},
}


def entries(*types):
    made = []
    for index, type_ in enumerate(types):
        headers = {"causation-id": f"m{index - 1}"} if index else {}
        at = START + timedelta(milliseconds=40 * index)
        made.append(Entry(index, f"m{index}", type_, "order-events", at, at, PAYLOADS.get(type_, {}), headers))
    return made


def test_every_event_of_an_order_has_its_sentence():
    """A person can see why an order is where it is: what is heard is also told."""
    assert {describe(event).type for event in HEARD} == {*TELLERS, STUMBLED}


def test_the_way_to_a_confirmed_order():
    story = tell(
        entries("order.created", "stock.reserved", "payment.captured", "order.paid", "order.confirmed", "stock.sold")
    )
    assert (story.headline, story.tone, story.ended) == ("Confirmed", "good", True)
    assert [stage.state for stage in story.stages] == ["done"] * 4
    assert story.deadline is None
    assert story.steps[0].says == "You ordered 2 × Quiet headphones."


def test_a_reservation_says_until_when():
    story = tell(entries("order.created", "stock.reserved"))
    sentence = str(times(story.steps[1].says))
    assert sentence.startswith("We reserved 2 × Quiet headphones for you until <time")
    assert "12:04 UTC" in sentence
    assert story.deadline == START + timedelta(minutes=4)
    assert [stage.state for stage in story.stages] == ["done", "done", "now", "ahead"]


def test_a_canceled_order_shows_what_was_undone():
    story = tell(
        entries("order.created", "stock.reserved", "order.cancel_requested", "stock.released", "order.canceled")
    )
    assert (story.headline, story.ended) == ("Canceled", True)
    assert [(stage.name, stage.state) for stage in story.stages] == [
        ("Placed", "done"),
        ("Set aside", "undone"),
        ("Canceled", "broken"),
    ]
    assert story.lede.startswith("You were not charged")


def test_before_the_first_event_there_is_a_page():
    story = tell([])
    assert not story.ended
    assert [stage.state for stage in story.stages] == ["now", "ahead", "ahead", "ahead"]


def test_a_program_reads_words():
    """H247: what marks a moment for the page is a time in words for a program."""
    told = [plain(step.says) for step in tell(entries("order.created", "stock.reserved")).steps]
    assert told[1] == "We reserved 2 × Quiet headphones for you until 12:04 UTC."
    assert not any("{" in says for says in told)


def test_names_are_escaped():
    assert str(times("<b>{{minutes 2026-01-02T12:04:00+00:00}}")).startswith("&lt;b&gt;<time")


def test_the_picture_joins_cause_and_effect():
    picture = draw(entries("order.created", "stock.reserved", "order.cancel_requested", "stock.released"))
    assert [row.dot.lane for row in picture.rows] == ["orders", "inventory", "orders", "inventory"]
    assert [row.after_ms for row in picture.rows] == [None, 40, 40, 40]
    assert len(picture.curves) == 3
    assert [row.dot.kind for row in picture.rows] == ["", "", "undoing", "undoing"]
