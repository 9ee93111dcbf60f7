"""One connection to RabbitMQ, with pika behind it: the only module that knows the driver.

A connection is used until the first thing that goes wrong with it, and never mended: what waits for an answer is told,
and whoever needs a connection opens a new one.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.exceptions import AMQPError, ChannelClosedByBroker, ChannelClosedByClient

from txpatterns.brokers.rabbitmq.failures import Refused, describe
from txpatterns.brokers.rabbitmq.settings import RabbitMQSettings
from txpatterns.errors import BrokerError, BrokerUnavailable, ConfigurationError, UnsafeSettings

_ANSWER_WITHIN = 10.0
_LEAVE_WITHIN = 2.0
_HEARTBEAT = 5
_PERSISTENT = 2

_driver = logging.getLogger("pika")
if _driver.level == logging.NOTSET:  # it writes ten lines of errors for each attempt to connect; ours say it in one
    _driver.setLevel(logging.CRITICAL)


def parameters_of(settings: RabbitMQSettings) -> pika.URLParameters:
    """Read the URL as the driver does.

    Raises:
        ConfigurationError: it does not understand it, or a file that it names is not to be used.
        UnsafeSettings: TLS would check nobody's certificate.
    """
    try:
        parameters = pika.URLParameters(settings.url)
        if "heartbeat" not in settings.url:
            parameters.heartbeat = _HEARTBEAT
    except (ValueError, TypeError, SyntaxError, AttributeError, OSError) as error:
        raise ConfigurationError(
            f"pika does not accept the URL's options: {settings.mask(type(error).__name__)}.",
            fix="Compare them with pika's URLParameters.",
        ) from None
    tls = parameters.ssl_options
    if tls is not None and not (tls.context.verify_mode is ssl.CERT_REQUIRED and tls.context.check_hostname):
        raise UnsafeSettings(
            "RabbitMQ: TLS without a look at the server's certificate.", fix="Leave protocol out of ssl_options."
        )
    parameters.connection_attempts = 1
    # It has to give up by itself: closed by us before it is open, the driver's clean-up fails.
    parameters.socket_timeout = parameters.stack_timeout = 0.9 * _ANSWER_WITHIN
    parameters.client_properties = {"connection_name": "txpatterns"}
    return parameters


@dataclass(frozen=True, slots=True)
class QueueState:
    """What RabbitMQ says of a queue when it is looked at."""

    ready: int
    readers: int


class NoAnswer(BrokerUnavailable):
    """RabbitMQ was asked, and has not answered in time."""


class Link:
    """One connection. ``broken`` says why it is of no more use; ``blocked`` why nothing may be published now."""

    def __init__(self, settings: RabbitMQSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._connection: Any = None
        self.broken: BrokerError | None = None
        self.blocked: str | None = None
        self.on_change: list[Callable[[], None]] = []
        """Called when it breaks, and when it is blocked or no longer so."""

    async def open(self) -> Self:
        """Connect and log in.

        Raises:
            BrokerUnavailable: nobody answers, or the login is refused.
        """
        parameters = parameters_of(self._settings)
        await self._reach(parameters.host, parameters.port)
        opened = self.future()
        connection = AsyncioConnection(
            parameters,
            on_open_callback=lambda _: settle(opened, None),
            on_open_error_callback=lambda _, error: self._lost(error),
            on_close_callback=lambda _, error: self._lost(error),
            custom_ioloop=self._loop,
        )
        self._connection = connection
        connection.add_on_connection_blocked_callback(lambda _, frame: self._block(str(frame.method.reason)))
        connection.add_on_connection_unblocked_callback(lambda *_: self._block(None))
        try:
            await self.answer(opened)
        except BaseException:
            await self.close()
            raise
        return self

    async def _reach(self, host: str, port: int) -> None:
        """See that somebody listens: where nobody does, the driver leaves its socket open behind it."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                await writer.wait_closed()
        except OSError as error:  # a time-out is one, too
            self._lost(error)
            raise BrokerUnavailable(f"RabbitMQ does not answer. {describe(error)}") from error

    @property
    def version(self) -> tuple[int, ...]:
        """The server's version, as far as it tells it."""
        text = str((self._connection.server_properties or {}).get("version", ""))
        return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Channel]:
        """Open a channel for a while: what is refused on it closes this one, and nothing else.

        Raises:
            BrokerUnavailable: the connection is lost, or there is no answer.
        """
        channel = await self.open_channel()
        try:
            yield channel
        finally:
            channel.close()

    async def open_channel(self) -> Channel:
        """Open a channel that stays."""
        opened = self.future()
        self._guarded(partial(self._connection.channel, on_open_callback=lambda raw: settle(opened, raw)))
        return Channel(self, await self.answer(opened))

    def future(self) -> asyncio.Future[Any]:
        """Make something to wait for, that fails when the connection does."""
        made = self._loop.create_future()
        self._waiting.add(made)
        made.add_done_callback(self._waiting.discard)
        if self.broken is not None:
            fail(made, self.broken)
        return made

    async def answer(self, future: asyncio.Future[Any]) -> Any:
        """Wait for an answer; who does not answer in time is taken to be gone."""
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                return await future
        except TimeoutError:
            self.breaks(BrokerUnavailable("RabbitMQ does not answer."))
            raise NoAnswer("RabbitMQ does not answer.") from None

    def breaks(self, error: BrokerError) -> None:
        """Something went wrong: nothing more is sent, and all that waits is told."""
        if self.broken is not None:
            return
        self.broken = error
        for future in list(self._waiting):
            fail(future, error)
        self._tell()

    async def close(self) -> None:
        """Take leave of the server, which then gives back what is unacknowledged. Twice is harmless."""
        self.breaks(BrokerUnavailable("The connection to RabbitMQ was closed."))
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed:
            return
        closed = self._loop.create_future()
        connection.add_on_close_callback(lambda *_: settle(closed, None))
        connection.add_on_open_error_callback(lambda *_: settle(closed, None))
        try:
            if not connection.is_closing:
                _keep_consumers(connection)
                connection.close()
            async with asyncio.timeout(_LEAVE_WITHIN):
                await closed
        except (AMQPError, OSError, TimeoutError):
            connection._adapter_disconnect_stream()  # noqa: SLF001 - the driver has no other word for it

    def _guarded(self, call: Callable[[], object]) -> None:
        if self.broken is not None:
            raise self.broken
        try:
            call()
        except (AMQPError, OSError) as error:
            self._lost(error)
            raise BrokerUnavailable(f"RabbitMQ is lost. {describe(error)}") from error

    def _lost(self, error: object) -> None:
        reason = describe(error) if isinstance(error, BaseException) else str(error)
        self.breaks(BrokerUnavailable(f"RabbitMQ does not answer, or not any more. {self._settings.mask(reason)}"))

    def _block(self, reason: str | None) -> None:
        self.blocked = reason
        self._tell()

    def _tell(self) -> None:
        for changed in list(self.on_change):
            changed()


class Channel:
    """One channel of a connection. ``closed`` says why RabbitMQ has closed it."""

    def __init__(self, link: Link, raw: Any) -> None:
        self._link = link
        self._raw = raw
        self._waiting: set[asyncio.Future[Any]] = set()
        self.closed: BrokerError | None = None
        self.on_close: Callable[[BrokerError], None] | None = None
        raw.add_on_close_callback(self._has_closed)

    @property
    def is_open(self) -> bool:
        """Whether anything can be sent on it."""
        return self.closed is None and self._link.broken is None

    async def declare_exchange(
        self, name: str, type_: str, *, passive: bool = False, arguments: Mapping[str, object] | None = None
    ) -> None:
        """Make a durable exchange, or look whether it is there."""
        await self._ask(
            self._raw.exchange_declare, name, type_, durable=True, passive=passive, arguments=dict(arguments or {})
        )

    async def declare_queue(self, name: str, arguments: Mapping[str, object]) -> None:
        """Make a durable queue; one that is there has to have the same arguments."""
        await self._ask(self._raw.queue_declare, name, durable=True, arguments=dict(arguments))

    async def look_at_queue(self, name: str) -> QueueState:
        """Look at a queue that is there."""
        frame = await self._ask(self._raw.queue_declare, name, passive=True)
        return QueueState(frame.method.message_count, frame.method.consumer_count)

    async def bind_queue(self, queue: str, exchange: str, key: str, arguments: Mapping[str, object]) -> None:
        """Lead what an exchange gets into a queue."""
        await self._ask(self._raw.queue_bind, queue, exchange, routing_key=key, arguments=dict(arguments))

    async def bind_exchange(self, destination: str, source: str, key: str) -> None:
        """Lead what an exchange gets into another."""
        await self._ask(self._raw.exchange_bind, destination, source, routing_key=key)

    async def confirm(
        self, on_confirm: Callable[[int, bool, bool], None], on_return: Callable[[Mapping[str, object], str], None]
    ) -> None:
        """Have publications confirmed: with the tag, whether all before it are meant, and whether it is stored."""
        self._raw.add_on_return_callback(
            lambda _, method, properties, __: on_return(
                properties.headers or {}, f"{method.reply_code} {method.reply_text}"
            )
        )

        def told(frame: Any) -> None:
            method = frame.method
            on_confirm(method.delivery_tag, method.multiple, not isinstance(method, pika.spec.Basic.Nack))

        await self._ask(self._raw.confirm_delivery, told)

    def publish(self, exchange: str, key: str, body: bytes, headers: dict[str, str], named: tuple[str, str]) -> None:
        """Send a message, persistent, that comes back if no queue is bound.

        Raises:
            ValueError, TypeError: it cannot be written; nothing was sent.
            BrokerError: the channel is closed; nothing was sent.
        """
        message_id, content_type = named
        properties = pika.BasicProperties(
            headers=headers, delivery_mode=_PERSISTENT, message_id=message_id, content_type=content_type
        )
        self._send(partial(self._raw.basic_publish, exchange, key, body, properties, mandatory=True))

    async def consume(
        self,
        queue: str,
        on_message: Callable[[int, bool, Any, bytes], None],
        on_cancel: Callable[[], None],
        *,
        prefetch: int,
        priority: int,
    ) -> None:
        """Be given what a queue has: with its tag, whether it was given out before, its properties and body."""
        self._raw.add_on_cancel_callback(lambda _: on_cancel())
        await self._ask(self._raw.basic_qos, prefetch_count=prefetch)
        await self._ask(
            self._raw.basic_consume,
            queue,
            lambda _, method, properties, body: on_message(
                method.delivery_tag, bool(method.redelivered), properties, body
            ),
            arguments={"x-priority": priority},
        )

    def acknowledge(self, tag: int) -> None:
        """Tell that a delivery is done; without effect on a channel that is closed."""
        if self.is_open:
            with suppress(BrokerError):  # it is given out again
                self._send(partial(self._raw.basic_ack, tag))

    def close(self) -> None:
        """Close it; RabbitMQ gives back what is unacknowledged. Twice is harmless."""
        if self.is_open and self._raw.is_open:
            with suppress(AMQPError, OSError):  # then it is closed
                self._raw.close()

    def _send(self, call: Callable[[], object]) -> None:
        if self.closed is not None:
            raise self.closed
        self._link._guarded(call)  # noqa: SLF001 - one thing in two classes

    async def _ask(self, method: Callable[..., object], *arguments: object, **named: object) -> Any:
        answer = self._link.future()
        self._waiting.add(answer)
        try:
            self._send(partial(method, *arguments, callback=lambda frame: settle(answer, frame), **named))
            return await self._link.answer(answer)
        finally:
            self._waiting.discard(answer)

    def _has_closed(self, _: object, error: BaseException) -> None:
        if isinstance(error, ChannelClosedByBroker):
            self.closed = Refused(error.reply_code, error.reply_text)
        elif isinstance(error, ChannelClosedByClient):
            self.closed = BrokerUnavailable("The channel was closed.")
        else:
            self.closed = BrokerUnavailable(f"RabbitMQ is lost. {describe(error)}")
        for future in list(self._waiting):
            fail(future, self.closed)
        if self.on_close is not None:
            self.on_close(self.closed)


def _keep_consumers(connection: Any) -> None:
    """Have the driver cancel no consumer before it closes channels.

    RabbitMQ would let the next member begin with what comes after that which is not acknowledged yet.
    """
    for channel in connection._channels.values():  # noqa: SLF001 - nothing public closes without cancelling
        channel._cancelled.update(channel.consumer_tags)  # noqa: SLF001


def settle(future: asyncio.Future[Any], value: object) -> None:
    """Give an answer to whoever still waits for it."""
    if not future.done():
        future.set_result(value)


def fail(future: asyncio.Future[Any], error: BrokerError) -> None:
    """Tell whoever still waits for an answer that there is none."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # told; who waits no longer need not hear of it
