"""The headers that every adapter writes and reads."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from txpatterns.messages import Message
from txpatterns.transport import from_wire, to_wire_headers

ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
NEAR = datetime(2026, 7, 1, 12, 59, 59, 999_000)  # noqa: DTZ001 - the zone is drawn


@given(st.lists(st.datetimes(timezones=ZONES) | st.datetimes(NEAR, NEAR + timedelta(seconds=2), timezones=ZONES)))
def test_the_time_is_written_as_iso_8601_and_read_back(instants):
    """To the microsecond, in any order, although most of a second's text is made only once."""
    for instant in instants:
        sent = Message("id", "t", "type", b"", "key", {"own": "kept"}, occurred_at=instant)
        headers = to_wire_headers(sent)
        assert headers["occurred-at"] == instant.isoformat()
        assert from_wire("t", b"", headers, fallback_id="") == sent


def test_what_is_ours_alone_does_not_come_from_outside():
    """H69: headers under our own prefix are dropped, and what a stranger leaves out has a plain value."""
    read = from_wire("t", b"x", {"txp-lane": "7", "own": "kept", "occurred-at": "yesterday"}, fallback_id="t/0/1")
    assert read == Message("t/0/1", "t", "", b"x", None, {"own": "kept"})
