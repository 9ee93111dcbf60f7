"""Calls of boto3, which wait, in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import boto3
from botocore.config import Config

from txpatterns.brokers.sqs.settings import SqsSettings

logger = logging.getLogger("txpatterns.sqs")

T = TypeVar("T")

_CONNECT_WITHIN = 3.0
_ANSWER_WITHIN = 10.0
_CONNECTIONS = 64


class Calls:
    """The clients of one broker. boto3's are safe to share among threads; making them is not, and slow."""

    def __init__(self, settings: SqsSettings) -> None:
        self._settings = settings
        self.forget()

    def forget(self) -> None:
        """Let the next use make new clients: after closing, or in a forked child."""
        self._clients: dict[str, Any] = {}
        self._making = threading.Lock()

    def close(self) -> None:
        """Close the connections that are not in use."""
        clients = self._clients
        self.forget()
        for client in clients.values():
            client.close()

    @property
    def sqs(self) -> Any:
        """The client of SQS; made at its first use, in the thread of whoever is first."""
        return self._client("sqs")

    @property
    def sns(self) -> Any:
        """The client of SNS."""
        return self._client("sns")

    def _client(self, service: str) -> Any:
        with self._making:
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def _make(self, service: str) -> Any:
        # One attempt: who repeats a request inside cannot tell whether the first one was stored.
        config = Config(
            connect_timeout=_CONNECT_WITHIN,
            read_timeout=self._settings.poll.total_seconds() + _ANSWER_WITHIN,
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=_CONNECTIONS,
        )
        where = {"region_name": self._settings.region, "endpoint_url": self._settings.endpoint}
        return boto3.session.Session().client(service, config=config, **where)


async def in_thread(work: Callable[[], T]) -> T:
    """Run a call that waits. Cancelling leaves it to itself: neither the loop nor the process waits for its end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            tell(loop, _fail, done, error)
        else:
            tell(loop, _settle, done, result)

    threading.Thread(target=run, name="txp-sqs-call", daemon=True).start()
    return await done


def tell(loop: asyncio.AbstractEventLoop, what: Callable[..., None], *arguments: object) -> None:
    """Call something in the loop from a thread, if the loop is still there."""
    try:
        loop.call_soon_threadsafe(what, *arguments)
    except RuntimeError:
        logger.debug("an answer came when the event loop was closed")


def _settle(done: asyncio.Future[T], result: T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[T], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
