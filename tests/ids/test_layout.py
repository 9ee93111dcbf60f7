"""How ids are made up."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txpatterns.errors import ClockWrong, IdInvalid, IdsUnavailable
from txpatterns.ids import EPOCH, IdParts, explain
from txpatterns.ids.layout import LAST_ID, LAST_MILLISECOND, TICKS, first_tick, id_of, ids_of, millisecond_of, tick_of
from txpatterns.ids.marks import agreed, granted, is_ahead, renewed

milliseconds = st.integers(0, LAST_MILLISECOND)


@given(milliseconds, st.integers(0, 1023), st.integers(0, TICKS - 1))
def test_what_is_packed_comes_back(millisecond, worker, sequence):
    """P6, H140: 63 bits, never negative, and each of the three parts where it was."""
    parts = IdParts(millisecond, worker, sequence)
    assert 0 <= parts.id <= LAST_ID == 2**63 - 1
    assert explain(parts.id) == parts


def test_an_id_is_explained_by_its_time():
    """P6: of an id that was made elsewhere it can be seen when and by whom."""
    parts = explain(252620073519284224)
    assert (parts.worker, parts.sequence) == (0, 0)
    assert parts.at == datetime(2026, 11, 29, 2, 21, 58, 981000, tzinfo=UTC)


@pytest.mark.parametrize("wrong", [-1, 2**63, "12", 1.0, True, None])
def test_what_is_no_id_is_refused(wrong):
    """H140: too long, negative, or of another type."""
    with pytest.raises(IdInvalid):
        explain(wrong)


@given(
    st.integers(0, LAST_MILLISECOND - 10), st.integers(0, TICKS - 1), st.integers(1, 3 * TICKS), st.integers(0, 1023)
)
def test_ids_on_end_are_those_of_their_ticks(millisecond, sequence, count, worker):
    """P6, H139: the sequence runs over into the next millisecond, and never wraps."""
    first = first_tick(millisecond) + sequence
    made = ids_of(worker, first, count)
    assert made == [id_of(worker, tick) for tick in range(first, first + count)]
    assert [tick_of(made[0]), tick_of(made[-1])] == [first, first + count - 1]
    assert made == sorted(set(made))


@given(milliseconds, milliseconds)
def test_a_mark_never_falls_and_a_holder_begins_above_it(mark, now):
    """P6, H136, I29: whatever the store's clock says."""
    if max(mark, now) > LAST_MILLISECOND - 3000:
        return
    grant = granted(1, mark, now)
    assert mark <= grant.above < grant.mark
    assert now <= grant.above + 1
    assert renewed(grant.mark, now) >= grant.mark


def test_the_last_millisecond_is_the_end():
    """H140: 41 bits last until 2094; then ids are refused, and do not begin again."""
    assert EPOCH + timedelta(milliseconds=LAST_MILLISECOND) == datetime(2094, 9, 7, 15, 47, 35, 551000, tzinfo=UTC)
    assert granted(0, 0, LAST_MILLISECOND - 3000).mark == LAST_MILLISECOND
    for give in (lambda: granted(0, 0, LAST_MILLISECOND - 2999), lambda: renewed(0, LAST_MILLISECOND)):
        with pytest.raises(IdsUnavailable, match="2094"):
            give()


@pytest.mark.parametrize("off", [-1.2, 1.2, 3600, -366 * 86400])
def test_a_clock_that_is_off_is_refused(off):
    """P6, H179: by more than a second either way, not by the time that the question took."""
    told = datetime(2030, 1, 1, tzinfo=UTC)
    ours = told + timedelta(seconds=off)
    with pytest.raises(ClockWrong, match=f"{abs(off):.1f} s off"):
        agreed(ours, told, ours)
    slow = timedelta(minutes=5)
    assert agreed(told - slow, told, told + slow) == agreed(told, told, told) == millisecond_of(told)


def test_a_clock_before_the_first_id_is_refused():
    """H140: its ids would be negative."""
    early = EPOCH - timedelta(days=1)
    with pytest.raises(ClockWrong, match="2024-12-31"):
        agreed(early, early, early)


def test_a_mark_from_another_year_is_far_ahead():
    """H179: such a number would give nothing for a year."""
    assert not is_ahead(granted(0, 0, 10_000).mark, 10_000)
    assert not is_ahead(renewed(13_000, 9_000), 9_000)
    assert is_ahead(31_536_000_000, 10_000)
