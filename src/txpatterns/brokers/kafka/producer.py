"""Publishing to Kafka: batches in order, an outcome for each message."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

from confluent_kafka import KafkaException

from txpatterns.brokers.kafka.channel import Batch, Channel
from txpatterns.brokers.kafka.failures import PERMANENT, describe, error_of
from txpatterns.brokers.kafka.settings import KafkaSettings
from txpatterns.brokers.kafka.topics import Topics
from txpatterns.clock import Clock
from txpatterns.errors import BrokerError, BrokerUnavailable, PublishRejected
from txpatterns.messages import Message
from txpatterns.transport import Outcome, Verdict

_CHUNK = 100
_SHORTEST, _LONGEST = 0.0005, 0.02
_TELL_AFTER = 0.05


class KafkaPublisher:
    """Publishes over one channel at a time, and opens a new one when it is finished."""

    def __init__(self, settings: KafkaSettings, topics: Topics, clock: Clock) -> None:
        self._settings = settings
        self._topics = topics
        self._clock = clock
        self._channel: Channel | None = None
        self._turn = asyncio.Lock()

    def close(self) -> None:
        """End the channel; what is open on it is unknown."""
        if self._channel is not None:
            self._channel.finish(BrokerError("The Kafka broker was closed."))
            self._channel = None

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        """Send messages in order, and tell outcomes as they come, many at a time."""
        deadline = self._clock.monotonic() + self._settings.deadline.total_seconds()
        batch = Batch(messages, deadline)
        channel: Channel | None = None
        try:
            async with self._turn:  # two publications do not mix: each hands all its messages over in its turn
                refused = await self._refused(messages)
                if len(refused) == len(messages):
                    batch.told.update(refused)
                else:
                    channel = self._usable()
                    channel.open(batch)
                    await self._send(channel, batch, messages, refused)
            async for told in self._outcomes(channel, batch):
                yield told
        finally:
            if channel is not None:
                channel.close(batch)

    async def _refused(self, messages: Sequence[Message]) -> dict[str, Outcome]:
        """Ask about topics that we are not sure of, and give what must not be sent at all."""
        if self._channel is not None:
            self._channel.poll()
            if self._channel.suspicious:
                self._channel.suspicious = False
                self._topics.doubt()  # ask first: whoever gets no answer knows that nothing was sent
        names = self._topics.unsure(message.topic for message in messages)
        if not names:
            return {}
        try:
            unusable = await self._topics.check(names)
        except KafkaException as raised:
            reason = BrokerUnavailable(f"Kafka does not answer. {self._settings.mask(describe(error_of(raised)))}")
            unavailable = Outcome(Verdict.UNAVAILABLE, reason)
            return dict.fromkeys((message.id for message in messages), unavailable)
        reasons = {
            name: Outcome(Verdict.REJECTED, PublishRejected(f"The topic {name} cannot be used. {describe(error)}"))
            for name, error in unusable.items()
        }
        return {message.id: reasons[message.topic] for message in messages if message.topic in reasons}

    def _usable(self) -> Channel:
        if self._channel is None or self._channel.finished:
            self._channel = Channel(self._settings.producer_config(), self._clock)
        return self._channel

    async def _send(
        self, channel: Channel, batch: Batch, messages: Sequence[Message], refused: Mapping[str, Outcome]
    ) -> None:
        stopped: set[tuple[str, str | None]] = set()
        doubt = Outcome(Verdict.UNKNOWN, BrokerError("An earlier message of its key was refused."))
        limit = self._settings.max_payload
        for number, message in enumerate(messages, 1):
            outcome = refused.get(message.id)
            if outcome is None and (message.topic, message.key) in stopped:
                outcome = doubt
            elif outcome is None and message.size > limit:
                outcome = _rejected(f"The message has {message.size} bytes, {limit} are allowed.")
            if outcome is None:
                outcome = await self._hand_over(channel, batch, message)
            if outcome is not None:
                batch.told[message.id] = outcome
                if message.key is not None:
                    stopped.add((message.topic, message.key))
            if channel.finished:
                untold = [m.id for m in messages[number:] if m.id not in batch.told]
                batch.told.update(dict.fromkeys(untold, Outcome(Verdict.UNKNOWN, BrokerError("Kafka failed."))))
                return
            if number % _CHUNK == 0:
                channel.poll()
                await asyncio.sleep(0)

    async def _hand_over(self, channel: Channel, batch: Batch, message: Message) -> Outcome | None:
        while True:
            try:
                channel.send(batch, message)
            except BufferError:  # the driver's queue is full: wait for room
                if not channel.poll():
                    await asyncio.sleep(_SHORTEST)
            except KafkaException as raised:
                error = error_of(raised)
                if error.code() in PERMANENT:  # not even taken, so it is this very message
                    return _rejected(f"Kafka's client refused it. {describe(error)}")
                channel.finish(BrokerError(f"Kafka's producer is finished. {describe(error)}"))
            except (TypeError, ValueError) as error:
                return _rejected(f"Kafka cannot carry it: {type(error).__name__}.")
            else:
                return None
            if channel.finished:
                return Outcome(Verdict.UNKNOWN, BrokerError("Kafka failed before the message was taken."))

    async def _outcomes(self, channel: Channel | None, batch: Batch) -> AsyncIterator[Mapping[str, Outcome]]:
        pause, since = 0.0, self._clock.monotonic()
        while batch.open and channel is not None:
            # Not the injected clock: this does not wait for a time, it looks whether the driver has news.
            pause = 0.0 if channel.poll() else min(max(pause * 1.5, _SHORTEST), _LONGEST)
            if batch.told and self._clock.monotonic() - since > _TELL_AFTER:
                told, batch.told = batch.told, {}
                yield told
                since = self._clock.monotonic()
            if batch.open:
                await asyncio.sleep(pause)
        if batch.told:
            yield batch.told


def _rejected(reason: str) -> Outcome:
    return Outcome(Verdict.REJECTED, PublishRejected(reason))
