"""What the SQS adapter costs beside bare boto3, on ElasticMQ: batches of ten, eight requests at a time.

ElasticMQ answers from its own process on this machine, so the figures are those of clients and emulator; on AWS the
network decides. Bare boto3 sends the same bytes to a FIFO queue and looks at nothing but failures.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.adapters import PAYLOAD, batches, everything, publish, read
from benchmarks.harness import Case, Table, compare
from benchmarks.servers import ElasticMQ
from txpatterns.brokers.sqs import SqsBroker
from txpatterns.messages import Message, new_id

BATCH, BATCHES, TEN = 500, 4, 10
PUBLISHED = BATCH * BATCHES
BARE, RECEIVED = "bare boto3: batches of ten, eight at a time", "bare boto3: receive ten, delete ten, two receivers"


async def publishing(server: ElasticMQ, rounds: int) -> Table:
    """Messages per second into a FIFO queue."""
    side = Side(server)
    cases = [Case(BARE, side.sent), Case("publish(500)", side.published, BARE, 0.8)]
    await side.sent()
    return await compare("Publish to SQS (ElasticMQ)", "messages/s", cases, rounds)


async def reading(server: ElasticMQ, rounds: int) -> Table:
    """Messages per second out of a FIFO queue, each deleted."""
    side = Side(server)
    cases = [Case(RECEIVED, side.received), Case("subscribe, acknowledge each", side.subscribed, RECEIVED)]
    return await compare("Read from SQS (ElasticMQ), without a database", "messages/s", cases, rounds)


class Side:
    """Both clients; each run has a queue of its own."""

    def __init__(self, server: ElasticMQ) -> None:
        self.server = server
        self.threads = ThreadPoolExecutor(8)

    async def published(self) -> float:
        topic = f"bench-{new_id()}"
        given = batches(topic, BATCHES, BATCH)
        async with self._broker(topic) as broker:
            started = time.perf_counter()
            await publish(broker, given)
            return PUBLISHED / (time.perf_counter() - started)

    async def subscribed(self) -> float:
        topic = f"bench-{new_id()}"
        async with self._broker(topic) as broker:
            await publish(broker, batches(topic, BATCHES, BATCH))
            return await read(broker, topic, "bench", PUBLISHED)

    async def sent(self) -> float:
        client, queue = self._queue()
        given = self._tens(queue)
        started = time.perf_counter()
        await self._send(client, queue, given)
        return PUBLISHED / (time.perf_counter() - started)

    async def received(self) -> float:
        client, queue = self._queue()
        await self._send(client, queue, self._tens(queue))
        started = time.perf_counter()
        counts = await asyncio.gather(*(self._run(self._drain, client, queue) for _ in range(2)))
        everything(sum(counts), PUBLISHED * len(PAYLOAD))
        return PUBLISHED / (time.perf_counter() - started)

    def _drain(self, client: Any, queue: str) -> int:
        size = 0
        while found := client.receive_message(QueueUrl=queue, MaxNumberOfMessages=TEN).get("Messages", []):
            size += sum(len(each["Body"]) for each in found)
            done = [{"Id": str(n), "ReceiptHandle": each["ReceiptHandle"]} for n, each in enumerate(found)]
            client.delete_message_batch(QueueUrl=queue, Entries=done)
        return size

    async def _send(self, client: Any, queue: str, given: list[list[dict[str, str]]]) -> None:
        def send(entries: list[dict[str, str]]) -> int:
            return len(client.send_message_batch(QueueUrl=queue, Entries=entries)["Successful"])

        everything(sum(await asyncio.gather(*(self._run(send, entries) for entries in given))), PUBLISHED)

    def _run(self, call: Any, *args: Any) -> Any:
        return asyncio.get_running_loop().run_in_executor(self.threads, call, *args)

    def _queue(self) -> tuple[Any, str]:
        client = self.server.client()
        made = client.create_queue(QueueName=f"bench-{new_id()}.fifo", Attributes={"FifoQueue": "true"})
        return client, str(made["QueueUrl"])

    def _tens(self, queue: str) -> list[list[dict[str, str]]]:
        flat = [each for batch in batches(queue, BATCHES, BATCH) for each in batch]
        return [[_entry(each) for each in flat[start : start + TEN]] for start in range(0, PUBLISHED, TEN)]

    def _broker(self, topic: str) -> SqsBroker:
        broker = SqsBroker.from_url("sqs://eu-central-1", fan_out=False, endpoint=self.server.url)
        broker.declare("bench", [topic])
        return broker


def _entry(message: Message) -> dict[str, str]:
    group = message.key or message.id
    body = message.payload.decode()
    return {"Id": message.id, "MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": message.id}
