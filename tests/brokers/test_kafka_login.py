"""SASL PLAIN, SCRAM and TLS on a real broker: who has the password reads and writes, nobody sees it."""

import logging
import secrets
from datetime import timedelta
from urllib.parse import quote

import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialDeletion,
    UserScramCredentialUpsertion,
)

from brokers.kafka_tools import eventually, ids_of, stored
from rig.servers.kafka import PASSWORD, USER
from txpatterns import App
from txpatterns.brokers.kafka import KafkaBroker
from txpatterns.errors import BrokerUnavailable
from txpatterns.testing.clock import ManualClock
from txpatterns.testing.conformance import Publishing, Reader, message
from txpatterns.transport import Verdict


def secured(server, password=PASSWORD):
    login = f"{USER}:{quote(password, safe='')}"
    return f"kafka://{login}@127.0.0.1:{server.secured_port}?security.protocol=SASL_PLAINTEXT&sasl.mechanism=PLAIN"


async def test_with_the_password_messages_go_and_come(kafka, own_kafka):
    """P1: user and password of the URL reach producer, consumer and the questions about topics."""
    topic = kafka.create()
    sent = [message(topic, "k") for _ in range(3)]
    async with KafkaBroker.from_url(secured(own_kafka)) as broker:
        await Publishing(broker, sent).confirmed()
        async with broker.subscribe([topic], group="g") as batches:
            assert [d.message for d in await Reader(batches).take(3, ack=True)] == sent
    assert ids_of(stored(kafka.bootstrap, topic)) == [each.id for each in sent]


async def test_with_a_wrong_password_nothing_is_sent_and_nothing_shown(kafka, own_kafka, caplog):
    """H26, H151: certainly not sent, so no attempt is burned; no text has the password, neither ours nor the log's."""
    topic, wrong = kafka.create(), "wr0ng-s3cret"
    caplog.set_level(logging.DEBUG)
    url = secured(own_kafka, wrong)
    async with KafkaBroker.from_url(url) as broker:
        publishing = Publishing(broker, [message(topic)])
        assert await publishing.verdicts() == [Verdict.UNAVAILABLE]
        with pytest.raises(BrokerUnavailable) as refused:
            async with broker.subscribe([topic], group="g"):
                pass
        assert "Invalid username or password" in str(refused.value)
        texts = [repr(broker), repr(broker.settings), str(refused.value), caplog.text]
        texts += [str(outcome.error) for outcome in publishing.outcomes.values()]
    app = App("orders", database="sqlite+aiosqlite:///a.db", broker=url)
    texts += [repr(app), app.broker_name]
    assert not [text for text in texts if wrong in text]
    assert stored(kafka.bootstrap, topic) == []


async def test_a_topic_that_may_not_be_read_keeps_no_other_from_being_read(kafka, own_kafka, caplog):
    """P7, H63: the right to see a topic is not the right to read it; with the right it is read at the next look."""
    open_, closed, clock = kafka.create("open"), kafka.create("closed"), ManualClock()
    may_see = AclBinding(
        ResourceType.TOPIC,
        closed,
        ResourcePatternType.LITERAL,
        f"User:{USER}",
        "*",
        AclOperation.DESCRIBE,
        AclPermissionType.ALLOW,
    )
    admin = own_kafka.admin()
    admin.create_acls([may_see])[may_see].result(120)
    sent = [message(closed, "k"), message(open_, "k")]
    async with KafkaBroker.from_url(kafka.url) as anybody:
        await Publishing(anybody, sent).confirmed()
    async with (
        KafkaBroker.from_url(secured(own_kafka), clock=clock) as broker,
        broker.subscribe([open_, closed], group="g") as batches,
    ):
        reader = Reader(batches)
        assert [d.message for d in await reader.take(1, ack=True)] == sent[1:]
        await eventually(lambda: clock.advance(timedelta(seconds=5)) or [*broker.unread] == [closed])
        rights = AclBindingFilter(
            ResourceType.TOPIC,
            closed,
            ResourcePatternType.LITERAL,
            None,
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        admin.delete_acls([rights])[rights].result(120)
        await eventually(lambda: clock.advance(timedelta(seconds=5)) or not broker.unread)
        assert [d.message for d in await reader.take(1, ack=True)] == sent[:1]
    told = [record.getMessage() for record in caplog.records if closed in record.getMessage()]
    assert len([line for line in told if "may not be read" in line]) == 1


def encrypted(server, name, password, authority):
    login = f"{quote(name, safe='')}:{quote(password, safe='')}"
    options = f"security.protocol=SASL_SSL&sasl.mechanism=SCRAM-SHA-512&ssl.ca.location={quote(str(authority))}"
    return f"kafka://{login}@127.0.0.1:{server.encrypted_port}?{options}"


@pytest.fixture
def scram_user(own_kafka):
    """The name of a user of this test alone, who has `PASSWORD`."""
    name, admin = f"user-{secrets.token_hex(4)}", own_kafka.admin()
    secret = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    upsert = UserScramCredentialUpsertion(name, secret, PASSWORD.encode())
    admin.alter_user_scram_credentials([upsert])[name].result(120)
    yield name
    gone = UserScramCredentialDeletion(name, ScramMechanism.SCRAM_SHA_512)
    admin.alter_user_scram_credentials([gone])[name].result(120)


async def test_messages_go_and_come_encrypted(kafka, own_kafka, scram_user):
    """P1, H151: TLS with a certificate that is checked, and a password that never crosses the wire (SCRAM)."""
    topic = kafka.create()
    sent = [message(topic, "k") for _ in range(3)]
    async with KafkaBroker.from_url(encrypted(own_kafka, scram_user, PASSWORD, own_kafka.authority)) as broker:
        await Publishing(broker, sent).confirmed()
        async with broker.subscribe([topic], group="g") as batches:
            assert [d.message for d in await Reader(batches).take(3, ack=True)] == sent
        assert [each.ready for each in await broker.depths([topic], "nobody") if each.ready] == [3]


async def test_a_server_for_whom_nobody_vouches_is_told_nothing(kafka, own_kafka, scram_user, tmp_path):
    """H26, H151: certainly not sent; the reason is the certificate."""
    topic, stranger = kafka.create(), tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    async with KafkaBroker.from_url(encrypted(own_kafka, scram_user, PASSWORD, stranger)) as broker:
        publishing = Publishing(broker, [message(topic)])
        assert await publishing.verdicts() == [Verdict.UNAVAILABLE]
        (finding,) = await broker.check([topic])
        assert "certificate" in finding.words
    assert stored(kafka.bootstrap, topic) == []
