"""SNS in front of ElasticMQ, which has none: topics, subscriptions, and a copy of each message into every queue.

What SNS does here is ours, and as little as is needed; what the queues do is ElasticMQ's: order, locks and remembered
ids are those of a real server. Requests to SQS go through as they are, but for a queue's policy, which it does not
know.
"""

from __future__ import annotations

import http.client
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit
from xml.sax.saxutils import escape

from botocore.exceptions import BotoCoreError, ClientError

from rig.servers.elasticmq import ElasticMQ

ARN = "arn:aws:sns:eu-central-1:000000000000:"
Form = dict[str, str]


class Fanout(ThreadingHTTPServer):
    """The topics and what is subscribed to them; each request has a thread."""

    daemon_threads = True
    block_on_close = False  # requests that wait for messages are not waited for
    request_queue_size = 128

    def __init__(self, queues: ElasticMQ) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.queues = queues
        self.subscribed: dict[str, list[str]] = {}
        self._sqs = queues.client()
        self._change = threading.Lock()

    @property
    def url(self) -> str:
        """For SNS and SQS alike: the ``endpoint`` of the broker's URL."""
        return f"http://127.0.0.1:{self.server_port}"

    def create_topic(self, form: Form) -> str:
        arn = ARN + form["Name"]
        with self._change:
            self.subscribed.setdefault(arn, [])
        return f"<TopicArn>{escape(arn)}</TopicArn>"

    def subscribe(self, form: Form) -> str:
        with self._change:
            queues = self.subscribed[form["TopicArn"]]
            if form["Endpoint"] not in queues:
                queues.append(form["Endpoint"])
        return f"<SubscriptionArn>{escape(_subscription(form['TopicArn'], form['Endpoint']))}</SubscriptionArn>"

    def list_subscriptions_by_topic(self, form: Form) -> str:
        topic = form["TopicArn"]
        members = [
            f"<member><SubscriptionArn>{escape(_subscription(topic, queue))}</SubscriptionArn>"
            f"<Endpoint>{escape(queue)}</Endpoint></member>"
            for queue in self.subscribed[topic]
        ]
        return f"<Subscriptions>{''.join(members)}</Subscriptions>"

    def publish_batch(self, form: Form) -> str:
        """Put each message into every queue; what one queue did not take is told as failed, and comes again."""
        done, failed = "", ""
        for number in range(1, 11):
            entry = f"PublishBatchRequestEntries.member.{number}."
            if f"{entry}Id" not in form:
                break
            told = f"<Id>{escape(form[f'{entry}Id'])}</Id>"
            try:
                for queue in self.subscribed[form["TopicArn"]]:
                    self._put(queue, form, entry)
            except (BotoCoreError, ClientError):
                failed += f"<member>{told}<Code>InternalError</Code><SenderFault>false</SenderFault></member>"
            else:
                done += f"<member>{told}<MessageId>{uuid.uuid4()}</MessageId></member>"
        return f"<Successful>{done}</Successful><Failed>{failed}</Failed>"

    def _put(self, queue: str, form: Form, entry: str) -> None:
        attribute = f"{entry}MessageAttributes.entry.1."
        value = {"DataType": form[f"{attribute}Value.DataType"], "StringValue": form[f"{attribute}Value.StringValue"]}
        self._sqs.send_message(
            QueueUrl=f"{self.queues.url}/000000000000/{queue.rpartition(':')[2]}",
            MessageBody=form[f"{entry}Message"],
            MessageGroupId=form[f"{entry}MessageGroupId"],
            MessageDeduplicationId=form[f"{entry}MessageDeduplicationId"],
            MessageAttributes={form[f"{attribute}Name"]: value},
        )


class _Request(BaseHTTPRequestHandler):
    """One request: to SNS, which is answered here, or to SQS, which goes on to ElasticMQ."""

    protocol_version = "HTTP/1.1"
    server: Fanout

    ACTIONS: ClassVar[dict[str, Callable[[Fanout, Form], str]]] = {
        "CreateTopic": Fanout.create_topic,
        "Subscribe": Fanout.subscribe,
        "ListSubscriptionsByTopic": Fanout.list_subscriptions_by_topic,
        "PublishBatch": Fanout.publish_batch,
    }

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        target = self.headers.get("X-Amz-Target")
        if target is None:
            form = dict(parse_qsl(body.decode(), keep_blank_values=True))
            action = form["Action"]
            result = f"<{action}Result>{self.ACTIONS[action](self.server, form)}</{action}Result>"
            told = "<ResponseMetadata><RequestId>0</RequestId></ResponseMetadata>"
            self._answer(200, f"<{action}Response>{result}{told}</{action}Response>".encode(), "text/xml")
            return
        asked = _without_policy(target.rpartition(".")[2], json.loads(body))
        if asked is None:
            self._answer(200, b"{}", "application/x-amz-json-1.0")
            return
        try:
            self._pass_on(json.dumps(asked).encode(), target)
        except (OSError, http.client.HTTPException):
            self._answer(503, b'{"__type":"ServiceUnavailable"}', "application/x-amz-json-1.0")

    def log_message(self, *_: Any) -> None:
        """Nothing: a request is no news."""

    def _pass_on(self, body: bytes, target: str) -> None:
        there = http.client.HTTPConnection(urlsplit(self.server.queues.url).netloc, timeout=60)
        kind = self.headers["Content-Type"]
        headers = {"X-Amz-Target": target, "Content-Type": kind, "Authorization": self.headers["Authorization"]}
        try:
            there.request("POST", "/", body, headers)
            answer = there.getresponse()
            self._answer(answer.status, answer.read(), kind)
        finally:
            there.close()

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True  # the client has given up waiting


def _without_policy(action: str, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What is left to ask ElasticMQ for; None: nothing."""
    if action == "SetQueueAttributes":
        rest = {name: value for name, value in asked["Attributes"].items() if name != "Policy"}
        return {**asked, "Attributes": rest} if rest else None
    if action == "GetQueueAttributes":
        return {**asked, "AttributeNames": [name for name in asked["AttributeNames"] if name != "Policy"]}
    return asked


def _subscription(topic: str, queue: str) -> str:
    return f"{topic}:{queue.rpartition(':')[2]}"


@contextmanager
def fanned_out(queues: ElasticMQ) -> Iterator[Fanout]:
    """SNS before this ElasticMQ, which may be killed and started meanwhile."""
    front = Fanout(queues)
    serving = threading.Thread(target=front.serve_forever, name="sns", daemon=True)
    serving.start()
    try:
        yield front
    finally:
        front.shutdown()
        serving.join()
        front.server_close()
