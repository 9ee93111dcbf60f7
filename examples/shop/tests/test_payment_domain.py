import itertools

import pytest

from shop.payment.domain import Answer, PaymentStatus, judge

OPEN = PaymentStatus.OPEN


def run(status, *answers):
    told = []
    for answer in answers:
        verdict = judge(status, answer)
        status = verdict.status
        if verdict.tell:
            told.append(answer)
    return status, told


@pytest.mark.parametrize("order", list(itertools.permutations([Answer.CAPTURED, Answer.CAPTURED, Answer.FAILED])))
def test_money_that_moved_counts_in_any_order(order):
    """P2: declined, then charged, the news in any order and twice: captured is told once, and is the end."""
    status, told = run(OPEN, *order)
    assert status is PaymentStatus.CAPTURED
    assert told.count(Answer.CAPTURED) == 1


def test_an_answer_may_overtake_our_own_note():
    assert run(PaymentStatus.WAITING, Answer.CAPTURED) == (PaymentStatus.CAPTURED, [Answer.CAPTURED])


def test_a_refund_is_told_once():
    assert run(PaymentStatus.REFUNDING, Answer.REFUNDED, Answer.REFUNDED, Answer.CAPTURED) == (
        PaymentStatus.REFUNDED,
        [Answer.REFUNDED],
    )


def test_another_amount_is_left_for_a_person():
    verdict = judge(OPEN, Answer.CAPTURED, amount_agrees=False)
    assert (verdict.status, verdict.tell) == (OPEN, False)
