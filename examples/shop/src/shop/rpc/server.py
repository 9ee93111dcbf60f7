"""The answering side: services in this process, with health checks and reflection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import ValidationError
from typing_extensions import override

from shop.calls import DEADLINE, LARGEST_CALL
from shop.problems import Problem
from shop.rpc.errors import refuse
from shop.rpc.services import SERVICES, Rpc
from shop.rpc.travel import arrived
from shop.rpc.values import of_request, to_answer

logger = logging.getLogger("shop.rpc")

OPTIONS = (
    ("grpc.so_reuseport", 0),  # a port that somebody else serves is refused, not shared with them
    ("grpc.max_receive_message_length", LARGEST_CALL),
)
LAST_CALLS = 5.0
"""Seconds that calls under way have to end when the server stops."""
MOST_CALLS = 256
"""At once; one more is told RESOURCE_EXHAUSTED."""

Ready = Callable[[], Awaitable[None]]
"""Raises Problem when the service cannot work at this moment."""


class NotOpened(Exception):
    """The server's address cannot be opened; the message says which."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where a service answers: its name in this shop, what has its methods, host and port, and whether it can work.

    Port 0 is any that is free.
    """

    name: str
    api: Any
    address: str
    ready: Ready


@asynccontextmanager
async def serving(doors: Sequence[Door]) -> AsyncIterator[dict[str, str]]:
    """Answer the calls of services for as long as the block lasts; gives the address of each.

    At the end their health is NOT_SERVING, new calls are refused, and those under way are finished.

    Raises:
        NotOpened: a port is taken, or a host is not of this machine.
    """
    opened: list[_Opened] = []
    try:
        for door in doors:
            opened += [await _open(door)]
        yield {each.door.name: each.address for each in opened}
    finally:
        await asyncio.gather(*(each.close() for each in opened))


@dataclass(frozen=True, slots=True)
class _Opened:
    door: Door
    server: grpc.aio.Server
    health: _Health
    port: int

    @property
    def address(self) -> str:
        return f"{self.door.address.rpartition(':')[0]}:{self.port}"

    async def close(self) -> None:
        await self.health.enter_graceful_shutdown()
        await self.server.stop(LAST_CALLS)


async def _open(door: Door) -> _Opened:
    service = SERVICES[door.name]
    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=MOST_CALLS)
    handlers = {rpc.path.rpartition("/")[2]: _handler(rpc, door.api) for rpc in service.rpcs}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.name, handlers),))
    told = _Health(door.ready)
    health_pb2_grpc.add_HealthServicer_to_server(told, server)
    reflection.enable_server_reflection((service.name, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    try:
        port = server.add_insecure_port(door.address)
    except RuntimeError as error:
        raise NotOpened(f"{door.address} cannot be opened for gRPC.") from error
    await server.start()
    for known in ("", service.name):
        await told.set(known, health_pb2.HealthCheckResponse.SERVING)
    return _Opened(door, server, told, port)


class _Health(health.aio.HealthServicer):
    """Health that asks the service, too: without its database it is not serving."""

    def __init__(self, ready: Ready) -> None:
        super().__init__()
        self._ready = ready

    @override
    async def Check(self, request: Any, context: Any) -> Any:
        answer = await super().Check(request, context)
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            try:
                await self._ready()
            except Problem:
                return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
        return answer


def _handler(rpc: Rpc, api: Any) -> Any:
    async def answer(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        try:
            return await _answered(rpc, api, request, context)
        except Problem as problem:
            await refuse(context, problem)

    return grpc.unary_unary_rpc_method_handler(answer, response_serializer=rpc.answer.SerializeToString)


async def _answered(rpc: Rpc, api: Any, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
    given: float | None = context.time_remaining()
    seconds = DEADLINE if given is None else given
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            with arrived(context.invocation_metadata() or (), seconds):
                result = await getattr(api, rpc.name)(**_arguments(rpc, request))
    except Problem:
        raise
    except Exception as error:
        if limit.expired():
            raise Problem("timeout", f"{rpc.path} took longer than it may.") from error
        logger.exception("%s failed", rpc.path)
        raise Problem("internal", "The service could not answer.") from error
    return to_answer(rpc, result)


def _arguments(rpc: Rpc, request: bytes) -> Mapping[str, Any]:
    try:
        return of_request(rpc, rpc.request.FromString(request))
    except (DecodeError, ValidationError) as error:
        raise Problem("bad-request", f"The call does not fit {rpc.path}: {error}") from error
