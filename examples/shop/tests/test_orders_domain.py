from hypothesis import given
from hypothesis import strategies as st

from shop.orders.domain import CancelReason, Fact, Life, Signal, Status, decide

NEXT = {
    Status.PENDING: {Status.PENDING, Status.PAID, Status.CANCELED},
    Status.PAID: {Status.PAID, Status.CONFIRMED},
    Status.CONFIRMED: {Status.CONFIRMED},
    Status.CANCELED: {Status.CANCELED},
}


LED = Life(led_by_saga=True)
LED_NEXT = NEXT | {Status.PENDING: {Status.PENDING, Status.CONFIRMED, Status.CANCELED}}


def run(*signals, life=None):
    life, facts = life or Life(), []
    for signal in signals:
        decision = decide(life, signal, CancelReason.PAYMENT_FAILED)
        assert decision.life.status in (LED_NEXT if life.led_by_saga else NEXT)[life.status]
        life = decision.life
        facts += decision.facts
    return life, facts


def test_paid_and_confirmed():
    life, facts = run(Signal.PAYMENT_CAPTURED, Signal.PAYMENT_CHECKED)
    assert life.status is Status.CONFIRMED
    assert facts == [Fact.PAID, Fact.CONFIRMED]


def test_the_window_closes_and_the_stock_comes_back():
    life, facts = run(Signal.WINDOW_CLOSED, Signal.STOCK_RELEASED)
    assert life == Life(Status.CANCELED, CancelReason.PAYMENT_WINDOW)
    assert facts == [Fact.CANCEL_REQUESTED, Fact.CANCELED]


def test_money_that_comes_too_late_goes_back():
    """A capture after the cancellation, or while it is under way, leads to a refund."""
    assert run(Signal.WINDOW_CLOSED, Signal.STOCK_RELEASED, Signal.PAYMENT_CAPTURED)[1][-1] is Fact.REFUND_REQUESTED
    assert run(Signal.WINDOW_CLOSED, Signal.PAYMENT_CAPTURED)[1][-1] is Fact.REFUND_REQUESTED


def test_what_cannot_be_filled_is_canceled_at_once():
    assert run(Signal.STOCK_REJECTED) == (Life(Status.CANCELED, CancelReason.OUT_OF_STOCK), [Fact.CANCELED])
    assert run(Signal.CANCEL_ASKED, Signal.STOCK_REJECTED)[0].canceling is CancelReason.CUSTOMER


@given(st.lists(st.sampled_from(Signal), max_size=12))
def test_any_order_of_signals_is_harmless(signals):
    """P4: whatever comes in whatever order, no illegal step is taken, and nothing is told twice but refunds."""
    life, facts = run(*signals)
    told = [fact for fact in facts if fact is not Fact.REFUND_REQUESTED]
    assert len(told) == len(set(told))
    assert (Fact.CONFIRMED in facts) == (life.status is Status.CONFIRMED)
    assert not (Fact.PAID in facts and Fact.CANCELED in facts)


@given(st.lists(st.sampled_from(Signal), max_size=6), st.sampled_from(Signal))
def test_a_signal_twice_is_a_signal_once(before, signal):
    """P2: a repeated signal tells nothing new, except that money came again."""
    life, _ = run(*before, signal)
    again = decide(life, signal)
    assert again.life == life
    assert set(again.facts) <= {Fact.REFUND_REQUESTED}


def test_where_a_saga_leads_it_alone_decides():
    """P4: what the order hears of stock and money changes nothing; how the checkout ended does."""
    assert run(Signal.PAYMENT_CAPTURED, Signal.WINDOW_CLOSED, Signal.STOCK_RELEASED, life=LED) == (LED, [])
    assert run(Signal.CHECKOUT_COMPLETED, life=LED)[1] == [Fact.CONFIRMED]
    ended, facts = run(Signal.CHECKOUT_FAILED, life=LED)
    assert (ended.status, ended.canceling, facts) == (Status.CANCELED, CancelReason.PAYMENT_FAILED, [Fact.CANCELED])


def test_calling_it_off_is_a_wish_where_a_saga_leads():
    """It is asked for once, and the saga may be through already."""
    asked, facts = run(Signal.CANCEL_ASKED, Signal.CANCEL_ASKED, life=LED)
    assert (asked.canceling, facts) == (CancelReason.CUSTOMER, [Fact.SAGA_CANCEL_REQUESTED])
    late, _ = run(Signal.CANCEL_ASKED, Signal.CHECKOUT_COMPLETED, life=LED)
    assert (late.status, late.canceling) == (Status.CONFIRMED, None)


@given(st.lists(st.sampled_from(Signal), max_size=12))
def test_any_order_of_signals_is_harmless_where_a_saga_leads(signals):
    """P2, P4: each fact is told once, an end is an end, and money is never the order's to give back."""
    life, facts = run(*signals, life=LED)
    assert len(facts) == len(set(facts))
    assert (Fact.CONFIRMED in facts) == (life.status is Status.CONFIRMED)
    assert (Fact.CANCELED in facts) == (life.status is Status.CANCELED)
    assert not {Fact.PAID, Fact.REFUND_REQUESTED, Fact.CANCEL_REQUESTED} & set(facts)
