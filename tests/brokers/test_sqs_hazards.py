"""What goes wrong on SNS and SQS, each on the emulator that shows it."""

import asyncio
import json
import threading
from contextlib import suppress
from datetime import timedelta

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, EndpointConnectionError
from hypothesis import given
from hypothesis import strategies as st

from rig.servers.moto import Moto
from txpatterns import App, Event
from txpatterns.admin.audit import Deed
from txpatterns.admin.deadletters import Reader as Handlers
from txpatterns.admin.deadletters import find_letters, retry
from txpatterns.brokers.sqs import SqsBroker
from txpatterns.brokers.sqs.settings import SqsSettings
from txpatterns.brokers.sqs.topology import aws_name
from txpatterns.brokers.sqs.wire import to_entry, to_message
from txpatterns.deadletters.store import Death, bury
from txpatterns.errors import BrokerUnavailable, ConfigurationError
from txpatterns.findings import Severity
from txpatterns.messages import Message, new_id
from txpatterns.testing.conformance import Publishing, Reader, message
from txpatterns.transport import REPLAY, Verdict


def queue_alone(server, **options):
    return SqsBroker.from_url(f"sqs://eu-central-1?fan_out=false&poll=1&endpoint={server.url}", **options)


def topics_at(server):
    return SqsBroker.from_url(f"sqs://eu-central-1?poll=1&receivers=1&endpoint={server.url}")


def topic():
    return f"hazard-{new_id()}"


async def test_crashes_bury_no_healthy_message(elasticmq):
    """H410, P1: a message that was given out fifty times and never acknowledged is still there."""
    sent = message(topic(), "key")
    async with queue_alone(elasticmq) as broker:
        await Publishing(broker, [sent]).confirmed()
        for _ in range(50):
            async with broker.subscribe([sent.topic], group="g") as batches:
                (held,) = await Reader(batches).take(1, ack=False)
                assert held.message == sent
        assert held.redelivered


async def test_what_is_held_longer_than_its_visibility_stays_ours(elasticmq):
    """H411, P3: it is put off again and again, and no other member is given it or what follows."""
    sent = [message(topic(), "key")]
    sent.append(sent[0]._replace(id=new_id()))
    async with queue_alone(elasticmq, **seconds(visibility=6)) as broker:
        await Publishing(broker, sent).confirmed()
        client, extended = broker._calls.sqs, asyncio.Event()
        loop, counted = asyncio.get_running_loop(), []
        change = client.change_message_visibility_batch

        def counting(**request):
            answer = change(**request)
            counted.append(answer)
            if len(counted) == 4:  # at a third each: more than the visibility has passed
                loop.call_soon_threadsafe(extended.set)
            return answer

        client.change_message_visibility_batch = counting
        async with (
            broker.subscribe([sent[0].topic], group="g") as mine,
            broker.subscribe([sent[0].topic], group="g") as theirs,
        ):
            first = asyncio.create_task(Reader(mine).take(2, ack=False))
            second = asyncio.create_task(Reader(theirs).take(2, ack=False))
            done, waiting = await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
            await extended.wait()
            assert not next(iter(waiting)).done()
            assert [each.message for each in done.pop().result()] == sent
            for task in waiting:
                task.cancel()


async def test_what_cannot_be_held_is_given_up_before_others_have_it(elasticmq):
    """H411, P3: extensions fail, so the subscription ends while what it holds is still its own."""
    sent = message(topic(), "key")
    async with queue_alone(elasticmq, **seconds(visibility=10)) as broker:
        await Publishing(broker, [sent]).confirmed()

        def refused(**request):
            raise EndpointConnectionError(endpoint_url="http://sqs")

        broker._calls.sqs.change_message_visibility_batch = refused
        async with broker.subscribe([sent.topic], group="g") as batches:
            reader = Reader(batches)
            (held,) = await reader.take(1, ack=False)
            with pytest.raises(BrokerUnavailable):
                await reader.next()
            assert held.until > asyncio.get_running_loop().time()


async def test_a_replay_comes_although_its_id_was_seen_lately(elasticmq, tmp_path):
    """H412: a dead letter that is sent again within five minutes is delivered, each time; a mere copy is not."""
    name = topic()

    class Happened(Event, topic=name, type="happened", key="key"):
        key: str

    broker = queue_alone(elasticmq)
    app = App("replays", database=f"sqlite+aiosqlite:///{tmp_path}/r.db", broker=broker)
    async with app.running(consume=False), broker.subscribe([name], group="replays") as batches:
        reader = Reader(batches)
        async with app.session() as session, session.begin():
            app.outbox.add(session, Happened(key="a"))
        (first,) = await reader.take(1, ack=True)
        stored = first.message
        for number in (1, 2):
            await app.drained()  # what has come may still be in the outbox: it is told after it is out
            await app.database.transact(lambda c, stored=stored: put_away(app, c, stored))
            (letter,) = await app.database.read(find_letters)
            await retry(app.database, Handlers(None, app.registry), letter.id, Deed("ann", "mended"))
            (again,) = await reader.take(1, ack=True)
            assert again.message == first.message
            stored = stored._replace(headers={**stored.headers, REPLAY: str(number)})
        copy = Message(new_id(), name, "happened", b"{}", "a")
        await Publishing(broker, [first.message]).confirmed()
        await Publishing(broker, [copy]).confirmed()
        assert await reader.until([copy.id]) == [copy.id]
    await app.close()


def put_away(app, connection, stored):
    bury(connection, [Death(stored, 1, "rejected", "as a test wants it", origin=1)], now=app.database.now())


@pytest.mark.parametrize("code", ["ThrottlingException", "AWS.SimpleQueueService.RequestThrottled", "KmsThrottled"])
async def test_throttling_burns_no_attempt(elasticmq, code):
    """H413: what was refused because it came too fast was certainly not stored, and is no fault of the message."""
    name = topic()
    sent = [message(name, f"key-{number}") for number in range(20)]
    async with queue_alone(elasticmq) as broker:
        await Publishing(broker, [message(name)]).confirmed()
        client = broker._calls.sqs
        send, requests = client.send_message_batch, []

        def half(**request):
            requests.append(request)
            if len(requests) == 1:
                raise ClientError({"Error": {"Code": code, "Message": "Rate exceeded"}}, "SendMessageBatch")
            answer = send(**{**request, "Entries": request["Entries"][1:]})
            return {**answer, "Failed": [{"Id": "0", "SenderFault": True, "Code": code, "Message": "too fast"}]}

        client.send_message_batch = half
        verdicts = await Publishing(broker, sent).verdicts()
    assert sorted(verdicts) == [Verdict.CONFIRMED] * 9 + [Verdict.UNAVAILABLE] * 11


KEYS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode(errors="surrogatepass")), KEYS)
def test_every_body_and_key_has_a_form_that_aws_takes(payload, key):
    """H414, P1: what is written is allowed, and what is read is what was written."""
    sent = Message(new_id(), "t", "type", payload, key, {"note": key or "none"})
    entry = to_entry(sent)
    assert entry.body
    assert "\r" not in entry.body
    assert all(c in "\t\n" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" for c in entry.body)
    for id_ in (entry.group, entry.deduplication):
        assert 1 <= len(id_) <= 128
        assert id_.isascii()
        assert id_.isprintable()
        assert " " not in id_
    native = {"Body": entry.body, "MessageAttributes": {"txp": {"StringValue": entry.attribute}}, "MessageId": "m"}
    assert to_message("t", native) == sent


@pytest.mark.parametrize("where", ["elasticmq", "moto"])
async def test_odd_contents_come_as_they_were_sent(request, where):
    """H414, P1: control characters, a carriage return, no character at all, and the last ones of each plane."""
    server, name = request.getfixturevalue(where), topic()
    texts = ["\r\n", "\x00\x0b", "\ufffe", "", "=", "\U0001f4a9\U0010fffd", " &<>\"' ", '{"Type": "Notification"}']
    sent = [message(name, f"k {number}\t\u6771", payload=text.encode()) for number, text in enumerate(texts)]
    broker = topics_at(server) if isinstance(server, Moto) else queue_alone(server)
    async with broker, broker.subscribe([name], group="g") as batches:
        await Publishing(broker, sent).confirmed()
        came = {each.message.id: each.message for each in await Reader(batches).take(len(sent), ack=True)}
    assert came == {each.id: each for each in sent}


def test_messages_of_others_are_understood():
    """H414: plain text, an envelope of SNS, and attributes that only look like ours."""
    plain = to_message("t", {"Body": "hello", "MessageId": "m1", "Attributes": {"MessageGroupId": "g"}})
    assert (plain.id, plain.key, plain.payload) == ("t/m1", "g", b"hello")
    inside = {"Type": "Notification", "TopicArn": "arn:x", "Message": "hello", "MessageId": "m2"}
    assert to_message("t", {"Body": json.dumps(inside), "MessageId": "m3"}).id == "t/m2"
    odd = {"txp": {"StringValue": "[1]"}, "blob": {"BinaryValue": b"\xff"}}
    assert to_message("t", {"Body": "hello", "MessageId": "m4", "MessageAttributes": odd}).payload == b"hello"


async def test_what_was_changed_by_hand_is_found(moto):
    """H415: raw delivery, a filter, deduplication by content, few receives, and a queue that is not subscribed."""
    name, group = topic(), "billing"
    broker = topics_at(moto)
    broker.declare(group, [name])
    async with broker:
        assert await broker.check([name], group) == []
        sqs, sns = moto.client("sqs"), moto.client("sns")
        url = sqs.get_queue_url(QueueName=aws_name(f"{group}-{name}", ordered=True))["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 5})
        changed = {"RedrivePolicy": redrive, "ContentBasedDeduplication": "true", "MessageRetentionPeriod": "3600"}
        sqs.set_queue_attributes(QueueUrl=url, Attributes=changed)
        found = next(each for each in sns.list_subscriptions()["Subscriptions"] if each["Endpoint"] == arn)
        subscription = {"SubscriptionArn": found["SubscriptionArn"]}
        sns.set_subscription_attributes(**subscription, AttributeName="RawMessageDelivery", AttributeValue="false")
        sns.set_subscription_attributes(**subscription, AttributeName="FilterPolicy", AttributeValue='{"a": ["b"]}')
        findings = await broker.check([name], group)
        said = " ".join(str(each) for each in findings)
        for word in ("same content", "5 receives", "RawMessageDelivery", "FilterPolicy", "MessageRetentionPeriod"):
            assert word in said
        assert all(each.fix for each in findings)
        sns.unsubscribe(**subscription)
        errors = [each.words for each in await broker.check([name], group) if each.severity is Severity.ERROR]
        assert any("not subscribed" in words for words in errors)


async def test_a_server_that_is_away_is_a_finding():
    """H415: a check raises nothing, and what was not sent is not unknown."""
    broker = SqsBroker(SqsSettings("eu-central-1", endpoint="http://127.0.0.1:9"))
    async with broker:
        (finding,) = await broker.check(["orders"], "billing")
        assert finding.severity is Severity.ERROR
        assert await Publishing(broker, [message("orders")]).verdicts() == [Verdict.UNAVAILABLE]
        with pytest.raises(BrokerUnavailable):
            async with broker.subscribe(["orders"], group="billing"):
                pytest.fail("nobody is there")


async def test_depths_tell_what_waits_and_what_is_held(elasticmq):
    """H415: what `txp queues` shows is what SQS counts."""
    name = topic()
    async with queue_alone(elasticmq) as broker:
        assert await broker.depths([name], "g") == []
        await Publishing(broker, [message(name, str(number)) for number in range(3)]).confirmed()
        (depth,) = await broker.depths([name], "g")
        assert (depth.ready, depth.in_flight, depth.queue) == (3, 0, f"{name}.fifo")


@pytest.mark.parametrize(("where", "remembers", "strict"), [("elasticmq", True, True), ("moto", False, False)])
def test_what_an_emulator_does_otherwise_than_aws(request, where, remembers, strict):
    """H416: AWS remembers ids of deleted messages and refuses control characters; what an emulator does is known."""
    server = request.getfixturevalue(where)
    sqs = server.client("sqs") if isinstance(server, Moto) else server.client()
    url = sqs.create_queue(QueueName=f"{topic()}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    ids = {"QueueUrl": url, "MessageGroupId": "g", "MessageDeduplicationId": "d"}
    sqs.send_message(**ids, MessageBody="first")
    (held,) = sqs.receive_message(QueueUrl=url)["Messages"]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=held["ReceiptHandle"])
    sqs.send_message(**ids, MessageBody="copy")
    assert (not sqs.receive_message(QueueUrl=url).get("Messages")) is remembers
    try:
        sqs.send_message(**{**ids, "MessageDeduplicationId": "e"}, MessageBody="\x00")
        refused = False
    except ClientError:
        refused = True
    assert refused is strict


@pytest.mark.parametrize(
    "url",
    ["sqs://", "sqs://key:s3cret@eu-central-1", "sqs://eu?poll=s3cret", "sqs://eu?fan_out=s3cret", "sqs://eu?s3cret=1"],
)
def test_a_wrong_url_is_refused(url):
    """H151: and its values are not repeated."""
    with pytest.raises(ConfigurationError) as raised:
        SqsBroker.from_url(url)
    if "?s3cret" not in url:
        assert "s3cret" not in str(raised.value)


def seconds(**options):
    return {name: timedelta(seconds=value) for name, value in options.items()}


async def test_nobody_waits_for_a_request_that_waits_for_messages(elasticmq):
    """H417: leaving ends while requests are open, no thread holds up the process, what comes later is given back."""
    name = topic()
    broker = queue_alone(elasticmq)
    async with broker:
        await Publishing(broker, [message(name)]).confirmed()
        client, asked, answer = broker._calls.sqs, threading.Event(), threading.Event()
        receive = client.receive_message

        def waiting(**request):
            asked.set()
            answer.wait()
            return receive(**request)

        client.receive_message = waiting
        async with broker.subscribe([name], group="g"):
            await asyncio.to_thread(asked.wait)
        open_requests = [each for each in threading.enumerate() if each.name == "txp-sqs-receiver"]
        assert open_requests
        assert all(each.daemon for each in open_requests)
        answer.set()
        client.receive_message = receive
        async with broker.subscribe([name], group="g") as batches:
            assert await Reader(batches).take(1, ack=True)


@pytest.mark.parametrize("lost", [1, 3], ids=["asked again", "by the next subscription, too"])
async def test_an_answer_that_was_lost_is_asked_for_again(elasticmq, lost):
    """H439, P7: what it gave comes with the same attempt, long before its visibility ends; then a new one is begun."""
    sent = [message(topic(), "key") for _ in range(2)]
    sent = [each._replace(topic=sent[0].topic) for each in sent]
    async with queue_alone(elasticmq, **seconds(visibility=3600), receivers=1) as broker:
        await Publishing(broker, sent).confirmed()
        attempts = losing(broker, lost, ConnectionClosedError(endpoint_url="http://sqs"))
        came, subscriptions = [], 0
        while not came:
            with suppress(BrokerUnavailable):
                async with broker.subscribe([sent[0].topic], group="g") as batches:
                    subscriptions += 1
                    came = await Reader(batches).take(2, ack=True)
        assert [each.message for each in came] == sent
        assert subscriptions == lost
        assert len(set(attempts[: lost + 1])) == 1
        last = message(sent[0].topic, "key")
        async with broker.subscribe([last.topic], group="g") as batches:
            await Publishing(broker, [last]).confirmed()
            await Reader(batches).take(1, ack=True)
        assert attempts[0] not in attempts[lost + 1 :]


@pytest.mark.parametrize("code", ["InvalidParameterValue", "ThrottlingException"])
async def test_an_attempt_that_cannot_be_had_again_is_given_up(elasticmq, code):
    """H439: SQS refuses it when it was throttled or when its messages were changed; a new one gets what there is."""
    sent = message(topic(), "key")
    async with queue_alone(elasticmq, receivers=1) as broker:
        refusal = {"Error": {"Code": code, "Message": "not valid"}, "ResponseMetadata": {"HTTPStatusCode": 400}}
        errors = [ConnectionClosedError(endpoint_url="http://sqs"), ClientError(refusal, "ReceiveMessage")]
        attempts = losing(broker, 2, *errors)
        async with broker.subscribe([sent.topic], group="g") as batches:
            while len(attempts) < 3:  # noqa: ASYNC110 - threads do it
                await asyncio.sleep(0.05)
            await Publishing(broker, [sent]).confirmed()
            assert [each.message for each in await Reader(batches).take(1, ack=True)] == [sent]
        assert attempts[0] == attempts[1]
        assert len(set(attempts[1:])) == len(attempts[1:])


def losing(broker, count, *errors):
    """Lose what so many requests for messages are answered, and say instead what went wrong; gives their attempts."""
    client, attempts = broker._calls.sqs, []
    receive = client.receive_message

    def received(**request):
        attempts.append(request["ReceiveRequestAttemptId"])
        lost = len(attempts) <= count
        answer = receive(**request)
        if lost:
            raise errors[min(len(attempts), len(errors)) - 1]
        return answer

    client.receive_message = received
    return attempts


async def test_what_is_confirmed_outlives_a_kill(elasticmq, own_elasticmq):
    """P1, H416: started again, the emulator has all that it had confirmed, in an order of its own."""
    sent = [message(topic(), f"key-{number % 20}") for number in range(40)]
    sent = [each._replace(topic=sent[0].topic) for each in sent]
    async with queue_alone(own_elasticmq) as broker:
        await Publishing(broker, sent).confirmed()
        await asyncio.to_thread(own_elasticmq.kill)
        await asyncio.to_thread(own_elasticmq.start)
        async with broker.subscribe([sent[0].topic], group="g") as batches:
            assert set(await Reader(batches).until(each.id for each in sent)) == {each.id for each in sent}


def test_elasticmq_forgets_its_locks_when_it_is_killed(elasticmq, own_elasticmq):
    """H416: so no test asks for the order of a key over a restart of it; AWS keeps its locks by its documents."""
    sqs = own_elasticmq.client()
    url = sqs.create_queue(QueueName=f"{topic()}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    for body in "12":
        sqs.send_message(QueueUrl=url, MessageGroupId="g", MessageDeduplicationId=body, MessageBody=body)
    assert [each["Body"] for each in sqs.receive_message(QueueUrl=url)["Messages"]] == ["1"]
    assert not sqs.receive_message(QueueUrl=url).get("Messages")
    own_elasticmq.kill()
    own_elasticmq.start()
    found = own_elasticmq.client().receive_message(QueueUrl=url)["Messages"]
    assert [each["Body"] for each in found] == ["2"]
