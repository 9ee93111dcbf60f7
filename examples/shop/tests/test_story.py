from datetime import UTC, datetime, timedelta

from shop.gateway.course import course_of
from shop.gateway.lanes import draw
from shop.gateway.render import plain, times
from shop.gateway.story import SAME_AS, STEP, STUMBLED, TELLERS, Entry, tell
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
PAYLOADS |= {led: PAYLOADS[same] for led, same in SAME_AS.items() if same in PAYLOADS}


def entries(*types):
    made = []
    for index, type_ in enumerate(types):
        headers = {"causation-id": f"m{index - 1}"} if index else {}
        at = START + timedelta(milliseconds=40 * index)
        made.append(Entry(index, f"m{index}", type_, "order-events", at, at, PAYLOADS.get(type_, {}), headers))
    return made


def test_every_event_of_an_order_has_its_sentence():
    """A person can see why an order is where it is: what is heard is also told."""
    assert {describe(event).type for event in HEARD} == {*TELLERS, STUMBLED, STEP}


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


def led(*told):
    """Entries of a checkout that a saga leads; a pair is a note of a step, with -name for its undoing."""
    made = []
    for index, each in enumerate(("checkout.requested", *told)):
        type_, payload = each, PAYLOADS.get(each, {})
        if isinstance(each, tuple):
            step, what = each
            payload = {
                "step": step.removeprefix("-"),
                "what": what,
                "undoing": step.startswith("-"),
                "error": "Gone: no",
            }
            type_ = STEP
        if each == "checkout.failed":
            payload = {"reason": "payment_failed"}
        at = START + timedelta(milliseconds=40 * index)
        made.append(Entry(index, f"m{index}", type_, "order-events", at, at, payload, {}))
    return made


FORTH = ["reservation.made", "payment.session_opened"]
NOTED = [(step, what) for step in ("open_session", "reserve", "charge") for what in ("begun", "done")]


def test_an_order_that_events_lead_has_no_saga():
    assert course_of(entries("order.created", "stock.reserved")) is None


def test_a_saga_s_steps_go_forth():
    """Each step has its state in words; the same from the notes of the steps, and from what the services told."""
    for told in (NOTED, FORTH):
        course = course_of(led(*told))
        assert [step.state for step in course.steps] == ["done", "done", "done", "running", "ahead"]
        assert [step.undoing for step in course.steps] == [None] * 5
    done = course_of(led(*FORTH, "payment.captured", "checkout.completed"))
    assert [step.state for step in done.steps] == ["done"] * 5
    assert not done.turned


def test_a_compensation_is_drawn_below_what_it_undoes():
    """H353: the last first; what comes of each is told while it happens, and at the end even without any note."""
    told = [
        *FORTH,
        "payment.failed",
        ("-charge", "begun"),
        ("-charge", "failed"),
        ("-charge", "begun"),
        ("-charge", "done"),
    ]
    halfway = course_of(led(*told, ("-reserve", "begun"), ("-reserve", "failed")))
    assert [step.state for step in halfway.steps] == ["done", "done", "done", "refused", "skipped"]
    assert halfway.steps[3].detail == "the bank declined"
    assert [step.undoing.state for step in halfway.steps[:3]] == ["due", "failed", "done"]
    assert halfway.steps[2].undoing.says == "undone first, at attempt 2"
    over = course_of(led(*FORTH, "payment.failed", "reservation.released", "checkout.failed"))
    assert [step.undoing.says for step in over.steps[:3]] == ["undone third", "undone second", "undone first"]


def test_doubt_is_drawn():
    """P1: an attempt that failed, or whose process died, leaves in doubt what it has done; then it is asked for."""
    for told in ([("charge", "begun"), ("charge", "failed")], [("charge", "begun"), ("charge", "begun")]):
        charge = course_of(led("reservation.made", *told)).steps[2]
        assert (charge.state, charge.says) == ("doubt", "in doubt")
    told = [("charge", "begun"), "payment.session_opened", ("charge", "failed")]
    assert course_of(led("reservation.made", *told)).steps[2].state == "doubt"  # it is done, but the saga cannot know
    asked = [("charge", "begun"), ("charge", "failed"), ("charge", "begun"), ("charge", "done")]
    charge = course_of(led("reservation.made", *asked)).steps[2]
    assert (charge.state, charge.detail) == ("done", "2 attempts; what the first came to was asked by its key")


def test_what_nobody_knows_is_undone_too():
    """P1: no answer to the charge, however often it was asked for: it failed, and it is undone all the same."""
    told = [("charge", "begun"), ("charge", "failed"), ("-charge", "begun"), ("-charge", "done"), ("-reserve", "begun")]
    course = course_of(led("reservation.made", *told))
    assert [step.state for step in course.steps] == ["done", "done", "refused", "skipped", "skipped"]
    assert [step.undoing.state for step in course.steps[:3]] == ["due", "running", "done"]
    assert course.steps[2].detail == "no answer, however often we asked"


def test_what_is_refused_at_once_undoes_only_the_session():
    course = course_of(led("reservation.refused", "checkout.failed"))
    assert [step.state for step in course.steps] == ["done", "refused", "skipped", "skipped", "skipped"]
    assert [step.undoing is not None for step in course.steps] == [True, False, False, False, False]


def test_the_picture_of_a_led_checkout_has_its_lane():
    picture = draw(led(*FORTH, "payment.failed", "reservation.released", "checkout.failed"))
    assert [name for name, _ in picture.lanes][:2] == ["orders", "checkout"]
    assert [row.cause for row in picture.rows] == [None, "the saga", "the saga", "a webhook", "the saga", "the saga"]
    told = tell(led("reservation.made", "payment.failed"))
    assert told.headline == "Calling it off"
    assert (told.deadline, told.next) == (None, "Putting everything back")
