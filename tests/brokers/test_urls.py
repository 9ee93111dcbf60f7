import sys
from datetime import timedelta
from importlib.metadata import EntryPoint

import pytest

import txpatterns.brokers
from txpatterns.brokers import broker_from_url, known_schemes
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.brokers.kafka.settings import KafkaSettings, settings_from_url
from txpatterns.errors import ConfigurationError, MissingExtra, UnsafeSettings

SECRET = "hunter2-s3cret"


def test_schemes_are_entry_points():
    """A third party's adapter is found the same way as ours."""
    assert {"kafka", "memory"} <= set(known_schemes())


@pytest.mark.parametrize("url", [f"rabbit://user:{SECRET}@host", f"user:{SECRET}@host", "", f"ka fka://{SECRET}"])
def test_an_unknown_scheme_names_the_known_and_no_secret(url):
    """H151: the error tells what is there, and never repeats the URL."""
    with pytest.raises(ConfigurationError) as raised:
        broker_from_url(url)
    assert SECRET not in str(raised.value)
    assert "memory" in str(raised.value)


def test_a_missing_driver_names_the_command(monkeypatch):
    """H147: the error has the line to type."""
    point = EntryPoint("kafka", "txpatterns_no_such_driver:Broker", txpatterns.brokers.GROUP)
    monkeypatch.setattr(txpatterns.brokers, "entry_points", lambda group: [point])
    with pytest.raises(MissingExtra) as raised:
        broker_from_url(f"kafka://user:{SECRET}@host")
    assert "pip install 'txpatterns[kafka]'" in str(raised.value)
    assert SECRET not in str(raised.value)


def test_a_broken_import_of_our_own_is_not_a_missing_extra(monkeypatch):
    """The cause of a bug is not hidden behind advice that does not help."""
    point = EntryPoint("kafka", "txpatterns.no_such_module:Broker", txpatterns.brokers.GROUP)
    monkeypatch.setattr(txpatterns.brokers, "entry_points", lambda group: [point])
    monkeypatch.delitem(sys.modules, "txpatterns.no_such_module", raising=False)
    with pytest.raises(ModuleNotFoundError):
        broker_from_url("kafka://host")


def test_a_url_says_servers_login_and_options():
    """Ours by their names, the driver's by theirs, one direction's with its prefix."""
    settings = settings_from_url(
        f"kafka://user:{SECRET}%2F@one:1,two:2?deadline=2.5&create_topics=3&security.protocol=sasl_ssl"
        "&producer.compression.type=lz4&consumer.fetch.min.bytes=10",
        options={"client.id": "me"},
        max_payload=5,
    )
    assert settings.servers == "one:1,two:2"
    assert (settings.deadline, settings.create_topics, settings.max_payload) == (timedelta(seconds=2.5), 3, 5)
    producer, consumer = settings.producer_config(), settings.consumer_config("g")
    assert producer["sasl.password"] == f"{SECRET}/" == consumer["sasl.password"]
    assert (producer["client.id"], producer["compression.type"]) == ("me", "lz4")
    assert "compression.type" not in consumer
    assert consumer["fetch.min.bytes"] == "10"


def test_secrets_are_in_no_text():
    """H151: neither in reprs nor in what the driver says."""
    broker = broker_from_url(f"kafka://user:{SECRET}@host:1?producer.sasl.password={SECRET}2")
    assert isinstance(broker, KafkaBroker)
    assert SECRET not in repr(broker) + repr(broker.settings)
    assert broker.settings.mask(f"bad {SECRET} and {SECRET}2") == "bad *** and ***"


@pytest.mark.parametrize("query", ["deadline=soon", "max_payload=1e3", "create_topics=yes"])
def test_an_option_that_is_no_number_is_refused_without_its_value(query):
    """Wrong use fails at start-up; a value may be a secret in the wrong place."""
    name, _, value = query.partition("=")
    with pytest.raises(ConfigurationError, match=name) as raised:
        settings_from_url(f"kafka://host:1?{query}")
    assert value not in str(raised.value)


@pytest.mark.parametrize("url", ["kafka://", "kafka:///topic", "kafka://host/path", "http://host"])
def test_a_url_that_is_none_is_refused(url):
    """Wrong use fails at start-up."""
    with pytest.raises(ConfigurationError):
        settings_from_url(url)


async def test_an_option_that_the_driver_does_not_know_is_refused():
    """H58: a typo in an option is found when the broker is entered."""
    with pytest.raises(ConfigurationError, match="no\\.such\\.option"):
        async with KafkaBroker.from_url("kafka://127.0.0.1:1?no.such.option=1"):
            pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("enable.idempotence", "false"),
        ("acks", "1"),
        ("request.required.acks", 0),
        ("enable.gapless.guarantee", False),
        ("max.in.flight", 6),
        ("retries", 0),
        ("message.timeout.ms", 30_000),
        ("delivery.timeout.ms", "1000"),
        ("queuing.strategy", "lifo"),
        ("partitioner", "random"),
        ("enable.auto.commit", "true"),
        ("enable.auto.offset.store", True),
        ("auto.offset.reset", "latest"),
    ],
)
def test_options_that_risk_order_or_messages_are_refused(name, value):
    """H58, H65, H68, H195: in any of the three mappings that they would reach."""
    side = "consumer" if "auto" in name else "producer"
    for given in (side, "options"):
        with pytest.raises(UnsafeSettings, match="must"):
            KafkaSettings("host:1", **{given: {name: value}})


@pytest.mark.parametrize("name", ["bootstrap.servers", "group.id", "transactional.id", "delivery.report.only.error"])
def test_options_that_are_the_adapters_are_refused(name):
    """H56, H64: it sets them itself, or uses none."""
    with pytest.raises(ConfigurationError, match=name):
        KafkaSettings("host:1", options={name: "x"})


def test_safe_spellings_pass():
    """Saying what holds anyway is no error."""
    settings = KafkaSettings(
        "host:1", options={"acks": -1, "enable.idempotence": "true", "linger.ms": 5, "message.timeout.ms": "0"}
    )
    assert settings.producer_config()["acks"] == "all"
    assert settings.producer_config()["linger.ms"] == 5
