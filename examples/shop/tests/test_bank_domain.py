from datetime import timedelta

import pytest

from shop.bank.domain import Method, accepts, plan

WINDOW, THINK = timedelta(seconds=30), timedelta(seconds=1)


def test_ninety_five_in_a_hundred():
    """The luck is that of the seed: the same seed gives the same answers, and one in each twenty is declined."""
    numbers = range(1, 10_001)  # as the bank counts its charges
    answers = [accepts(42, number) for number in numbers]
    assert {sum(answers[start : start + 20]) for start in range(0, 10_000, 20)} == {19}
    assert answers == [accepts(42, number) for number in numbers]
    assert answers != [accepts(43, number) for number in numbers]


def test_nobodys_first_order_fails_by_chance():
    """What a visitor sees first, of whichever seed, is that the shop works."""
    assert [seed for seed in range(1_000) if not accepts(seed, 1)] == []


@pytest.mark.parametrize("method", Method)
def test_each_story_is_consistent(method):
    """No webhook says captured before the money moved, or at all when it never does."""
    laid = plan(method, True, WINDOW, THINK)
    for answer in laid.answers:
        if answer.kind == "charge.captured":
            assert laid.captured_after is not None
            assert answer.after >= laid.captured_after


def test_the_misfortunes():
    assert plan(Method.CARD, False, WINDOW, THINK).failed
    assert plan(Method.LATE, True, WINDOW, THINK).answers[0].after > WINDOW
    first, second = plan(Method.TWICE, True, WINDOW, THINK).answers
    assert first.event == second.event
    assert plan(Method.LOST, True, WINDOW, THINK).answers == ()
    assert plan(Method.LOST, True, WINDOW, THINK).captured_after is not None
    assert plan(Method.SILENT, True, WINDOW, THINK).captured_after is None
    captured, failed = plan(Method.REORDERED, True, WINDOW, THINK).answers
    assert (captured.kind, failed.kind) == ("charge.captured", "charge.failed")
    assert captured.after < failed.after
