"""Reading: threads that poll, acknowledgements that are gathered, and a hold on all that is not acknowledged."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from txpatterns.brokers.sqs.attempts import Attempt, Unanswered
from txpatterns.brokers.sqs.calls import Calls, in_thread
from txpatterns.brokers.sqs.failures import AWAY, code_of, describe, is_no_answer, is_throttled, unavailable
from txpatterns.brokers.sqs.settings import SqsSettings
from txpatterns.brokers.sqs.wire import to_message
from txpatterns.errors import BrokerUnavailable
from txpatterns.messages import Message
from txpatterns.runtime.abandoning import tell

logger = logging.getLogger("txpatterns.sqs")

_TEN = 10
_GATHER = 0.05
_WHEN_THROTTLED = 1.0
_LEAVE_WITHIN = 3.0
_ATTEMPT_REFUSED = frozenset(("InvalidParameterValue", "InvalidParameterValueException"))
"""What it was given was changed meanwhile, or it was not one that may be repeated: all is visible to a new one."""


class SqsDelivery:
    """One message, held by this member until it is acknowledged or given back."""

    __slots__ = ("_intake", "message", "receipt", "redelivered", "until", "url")

    def __init__(self, intake: Intake, queue: tuple[str, str], native: Mapping[str, Any], until: float) -> None:
        self._intake = intake
        self.url = queue[1]
        self.until = until
        """When SQS gives it to others, by the loop's time, unless that is put off."""
        self.receipt = str(native["ReceiptHandle"])
        self.redelivered: bool = int((native.get("Attributes") or {}).get("ApproximateReceiveCount", 1)) > 1
        self.message: Message = to_message(queue[0], native)

    async def ack(self) -> None:
        """Have it deleted, together with others. Without effect if the delivery is no longer ours."""
        self._intake.acknowledge(self)


class Intake:
    """One member of a group: what it holds, and until when."""

    def __init__(
        self, calls: Calls, settings: SqsSettings, queues: Sequence[tuple[str, str]], unanswered: Unanswered
    ) -> None:
        self._calls = calls
        self._unanswered = unanswered
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._visibility = int(settings.visibility.total_seconds())
        self._came: deque[list[SqsDelivery]] = deque()
        self._open: dict[str, SqsDelivery] = {}
        self._done: dict[str, list[str]] = {}
        self._deleting: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()
        self._failure: BrokerUnavailable | None = None
        self._left = threading.Event()
        self._hand_over = threading.Lock()
        self._room = threading.Event()
        self._room.set()
        self._threads = [
            threading.Thread(target=self._read, args=(queue,), name="txp-sqs-receiver", daemon=True)
            for queue in queues
            for _ in range(settings.receivers)
        ]

    def start(self) -> asyncio.Task[None]:
        """Begin to read; gives the task that keeps what is held."""
        for thread in self._threads:
            thread.start()
        return asyncio.create_task(self._keep(), name="sqs visibility")

    async def batches(self) -> AsyncIterator[Sequence[SqsDelivery]]:
        """Yield deliveries as they come.

        Raises:
            BrokerUnavailable: SQS does not answer, or what is held could not be kept; subscribe again.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self._came:
                yield self._came.popleft()
            elif self._left.is_set():
                return
            else:
                self._news.clear()
                await self._news.wait()

    async def leave(self) -> None:
        """Stop reading, delete what is acknowledged, and give back at once what is not.

        A request that still waits for messages is left to its thread, which gives back what comes of it.
        """
        with self._hand_over:
            self._left.set()
        self._room.set()
        self._news.set()
        self._flush()
        held, self._open = list(self._open.values()), {}
        self._came.clear()
        back = asyncio.create_task(self._change(held, 0))
        _, late = await asyncio.wait({back, *self._deleting}, timeout=_LEAVE_WITHIN)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        if not back.cancelled() and (error := back.exception()) is not None:
            logger.info("what was not acknowledged comes again when its visibility ends: %s", describe(error))

    # Acknowledging.

    def acknowledge(self, delivery: SqsDelivery) -> None:
        """Delete a message soon; the ones of the next moments go with it."""
        if self._open.pop(delivery.receipt, None) is None:
            return
        self._see_room()
        done = self._done.setdefault(delivery.url, [])
        done.append(delivery.receipt)
        if len(done) == _TEN:
            self._delete(delivery.url)
        elif self._timer is None:
            self._timer = self._loop.call_later(_GATHER, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for url in list(self._done):
            self._delete(url)

    def _delete(self, url: str) -> None:
        task = self._loop.create_task(self._delete_now(url, self._done.pop(url)))
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)

    async def _delete_now(self, url: str, receipts: list[str]) -> None:
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        try:
            answer = await in_thread(lambda: self._calls.sqs.delete_message_batch(QueueUrl=url, Entries=entries))
        except AWAY as error:
            self._fail(unavailable(error))
            return
        for failed in answer.get("Failed", ()):  # it comes again, and the inbox knows it
            logger.info("a message was not deleted, and comes again: %s", failed.get("Code"))

    # Holding.

    async def _keep(self) -> None:
        """Put off the end of visibility of all that is held, all together; give up what could not be kept."""
        while True:
            await asyncio.sleep(self._visibility / 3)  # SQS's own time, which no clock of ours moves
            held, until = list(self._open.values()), self._loop.time() + self._visibility
            try:
                async with asyncio.timeout(self._visibility / 3):
                    lost = await self._change(held, self._visibility)
            except (*AWAY, TimeoutError) as error:
                logger.warning("what is held could not be kept: %s", describe(error))
                self._give_up_late()
                continue
            for delivery in held:
                delivery.until = until
            if any(receipt in self._open for receipt in lost):
                self._fail(BrokerUnavailable("SQS has given a message that was held to another member."))

    def _give_up_late(self) -> None:
        """End the subscription before SQS gives what it holds to others: its work would be done twice at a time."""
        next_try = self._loop.time() + self._visibility / 3
        if any(delivery.until <= next_try for delivery in self._open.values()):
            self._fail(BrokerUnavailable("What was held could not be kept: SQS gives it to others."))

    async def _change(self, held: Sequence[SqsDelivery], seconds: int) -> list[str]:
        """Change the visibility of messages, all of a queue one after the other; gives what was not ours any more."""
        return await in_thread(lambda: self._change_now([(one.url, one.receipt) for one in held], seconds))

    # These run in threads.

    def _change_now(self, held: Iterable[tuple[str, str]], seconds: int) -> list[str]:
        by_queue: dict[str, list[str]] = {}
        for url, receipt in held:
            by_queue.setdefault(url, []).append(receipt)
        lost = []
        for url, receipts in by_queue.items():
            for start in range(0, len(receipts), _TEN):
                part = receipts[start : start + _TEN]
                entries = [
                    {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
                    for number, receipt in enumerate(part)
                ]
                answer = self._calls.sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
                lost += [part[int(failed["Id"])] for failed in answer.get("Failed", ())]
        return lost

    def _read(self, queue: tuple[str, str]) -> None:
        """Receive until told to stop; the body of a thread."""
        while not self._left.is_set():
            self._room.wait()
            if self._left.is_set():
                return
            since, attempt = self._loop.time(), self._unanswered.next(queue[1])
            try:
                found = self._receive(queue[1], attempt)
            except AWAY as error:
                if is_throttled(error):
                    self._left.wait(_WHEN_THROTTLED)
                elif not self._goes_on(queue[1], attempt, error):
                    tell(self._loop, self._fail, unavailable(error))
                    return
                continue
            if found:
                self._take(queue, found, since)

    def _goes_on(self, url: str, attempt: Attempt, error: BaseException) -> bool:
        """Whether to ask again at once. A lost answer is asked for once here, and then by the next subscription."""
        if is_no_answer(error) and self._settings.ordered:
            self._unanswered.note(url, attempt)
            return not attempt.again
        return attempt.again and code_of(error) in _ATTEMPT_REFUSED

    def _receive(self, url: str, attempt: Attempt) -> list[dict[str, Any]]:
        request: dict[str, Any] = {
            "QueueUrl": url,
            "MaxNumberOfMessages": _TEN,
            "WaitTimeSeconds": int(self._settings.poll.total_seconds()),
            "VisibilityTimeout": self._visibility,
            "MessageAttributeNames": ["All"],
            "MessageSystemAttributeNames": ["ApproximateReceiveCount", "MessageGroupId"],
        }
        if self._settings.ordered:
            request["ReceiveRequestAttemptId"] = attempt.id
        return list(self._calls.sqs.receive_message(**request).get("Messages", ()))

    def _take(self, queue: tuple[str, str], found: list[dict[str, Any]], since: float) -> None:
        with self._hand_over:
            if not self._left.is_set():
                tell(self._loop, self._arrived, queue, found, since)
                return
        try:
            self._change_now([(queue[1], native["ReceiptHandle"]) for native in found], 0)
        except AWAY as error:
            logger.info("what came after leaving comes again when its visibility ends: %s", describe(error))

    # And these in the loop, called by them.

    def _arrived(self, queue: tuple[str, str], found: list[dict[str, Any]], since: float) -> None:
        until = since + self._visibility
        batch = [SqsDelivery(self, queue, native, until) for native in found]
        self._open.update((delivery.receipt, delivery) for delivery in batch)
        if self._left.is_set():  # it was on its way when the member left
            late, self._open = list(self._open.values()), {}
            task = self._loop.create_task(self._give_back(late))
            self._deleting.add(task)
            task.add_done_callback(self._deleting.discard)
            return
        self._came.append(batch)
        self._news.set()
        self._see_room()

    async def _give_back(self, held: Sequence[SqsDelivery]) -> None:
        try:
            await self._change(held, 0)
        except AWAY as error:
            logger.info("what came after leaving comes again when its visibility ends: %s", describe(error))

    def _see_room(self) -> None:
        if len(self._open) < self._settings.max_in_flight:
            self._room.set()
        else:
            self._room.clear()

    def _fail(self, error: BrokerUnavailable) -> None:
        self._failure = self._failure or error
        self._news.set()
