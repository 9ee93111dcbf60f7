"""The callers' side: an object with a protocol's methods, which live in another process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from shop.problems import Problem
from shop.rpc.errors import problem_in
from shop.rpc.services import SERVICES, Rpc, Service
from shop.rpc.travel import metadata, time_left
from shop.rpc.values import of_answer, to_request

OPTIONS = (
    # A service that starts after its callers is found soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_metadata_size", 65_536),  # problems travel there
    ("grpc.absolute_max_metadata_size", 65_536),
    ("grpc.enable_http_proxy", 0),  # services of one shop find each other directly
)


class Caller:
    """Has the methods of a protocol, and sends each call to another process.

    Each call has a deadline: ten seconds, or what is left of the call that is handled where it is made.

    Raises, from every method:
        Problem: what the other side raised, ``unavailable`` when it is not there, or ``timeout`` when it does not
            answer in time. After these two nobody knows whether it was done.
    """

    def __init__(self, service: Service, channels: Channels, address: str) -> None:
        self._rpcs = {rpc.name: rpc for rpc in service.rpcs}
        self._channels = channels
        self._address = address

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        rpc = self._rpcs.get(name)
        if rpc is None:
            raise AttributeError(name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(rpc, dict(zip(rpc.method.names, args, strict=False)) | kwargs)

        return call

    async def _call(self, rpc: Rpc, arguments: dict[str, Any]) -> Any:
        request = to_request(rpc, arguments)
        try:
            answer = await self._channels.send(rpc, request, self._address)
        except Problem as problem:
            if problem.kind.slug == "not-found" and rpc.may_find_nothing:
                return None
            raise
        return of_answer(rpc, answer)


class Channels:
    """The connections of this process to others, one for each address, made when they are needed.

    Used as ``async with``: at its end they are closed.
    """

    def __init__(self) -> None:
        self._open: dict[str, grpc.aio.Channel] = {}

    def to(self, address: str) -> grpc.aio.Channel:
        """Give the channel to an address."""
        if address not in self._open:
            self._open[address] = grpc.aio.insecure_channel(address, options=OPTIONS)
        return self._open[address]

    async def send(self, rpc: Rpc, request: Message, address: str) -> Message:
        """Make a call, with its deadline and all that travels along.

        Raises:
            Problem: as a ``Caller``'s methods do.
        """
        send = self.to(address).unary_unary(
            rpc.path, request_serializer=rpc.request.SerializeToString, response_deserializer=rpc.answer.FromString
        )
        try:
            return await send(request, timeout=time_left(), metadata=metadata())
        except grpc.aio.AioRpcError as error:
            raise problem_in(error, address) from error

    def caller(self, service: str, address: str) -> Any:
        """Make an object with the methods of a service's protocol in ``shop.ports``.

        Args:
            service: Its name in this shop, for example ``inventory``.
            address: Its host and port.
        """
        return Caller(SERVICES[service], self, address)

    async def close(self) -> None:
        """Close all; calls that are under way fail. A later call opens anew."""
        while self._open:
            _, channel = self._open.popitem()
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
