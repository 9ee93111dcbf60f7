"""RabbitMQ over TLS, and behind a server or a network that says nothing any more."""

import logging
import warnings
from contextlib import suppress
from datetime import timedelta
from urllib.parse import quote

import pytest
import trustme

from rig.proxy import TO_CLIENT, TO_SERVER
from rig.waiting import until
from txpatterns.brokers.rabbitmq import RabbitMQBroker, link
from txpatterns.errors import BrokerUnavailable, ConfigurationError, UnsafeSettings
from txpatterns.testing.conformance import Publishing, Reader, message
from txpatterns.transport import Verdict

PASSWORD = "p@ss/w%rd&?:"


def over_tls(rabbitmq, authority=None, password=PASSWORD, options=()):
    rabbitmq.user("shop", PASSWORD, configure=".*", write=".*", read=".*")
    server = rabbitmq.server
    found = {"ca_certs": str(authority or server.authority), **dict(options)}
    login = f"shop:{quote(password, safe='')}@127.0.0.1:{server.encrypted_port}"
    return f"amqps://{login}/{rabbitmq.name}?ssl_options={quote(repr(found))}"


async def test_messages_go_and_come_encrypted(rabbitmq, own_rabbitmq):
    """P1, H151: TLS with a certificate that is checked, to publish, to read and to look."""
    sent = [message("orders", "key") for _ in range(3)]
    async with RabbitMQBroker.from_url(over_tls(rabbitmq)) as broker:
        broker.declare("packing", ["orders"])
        await Publishing(broker, sent).confirmed()
        assert sum(each.ready for each in await broker.depths(["orders"], "packing")) == 3
        async with broker.subscribe(["orders"], group="packing") as batches:
            assert [each.message.id for each in await Reader(batches).take(3, ack=True)] == [each.id for each in sent]


async def test_a_server_for_whom_nobody_vouches_is_told_nothing(rabbitmq, own_rabbitmq, tmp_path):
    """H26, H151, H436: certainly not sent; the reason is the certificate."""
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    async with RabbitMQBroker.from_url(over_tls(rabbitmq, stranger)) as broker:
        publishing = Publishing(broker, [message("orders")])
        assert await publishing.verdicts() == [Verdict.UNAVAILABLE]
        with pytest.raises(BrokerUnavailable, match="certificate verify failed"):
            async with broker.subscribe(["orders"], group="packing"):
                pass
        (finding,) = await broker.check(["orders"])
        assert "certificate verify failed" in finding.words
    assert rabbitmq.queues() == {}


async def test_with_a_wrong_password_nothing_is_sent_and_nothing_shown(rabbitmq, own_rabbitmq, caplog):
    """H26, H151: certainly not sent, so no attempt is burned; no text has a password, neither ours nor the log's."""
    caplog.set_level(logging.DEBUG)
    wrong, of_key = "wr0ng-s3cret", "k3y-s3cret"
    async with RabbitMQBroker.from_url(over_tls(rabbitmq, password=wrong, options={"password": of_key})) as broker:
        publishing = Publishing(broker, [message("orders")])
        assert await publishing.verdicts() == [Verdict.UNAVAILABLE]
        with pytest.raises(BrokerUnavailable, match="403") as refused:
            async with broker.subscribe(["orders"], group="packing"):
                pass
        (finding,) = await broker.check(["orders"])
    texts = [repr(broker), repr(broker.settings), broker.settings.shown, str(refused.value), repr(finding), caplog.text]
    texts += [str(outcome.error) for outcome in publishing.outcomes.values()]
    assert not [text for text in texts if wrong in text or of_key in text]


@pytest.mark.parametrize(
    "options", ["{'ca_certs': '/nowhere.pem'}", "{'password': 's3cret'", "[1]", "{'protocol': 2}"]
)  # PROTOCOL_TLS
async def test_options_of_tls_that_do_not_protect_are_refused_at_start(options):
    """H436: a missing file, a text that is none, and a protocol with which nobody's certificate is looked at."""
    warnings.simplefilter("ignore", DeprecationWarning)
    broker = RabbitMQBroker.from_url(f"amqps://rabbit-1/shop?ssl_options={quote(options)}")
    with pytest.raises((ConfigurationError, UnsafeSettings)) as refused:
        await broker.__aenter__()
    assert "s3cret" not in f"{refused.value!r} {broker!r}"


async def lost(reader):
    """A member notices by itself, and what it was given until then is not acknowledged."""
    try:
        while True:
            await reader.next()
    except BrokerUnavailable:
        return


async def comes(broker, wanted):
    """All of it, to members that join until they can; gives each where it came first."""
    came = {}
    while not came.keys() >= set(wanted):
        with suppress(BrokerUnavailable):
            async with broker.subscribe(["orders"], group="packing") as batches:
                reader = Reader(batches)
                while not came.keys() >= set(wanted):
                    (delivery,) = await reader.take(1, ack=True)
                    came[delivery.message.id] = None
    return list(came)


async def test_a_server_that_is_paused_for_longer_than_the_heartbeat_loses_nothing(rabbitmq, own_rabbitmq, monkeypatch):
    """H437: under way is unknown in time, then the broker is away; members notice, and join when it goes on."""
    monkeypatch.setattr(link, "_ANSWER_WITHIN", 3.0)
    sent = [message("orders", "a") for _ in range(5)]
    under_way = message("orders", "b")
    async with RabbitMQBroker.from_url(rabbitmq.url, deadline=timedelta(seconds=1), partitions=2) as broker:
        broker.declare("packing", ["orders"])
        await until(lambda: confirmed(broker, sent[:1]), "the first to be confirmed")
        async with broker.subscribe(["orders"], group="packing") as batches:
            reader = Reader(batches)
            await reader.take(1, ack=False)
            own_rabbitmq.pause()
            assert await Publishing(broker, [under_way]).verdicts() == [Verdict.UNKNOWN]
            assert await Publishing(broker, [under_way]).verdicts() == [Verdict.UNAVAILABLE]
            await lost(reader)
        own_rabbitmq.resume()
        for each in (under_way, *sent[1:]):
            await until(lambda each=each: confirmed(broker, [each]), "the others to be confirmed")
        came = await comes(broker, {each.id for each in (under_way, *sent)})
        assert [each for each in came if each != under_way.id] == [each.id for each in sent]


@pytest.mark.parametrize("directions", [(), (TO_CLIENT,), (TO_SERVER,)], ids=["both", "answers", "requests"])
async def test_a_network_that_passes_nothing_is_noticed_and_loses_nothing(rabbitmq, proxied, directions, monkeypatch):
    """H437: half-open, in one direction or both: noticed by members and publishers; after it all comes."""
    monkeypatch.setattr(link, "_ANSWER_WITHIN", 3.0)
    proxy = proxied(rabbitmq.server.port)
    url = rabbitmq.url.replace(f":{rabbitmq.server.port}/", f":{proxy.port}/")
    first, under_way = message("orders", "key"), message("orders", "key")
    async with RabbitMQBroker.from_url(url, deadline=timedelta(seconds=1), partitions=1) as broker:
        broker.declare("packing", ["orders"])
        await until(lambda: confirmed(broker, [first]), "the first to be confirmed")
        async with broker.subscribe(["orders"], group="packing") as batches:
            reader = Reader(batches)
            await reader.take(1, ack=False)
            proxy.silence(*directions)
            assert await Publishing(broker, [under_way]).verdicts() == [Verdict.UNKNOWN]
            await lost(reader)
        proxy.heal()
        await until(lambda: confirmed(broker, [under_way]), "the broker to be back")
        assert await comes(broker, [first.id, under_way.id]) == [first.id, under_way.id]


async def confirmed(broker, messages):
    return set(await Publishing(broker, messages).verdicts()) == {Verdict.CONFIRMED}
