"""Publishing: requests of ten, several at a time, and an outcome for each message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence

from txpatterns.brokers.sqs.calls import Calls, in_thread
from txpatterns.brokers.sqs.failures import AWAY, outcome_of_entry, outcome_of_request
from txpatterns.brokers.sqs.settings import REQUEST_BYTES, SqsSettings
from txpatterns.brokers.sqs.topology import Topology
from txpatterns.brokers.sqs.wire import Entry, to_entry
from txpatterns.errors import BrokerError, PublishRejected
from txpatterns.messages import Message
from txpatterns.transport import CONFIRMED, Outcome, Verdict

Told = dict[str, Outcome]

_TEN = 10
_AT_A_TIME = 8


class Sender:
    """Publishes for one broker. A key has one message under way, so nothing can overtake another."""

    def __init__(self, settings: SqsSettings, calls: Calls, topology: Topology) -> None:
        self._settings = settings
        self._calls = calls
        self._topology = topology

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Send messages in order per key, and tell outcomes as they come; what is untold at the deadline is unknown."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.deadline.total_seconds()
        stopped: dict[tuple[str, str], Outcome] = {}
        waiting: Sequence[Message] = messages
        while waiting:
            wave, waiting, told = _first_of_keys(waiting, stopped)
            entries = self._sendable(wave, await self._refused(wave, deadline - loop.time()), told)
            if told:
                yield _noted(told, messages, stopped)
            async for some in self._send_all(entries, deadline):
                yield _noted(some, messages, stopped)

    async def _refused(self, messages: Iterable[Message], within: float) -> Mapping[str, Outcome]:
        topics = list(dict.fromkeys(message.topic for message in messages))
        try:
            async with asyncio.timeout(within):
                return await self._topology.refused(topics)
        except TimeoutError:
            late = Outcome(Verdict.UNAVAILABLE, BrokerError("SNS or SQS did not say in time where the topics are."))
            return dict.fromkeys(topics, late)

    def _sendable(self, messages: Iterable[Message], refused: Mapping[str, Outcome], told: Told) -> list[Entry]:
        entries = []
        limit = self._settings.max_payload
        for message in messages:
            if message.topic in refused:
                told[message.id] = refused[message.topic]
                continue
            entry = to_entry(message)
            if message.size > limit:
                told[message.id] = _rejected(f"The message has {message.size} bytes, {limit} are allowed.")
            elif not entry.fits:
                told[message.id] = _rejected(
                    f"Encoded the message has {entry.size} bytes, {REQUEST_BYTES} are allowed."
                )
            else:
                entries.append(entry)
        return entries

    async def _send_all(self, entries: Iterable[Entry], deadline: float) -> AsyncIterator[Told]:
        turn = asyncio.Semaphore(_AT_A_TIME)
        tasks = {asyncio.create_task(self._send(turn, request)): request for request in _requests(entries)}
        try:
            while tasks:
                left = deadline - asyncio.get_running_loop().time()
                done, _ = await asyncio.wait(tasks, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    tasks.pop(task)
                    yield task.result()
                if not done:  # the deadline; what is in a thread goes its way, and the rest is not sent any more
                    late = Outcome(Verdict.UNKNOWN, BrokerError("SNS or SQS did not answer in time."))
                    yield {entry.message.id: late for request in tasks.values() for entry in request}
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, turn: asyncio.Semaphore, request: Sequence[Entry]) -> Told:
        topic = request[0].message.topic
        async with turn:
            try:
                answer = await in_thread(lambda: self._call(self._topology.target(topic), request))
            except AWAY as error:
                outcome = outcome_of_request(error, alone=len(request) == 1)
                told = {entry.message.id: outcome for entry in request}
            else:
                told = _read(answer, request)
        if any(outcome.verdict is Verdict.POSTPONED for outcome in told.values()):
            self._topology.forget(topic)
        return told

    def _call(self, target: str, request: Sequence[Entry]) -> Mapping[str, list[dict[str, object]]]:
        fan_out, ordered = self._settings.fan_out, self._settings.ordered
        body = "Message" if fan_out else "MessageBody"
        entries = [entry.as_request(number, body=body, ordered=ordered) for number, entry in enumerate(request)]
        answer: Mapping[str, list[dict[str, object]]]
        if fan_out:
            answer = self._calls.sns.publish_batch(TopicArn=target, PublishBatchRequestEntries=entries)
        else:
            answer = self._calls.sqs.send_message_batch(QueueUrl=target, Entries=entries)
        return answer


def _first_of_keys(
    messages: Sequence[Message], stopped: Mapping[tuple[str, str], Outcome]
) -> tuple[list[Message], list[Message], Told]:
    """Divide messages into those to send now, those behind them, and those whose key has failed."""
    now: dict[tuple[str, str], Message] = {}
    later, told = [], Told()
    for message in messages:
        lane = _lane(message)
        if lane in stopped:
            told[message.id] = stopped[lane]
        elif lane in now:
            later.append(message)
        else:
            now[lane] = message
    return list(now.values()), later, told


def _noted(told: Told, messages: Sequence[Message], stopped: dict[tuple[str, str], Outcome]) -> Told:
    """Note the keys that must not go on: what follows was not sent, but whether it may be is not known yet."""
    for message in messages:
        outcome = told.get(message.id)
        if outcome is None or outcome.verdict is Verdict.CONFIRMED:
            continue
        same = outcome.verdict in (Verdict.POSTPONED, Verdict.UNAVAILABLE)
        behind = outcome if same else Outcome(Verdict.UNKNOWN, BrokerError("An earlier message of its key failed."))
        stopped.setdefault(_lane(message), behind)
    return told


def _lane(message: Message) -> tuple[str, str]:
    return (message.topic, f"id {message.id}" if message.key is None else f"key {message.key}")


def _requests(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Divide entries into requests of one topic: ten at most, and not more bytes than AWS takes."""
    open_: dict[str, tuple[list[Entry], int]] = {}
    for entry in entries:
        topic = entry.message.topic
        request, size = open_.get(topic, ([], 0))
        if request and (len(request) == _TEN or size + entry.size > REQUEST_BYTES):
            yield request
            request, size = [], 0
        open_[topic] = ([*request, entry], size + entry.size)
    yield from (request for request, _ in open_.values())


def _read(answer: Mapping[str, list[dict[str, object]]], request: Sequence[Entry]) -> Told:
    """Read an answer entry by entry; what it does not tell of is unknown."""
    silent = Outcome(Verdict.UNKNOWN, BrokerError("The answer did not tell of it."))
    told = {entry.message.id: silent for entry in request}
    for each in answer.get("Successful", ()):
        told[request[int(str(each["Id"]))].message.id] = CONFIRMED
    for each in answer.get("Failed", ()):
        told[request[int(str(each["Id"]))].message.id] = outcome_of_entry(each)
    return told


def _rejected(reason: str) -> Outcome:
    return Outcome(Verdict.REJECTED, PublishRejected(reason))
