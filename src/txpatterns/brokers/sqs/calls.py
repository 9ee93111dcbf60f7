"""Calls of boto3, which wait, in threads that nobody has to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import boto3
from botocore.config import Config

from txpatterns.brokers.sqs.settings import SqsSettings
from txpatterns.runtime import abandoning

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
    """Run a call of boto3. Cancelling leaves it to itself."""
    return await abandoning.in_thread(work, name="txp-sqs-call")
