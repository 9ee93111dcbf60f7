"""Amazon SNS and SQS as a broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Self

from txpatterns.brokers.sqs.attempts import Unanswered
from txpatterns.brokers.sqs.calls import Calls
from txpatterns.brokers.sqs.failures import AWAY, unavailable
from txpatterns.brokers.sqs.inspection import Inspection
from txpatterns.brokers.sqs.intake import Intake, SqsDelivery
from txpatterns.brokers.sqs.sender import Sender
from txpatterns.brokers.sqs.settings import SqsSettings, settings_from_url
from txpatterns.brokers.sqs.topology import RETENTION, Topology
from txpatterns.clock import Clock, SystemClock
from txpatterns.findings import Finding
from txpatterns.messages import Message
from txpatterns.runtime.forks import forget_after_fork
from txpatterns.transport import Capabilities, Depth, Outcome


class SqsBroker:
    """Publishes to SNS FIFO topics, and reads from the SQS FIFO queue that each group has for each topic.

    Publishing: requests of ten, eight at a time; AWS answers for each message. A message that is published again
    within five minutes is confirmed and not stored a second time; an operator's replay is.

    Reading: SQS gives nothing more of a key while a member has something of it, so the order of a key holds over
    all members, and a busy key runs at ten messages a round trip. What a member holds stays its own as long as it
    lives and reaches SQS; leaving gives it back at once.

    Without ``ordered`` (standard queues) nothing keeps an order. Belongs to one event loop from being entered until it
    is left. A forked child opens connections of its own.
    """

    def __init__(self, settings: SqsSettings, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.capabilities = Capabilities(
            groups=settings.fan_out,
            max_batch=500,
            max_payload=settings.max_payload,
            deadline=settings.deadline,
            ordered=settings.ordered,
            retains=not settings.fan_out,
            pipelines_keys=False,
            horizon=RETENTION,
        )
        self._calls = Calls(settings)
        self._topology = Topology(settings, self._calls, clock or SystemClock())
        self._sender = Sender(settings, self._calls, self._topology)
        self._inspection = Inspection(settings, self._calls)
        self._unanswered = Unanswered()
        forget_after_fork(self)

    @classmethod
    def from_url(cls, url: str, *, clock: Clock | None = None, **options: object) -> SqsBroker:
        """Make a broker of ``sqs://region?option=value``; options are those of `SqsSettings`.

        Raises:
            ConfigurationError: the URL or an option is not understood, or it has credentials.
        """
        return cls(settings_from_url(url, **options), clock=clock)

    def __repr__(self) -> str:
        return f"SqsBroker({self.settings.region!r})"

    async def __aenter__(self) -> Self:
        """Make what the declared groups need, as far as SNS and SQS can be reached now."""
        self._topology.begin_anew()
        await self._topology.establish()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._calls.close()

    def after_fork(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        self._calls.forget()
        self._topology.begin_anew()
        self._unanswered = Unanswered()

    def declare(self, group: str, topics: Sequence[str]) -> None:
        """Say that a group is going to read topics: its queues are made before anything else is published to them."""
        self._topology.declare(group, topics)

    def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Send messages, in order per key; every id is told, at the latest when the deadline has passed."""
        return self._sender.publish(messages)

    def subscribe(
        self, topics: Sequence[str], *, group: str
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[SqsDelivery]]]:
        """Join a group, which is declared by that if it was not.

        Leaving gives back at once what is not acknowledged, and does not wait for requests that wait for messages.

        Raises:
            BrokerUnavailable: a queue cannot be reached, found or made.
        """
        return self._subscribe(topics, group)

    @asynccontextmanager
    async def _subscribe(
        self, topics: Sequence[str], group: str
    ) -> AsyncIterator[AsyncIterator[Sequence[SqsDelivery]]]:
        try:
            queues = await self._topology.queues(group, topics)
        except AWAY as error:
            raise unavailable(error) from error
        intake = Intake(self._calls, self.settings, queues, self._unanswered)
        keeping = intake.start()
        try:
            yield intake.batches()
        finally:
            keeping.cancel()
            for topic in topics:  # a queue that was deleted is looked for anew
                self._topology.forget(topic)
            await intake.leave()

    async def check(self, topics: Sequence[str], group: str | None = None) -> Sequence[Finding]:
        """Look at topics, and at what a group needs to read them; nothing is made or changed."""
        return await self._inspection.check(topics, group)

    async def depths(self, topics: Sequence[str], group: str) -> Sequence[Depth]:
        """Tell how much waits for a group, as SQS counts it: approximately.

        Raises:
            BrokerUnavailable: SQS does not answer.
        """
        return await self._inspection.depths(topics, group)
