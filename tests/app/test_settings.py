"""What settings refuse: values that could only hang, flood or lose, and names that nobody reads."""

from datetime import timedelta

import pytest

from txpatterns import AppSettings, FailurePolicies, FailurePolicy, OnFailure, RetryLadder
from txpatterns.errors import ConfigurationError
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.outbox.relay import RelaySettings

ZERO = timedelta(0)


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (RelaySettings, {"batch": 0}),
        (RelaySettings, {"max_bytes": -1}),
        (RelaySettings, {"read_ahead": 0}),
        (RelaySettings, {"read_ahead_bytes": 0}),
        (RelaySettings, {"poll": ZERO}),
        (RelaySettings, {"lease": ZERO}),
        (RelaySettings, {"lease": 15}),
        (RelaySettings, {"keep_sent": ZERO}),
        (ConsumerSettings, {"concurrency": 0}),
        (ConsumerSettings, {"max_in_flight": 0}),
        (ConsumerSettings, {"max_bytes": 0}),
        (ConsumerSettings, {"retention": ZERO}),
        (ConsumerSettings, {"redelivery_horizon": timedelta(days=-1)}),
        (ConsumerSettings, {"retry_interval": ZERO}),
        (ConsumerSettings, {"takeover": ZERO}),
        (ConsumerSettings, {"lease_ttl": ZERO}),
        (ConsumerSettings, {"stop_within": timedelta(days=-1)}),
        (AppSettings, {"max_payload": 0}),
        (AppSettings, {"stop_within": timedelta(days=-1)}),
    ],
)
def test_what_cannot_work_is_refused(kind, given):
    """H146: a value out of range is an error that names it, never a silent hang or an endless log."""
    (name,) = given
    with pytest.raises(ConfigurationError, match=f"{name} is .*must be .*at least .*Fix: "):
        kind(**given)


def test_no_wait_at_a_stop_is_fine():
    """Whoever wants to stop at once may say so."""
    assert AppSettings(stop_within=ZERO, consumer=ConsumerSettings(stop_within=ZERO)).stop_within == ZERO


def test_the_environment_is_checked_alike():
    """The error names the variable, and shows one that works."""
    with pytest.raises(ConfigurationError, match=r"TXP_RELAY_BATCH: batch is 0.*TXP_RELAY_BATCH=500"):
        AppSettings.from_environment({"TXP_RELAY_BATCH": "0"})
    with pytest.raises(ConfigurationError, match=r"TXP_STOP_WITHIN: '-1d' is no duration"):
        AppSettings.from_environment({"TXP_STOP_WITHIN": "-1d"})
    assert AppSettings.from_environment({"TXP_RELAY_BATCH": "7", "TXP_MAX_PAYLOAD": "9"}).relay.batch == 7


def test_a_mistyped_variable_is_told(caplog):
    """Nothing that looks like a setting goes unnoticed; what commands and tests read is no setting, and passes."""
    AppSettings.from_environment({"TXP_MAX_PAYLODA": "1", "OTHER": "1"})
    assert [record.getMessage() for record in caplog.records] == [
        "TXP_MAX_PAYLODA is no setting and does nothing; see: txp config show"
    ]
    caplog.clear()
    AppSettings.from_environment({"TXP_DATABASE_URL": "x", "TXP_BROKER_URL": "x", "TXP_APP": "x", "TXP_TEST_SEED": "1"})
    assert not caplog.records


@pytest.mark.parametrize(
    "make",
    [
        lambda: FailurePolicy("nonsense"),
        lambda: FailurePolicy(OnFailure.HOLD, (timedelta(seconds=1),)),
        lambda: FailurePolicies(topics={"orders": OnFailure.PARK}),
        lambda: FailurePolicies(OnFailure.PARK),
        lambda: RetryLadder((5,)),
        lambda: RetryLadder((ZERO,)),
        lambda: RetryLadder(jitter=2),
    ],
)
def test_what_is_no_policy_is_refused(make):
    """H24, H25: a policy that nobody understands would be found out by the first failure, at night."""
    with pytest.raises(ConfigurationError, match=r"Fix: (Write|Give)"):
        make()
