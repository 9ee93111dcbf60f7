"""What settings refuse: values that could only hang, flood or lose, and names that nobody reads."""

from datetime import timedelta

import pytest

from txpatterns import App, AppSettings, FailurePolicies, FailurePolicy, MemoryBroker, OnFailure, RetryLadder
from txpatterns.database import Database
from txpatterns.errors import ConfigurationError
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.outbox.relay import Relay, RelaySettings

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
        lambda: App("orders", policies=FailurePolicy(OnFailure.PARK)),
        lambda: App("orders", policies={"orders": FailurePolicy()}),
        lambda: ConsumerSettings(policies=FailurePolicy()),
        lambda: Relay(Database("sqlite:///x.db"), MemoryBroker(), policies=FailurePolicy()),
        lambda: RetryLadder((5,)),
        lambda: RetryLadder((ZERO,)),
        lambda: RetryLadder(jitter=2),
    ],
)
def test_what_is_no_policy_is_refused(make):
    """H24, H25: a policy that nobody understands would be found out by the first failure, at night."""
    with pytest.raises(ConfigurationError, match=r"Fix: (Write|Give)"):
        make()


SERVICE = {
    "{}_SERVICE_HOST": "10.0.0.7",
    "{}_SERVICE_PORT": "80",
    "{}_SERVICE_PORT_HTTP": "80",
    "{}_PORT": "tcp://10.0.0.7:80",
    "{}_PORT_80_TCP": "tcp://10.0.0.7:80",
    "{}_PORT_80_TCP_PROTO": "tcp",
    "{}_PORT_80_TCP_PORT": "80",
    "{}_PORT_80_TCP_ADDR": "10.0.0.7",
}
"""What Kubernetes puts into every pod for each service of its namespace."""


@pytest.mark.parametrize("service", ["TXP_RELAY", "TXP_CONSUMER", "TXP_CONSUMER_METRICS", "TXP", "TXP_DATABASE"])
def test_a_service_named_like_ours_is_no_setting(service, caplog):
    """H228: a service of the cluster whose name begins like ours neither stops the App nor fills its log."""
    links = {name.format(service): value for name, value in SERVICE.items()}
    assert AppSettings.from_environment(links | {"TXP_RELAY_BATCH": "7"}).relay.batch == 7
    assert caplog.text == ""
    with pytest.raises(ConfigurationError, match="TXP_RELAY_BATHC"):
        AppSettings.from_environment(links | {"TXP_RELAY_BATHC": "7"})


@pytest.mark.parametrize("link", ["TXP_RELAY_PORT", "TXP_RELAY_PORT_80_TCP"])
def test_a_mistyped_setting_is_told_beside_a_link(link):
    """H228: a link of Docker's has no SERVICE_HOST; a setting is not taken for a part of it."""
    assert AppSettings.from_environment({link: "tcp://10.0.0.7:80"}) == AppSettings()
    with pytest.raises(ConfigurationError, match="TXP_RELAY_PORT"):
        AppSettings.from_environment({"TXP_RELAY_PORT": "8080"})


def test_policies_of_the_consumers_settings_are_honoured():
    """H146: a setting that can be given is not ignored; without it those of the App hold."""
    own, of_app = FailurePolicies(FailurePolicy(on_failure=OnFailure.PARK)), FailurePolicies()
    settings = AppSettings(consumer=ConsumerSettings(policies=own))
    assert App("a", "sqlite+aiosqlite:///a.db", "memory://", settings=settings).consumer.settings.policies == own
    assert App("a", "sqlite+aiosqlite:///a.db", "memory://", policies=own).consumer.settings.policies == own
    assert AppSettings().consumer_with(of_app).policies == of_app


@pytest.mark.parametrize("given", [{"listen_url": "postgresql://h/d"}, {"schema": "messaging"}])
def test_a_setting_that_the_database_does_not_have_is_refused(given):
    """H146: what would have no effect says so, with the place where it belongs."""
    (name,) = given
    with pytest.raises(ConfigurationError, match=rf"{name} is set.*Database\(\.\.\., {name}=\.\.\.\)"):
        App("a", Database("sqlite+aiosqlite:///a.db"), "memory://", settings=AppSettings(**given))
