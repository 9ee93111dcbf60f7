"""Publishing to Kafka: batches in order, an outcome for each message."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import nullcontext

from confluent_kafka import KafkaError, KafkaException

from txpatterns.brokers.kafka.channel import Batch, Channel
from txpatterns.brokers.kafka.failures import PERMANENT, describe, error_of
from txpatterns.brokers.kafka.settings import KafkaSettings
from txpatterns.brokers.kafka.topics import Topics
from txpatterns.clock import Clock
from txpatterns.errors import BrokerError, BrokerUnavailable, PublishRejected
from txpatterns.messages import Message
from txpatterns.transport import Outcome, Verdict

_FEW = 16
_ASIDE, _IDLE = 8, 1
"""Publications under way at once on channels of their own, and how many such channels are kept for the next."""
_TELL_AFTER = 0.05


_DOUBT = Outcome(Verdict.UNKNOWN, BrokerError("An earlier message of its key was refused."))


class KafkaPublisher:
    """Publishes over one channel, and opens a new one when it is finished.

    A failure of one message ends all that is under way on its channel. So the messages of a topic that has failed are
    published on a channel of their own, when they come by themselves, until they are confirmed.
    """

    def __init__(self, settings: KafkaSettings, topics: Topics, clock: Clock) -> None:
        self._settings = settings
        self._topics = topics
        self._clock = clock
        self._suspects: set[str] = set()
        self._begin_anew()

    def close(self) -> None:
        """End the channels; what is open on them is unknown."""
        for channel in self._channels:
            channel.finish(BrokerError("The Kafka broker was closed."))
        self._begin_anew()

    def after_fork(self) -> None:
        """Leave the channels to the parent; the child opens its own."""
        for channel in self._channels:
            channel.abandon()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._channel: Channel | None = None
        self._aside: list[Channel] = []
        """Channels for topics that have failed, each for one publication at a time."""
        self._idle: list[Channel] = []
        self._turn = asyncio.Lock()  # the next use may be in another event loop

    @property
    def _channels(self) -> list[Channel]:
        return [*self._aside, *([] if self._channel is None else [self._channel])]

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Send messages in order, and tell outcomes as they come, many at a time."""
        deadline = self._clock.monotonic() + self._settings.deadline.total_seconds()
        batch = Batch(messages, deadline)
        aside = self._belongs_aside(messages)
        channel: Channel | None = None
        try:
            async with nullcontext() if aside else self._turn:
                # Two publications on one channel do not mix: each hands all its messages over in its turn.
                refused = await self._refused(messages, None if aside else self._usable())
                if len(refused) == len(messages):
                    batch.open.clear()
                    batch.told.update(refused)
                else:
                    channel = self._take_aside() if aside else self._usable()
                    channel.open(batch)
                    await self._send(channel, batch, messages, refused)
            async for told in self._outcomes(channel, batch):
                yield told
        finally:
            if channel is not None:
                self._judge(channel, batch)
                channel.close(batch)

    def _belongs_aside(self, messages: Sequence[Message]) -> bool:
        if not self._suspects or len(self._aside) - len(self._idle) >= _ASIDE:
            return False
        return messages[0].topic in self._suspects and len({message.topic for message in messages}) == 1

    def _take_aside(self) -> Channel:
        while self._idle:
            kept = self._idle.pop()
            if not kept.finished:
                return kept
            self._aside.remove(kept)
        made = Channel(self._settings.producer_config(), self._clock)
        self._aside.append(made)
        return made

    def _judge(self, channel: Channel, batch: Batch) -> None:
        """Learn from the end of a publication which topics are to be kept apart."""
        self._suspects |= channel.blamed
        if channel.finished:
            self._topics.doubt()  # ask before the next use of any
        if channel not in self._aside:
            return
        if batch.open:  # given up, with messages in the driver's queue
            channel.finish(BrokerError("Nobody waits for it any more."))
        elif batch.all_stored:
            self._suspects.discard(batch.messages[0].topic)
        if not channel.finished and len(self._idle) < _IDLE:
            self._idle.append(channel)
        else:
            channel.finish(BrokerError("Nothing is to be published by itself."))
            self._aside.remove(channel)

    async def _refused(self, messages: Sequence[Message], channel: Channel | None) -> dict[str, Outcome]:
        """Ask about topics that we are not sure of, and give what must not be sent at all."""
        if channel is not None:
            channel.look()
            if channel.suspicious:
                channel.suspicious = False
                self._topics.doubt()  # ask first: whoever gets no answer knows that nothing was sent
        topics = dict.fromkeys([message.topic for message in messages])
        try:
            unusable = await self._topics.check(topics) if self._topics.unsure(topics) else {}
        except KafkaException as raised:
            reason = BrokerUnavailable(f"Kafka does not answer. {self._settings.mask(describe(error_of(raised)))}")
            unavailable = Outcome(Verdict.UNAVAILABLE, reason)
            return dict.fromkeys((message.id for message in messages), unavailable)
        unusable |= self._topics.standing(topics)
        if not unusable:
            return {}
        self._suspects |= unusable.keys()
        reasons = {name: _of_topic(name, error) for name, error in unusable.items()}
        return {message.id: reasons[message.topic] for message in messages if message.topic in reasons}

    def _usable(self) -> Channel:
        if self._channel is None or self._channel.finished:
            self._channel = Channel(self._settings.producer_config(), self._clock)
            # It connects while we ask. Handed messages before it has, the driver waits half a second for its id.
            self._topics.doubt()
        return self._channel

    async def _send(
        self, channel: Channel, batch: Batch, messages: Sequence[Message], refused: Mapping[str, Outcome]
    ) -> None:
        stopped = _Stopped(batch)
        todo = deque(self._sendable(messages, refused, stopped))
        while todo and not channel.finished:  # finished, everything that is open was told already
            try:
                channel.send(batch, todo)
            except BufferError:  # the driver's queue is full: wait for room
                await channel.news()
            except KafkaException as raised:
                error = error_of(raised)
                if error.code() in PERMANENT:  # not even taken, so it is this very message
                    todo = stopped.without_first(todo, f"Kafka's client refused it. {describe(error)}")
                else:
                    channel.finish(BrokerError(f"Kafka's producer is finished. {describe(error)}"), error)
            except (TypeError, ValueError) as error:  # half of a surrogate pair has no bytes
                todo = stopped.without_first(todo, f"Kafka cannot carry it: {type(error).__name__}.")

    def _sendable(
        self, messages: Sequence[Message], refused: Mapping[str, Outcome], stopped: _Stopped
    ) -> Sequence[Message]:
        limit = self._settings.max_payload
        half = limit // 2
        # Adding up headers costs as much as sending; the driver refuses what they alone make too large.
        large = {m.id for m in messages if len(m.payload) > half or len(m.headers) > _FEW}
        if not (large or refused):
            return messages
        sendable = []
        for message in messages:
            if message.id in refused:
                stopped.at(message, refused[message.id])
            elif message.id in large and message.size > limit:
                stopped.at(message, _rejected(f"The message has {message.size} bytes, {limit} are allowed."))
            elif not stopped.holds_up(message):
                sendable.append(message)
        return sendable

    async def _outcomes(self, channel: Channel | None, batch: Batch) -> AsyncIterator[Mapping[str, Outcome]]:
        since = self._clock.monotonic()
        while batch.open and channel is not None:
            await channel.news()
            if batch.told and self._clock.monotonic() - since > _TELL_AFTER:
                yield batch.take_told()
                since = self._clock.monotonic()
        if batch.told:
            yield batch.take_told()


class _Stopped:
    """The keys of one publication of which a message was refused: what follows is not sent."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._keys: set[tuple[str, str]] = set()

    def at(self, message: Message, outcome: Outcome) -> None:
        """A message is not sent."""
        self._batch.tell(message.id, outcome)
        if message.key is not None:
            self._keys.add((message.topic, message.key))

    def holds_up(self, message: Message) -> bool:
        """Whether an earlier message of its key was refused; then its own outcome is that nobody knows."""
        if message.key is None or (message.topic, message.key) not in self._keys:
            return False
        self._batch.tell(message.id, _DOUBT)
        return True

    def without_first(self, messages: Iterable[Message], reason: str) -> deque[Message]:
        """Refuse the first message, and give the others that may still be sent."""
        first, *others = messages
        self.at(first, _rejected(reason))
        return deque(message for message in others if not self.holds_up(message))


def _of_topic(name: str, error: KafkaError) -> Outcome:
    """Say what follows from a topic that cannot be used: but for an impossible name, that is mended outside."""
    reason = f"The topic {name} cannot be used. {describe(error)}"
    return _rejected(reason) if error.code() in PERMANENT else Outcome(Verdict.POSTPONED, BrokerError(reason))


def _rejected(reason: str) -> Outcome:
    return Outcome(Verdict.REJECTED, PublishRejected(reason))
