"""A TCP proxy that misbehaves on demand, to stand between a client and a server on loopback.

Its loop runs in a thread of its own, so plain and async tests steer it alike. `fired` counts each fault when it
has hit something; `Proxy.close` fails if a fault was asked for and hit nothing, because a test whose fault did
not happen proves nothing.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from types import TracebackType
from typing import Self, TypeVar

from rig.waiting import wait_until

T = TypeVar("T")

CHUNK = 65_536
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Direction(StrEnum):
    TO_SERVER = "to server"
    TO_CLIENT = "to client"


TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT
BOTH = (TO_SERVER, TO_CLIENT)


class FaultNeverFired(AssertionError):
    """A fault was asked for and hit nothing."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What the proxy does to bytes that pass. The default is nothing."""

    silent: tuple[Direction, ...] = ()
    delay: timedelta = timedelta(0)
    jitter: timedelta = timedelta(0)
    bytes_per_second: int | None = None
    one_byte: tuple[Direction, ...] = ()


@dataclass(slots=True, eq=False)
class Trap:
    """Armed once: lets `allowed` bytes pass in one direction, then loses the rest and cuts that connection.

    With `request` it takes the first connection whose client sends these bytes, otherwise the first that
    carries anything in its direction.
    """

    direction: Direction
    allowed: int
    request: bytes
    link: "Link | None" = None

    def notice(self, link: "Link", data: bytes) -> None:
        if self.request and self.link is None:
            recent = link.recent + data  # the words may come in two pieces
            link.recent = recent[-len(self.request) :]
            self.link = link if self.request in recent else None

    def springs(self, link: "Link", direction: Direction, size: int) -> bool:
        if direction is not self.direction or (self.request and link is not self.link):
            return False
        if size <= self.allowed:
            self.allowed -= size
            return False
        return True


class Link:
    """One client's connection and ours to the server."""

    def __init__(self, accepted: socket.socket) -> None:
        self.accepted = accepted
        self.client: asyncio.StreamWriter | None = None
        self.server: asyncio.StreamWriter | None = None
        self.recent = b""

    def cut(self, *, reset: bool) -> None:
        if self.client is None and self.accepted.fileno() >= 0:
            if reset:
                self.accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.accepted.close()
        for writer in filter(None, (self.client, self.server)):
            if writer.transport.is_closing():
                continue
            if reset:
                raw: socket.socket = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                writer.transport.abort()
            else:
                writer.close()

    def abandon(self) -> None:
        """Close without waiting until the other side has taken what was sent."""
        if self.client is None:
            self.accepted.close()
        for writer in filter(None, (self.client, self.server)):
            writer.transport.abort()


class Proxy:
    """Use as a context manager: `with Proxy(port) as proxy: connect(port=proxy.port)`.

    `listen` is the port of its own, if that has to be a certain one.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", *, seed: int = 0, listen: int = 0) -> None:
        self.fired: Counter[str] = Counter()
        self.port = listen
        self._upstream = (host, port)
        self._asked: set[str] = set()
        self._faults = Faults()
        self._trap: Trap | None = None
        self._links: set[Link] = set()
        self._every_link: list[Link] = []  # a closed one may still wait for its client to read
        self._tasks: set[asyncio.Task[None]] = set()
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Condition()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._listener: socket.socket | None = None

    def start(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def close(self, *, check: bool = True) -> None:
        """End it and all its connections. Twice is harmless.

        Raises:
            FaultNeverFired: with `check`, naming the faults that hit nothing.
        """
        if not self._loop.is_closed():
            self._run(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        if check and (unfired := self._asked - set(self.fired)):
            raise FaultNeverFired(", ".join(sorted(unfired)))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close(check=kind is None)

    # Faults. Each holds until `heal`, but for `cut` and `lose_reply`, which happen once.

    def cut(self, *, reset: bool = True) -> None:
        """End every open connection, by RST or by FIN. New ones are accepted."""
        self._asked.add("cut")
        self._run(self._cut(reset=reset))

    def refuse(self) -> None:
        """Stop listening: new connections are refused. Open ones go on."""
        self._asked.add("refuse")
        self._run(self._refuse())

    def silence(self, *directions: Direction) -> None:
        """Accept and keep connections, and let nothing pass, in one direction or (default) both.

        Bytes are held, not lost: they arrive after `heal`, as after a short partition.
        """
        self._set("silence", lambda faults: replace(faults, silent=directions or BOTH))

    def delay(self, delay: timedelta, *, jitter: timedelta = timedelta(0)) -> None:
        """Hold every piece back by the delay and up to the jitter more. Order is kept."""
        self._set("delay", lambda faults: replace(faults, delay=delay, jitter=jitter))

    def throttle(self, bytes_per_second: int) -> None:
        self._set("throttle", lambda faults: replace(faults, bytes_per_second=bytes_per_second))

    def slice(self, *directions: Direction) -> None:
        """Pass single bytes, each in a write of its own."""
        self._set("slice", lambda faults: replace(faults, one_byte=directions or BOTH))

    def lose_reply(self, *, to: bytes = b"", after: int = 0) -> None:
        """Lose exactly one reply: the server has answered, the client gets a reset instead.

        By default the next thing that the server says; `to=b"COMMIT"` waits until a client has sent these
        bytes; `after` lets so many bytes of the reply pass first. One connection is cut, the next is served.
        """
        self._arm("lose reply", Trap(TO_CLIENT, after, to))

    def lose_request(self, *, after: int = 0) -> None:
        """The same towards the server, which sees `after` bytes and then a reset."""
        self._arm("lose request", Trap(TO_SERVER, after, b""))

    def heal(self) -> None:
        """Everything passes again."""
        self._run(self._heal())

    def wait_fired(self, fault: str, times: int = 1) -> None:
        wait_until(lambda: self.fired[fault] >= times, what=f"the fault {fault!r} to fire {times} times")

    @property
    def open_connections(self) -> int:
        return len(self._links)

    def _set(self, fault: str, change: Callable[[Faults], Faults]) -> None:
        self._asked.add(fault)
        self._run(self._change(change))

    def _arm(self, fault: str, trap: Trap) -> None:
        self._asked.add(fault)
        self._run(self._set_trap(trap))

    def _run(self, work: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(30):
                return await work

        return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()

    # Everything below runs in the proxy's own loop.

    async def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._loop.add_reader(self._listener, self._accept, self._listener)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _refuse(self) -> None:
        self._stop_listening()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except ConnectionRefusedError:
            self.fired["refuse"] += 1
        else:
            writer.close()

    async def _cut(self, *, reset: bool) -> None:
        for link in self._links:
            link.cut(reset=reset)
            self.fired["cut"] += 1
        self._links.clear()

    async def _set_trap(self, trap: Trap) -> None:
        self._trap = trap

    async def _change(self, change: Callable[[Faults], Faults]) -> None:
        async with self._changed:
            self._faults = change(self._faults)
            self._changed.notify_all()

    async def _heal(self) -> None:
        self._trap = None
        await self._change(lambda _: Faults())
        if self._listener is None:
            await self._listen()

    async def _end(self) -> None:
        self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for link in self._every_link:
            link.abandon()

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # the client has given up
        link = Link(accepted)
        self._links.add(link)
        self._every_link.append(link)
        task = self._loop.create_task(self._serve(link))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, link: Link) -> None:
        try:
            await self._pass_silence(TO_SERVER)
            reader, link.client = await asyncio.open_connection(sock=link.accepted)
            server_reader, link.server = await asyncio.open_connection(*self._upstream)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(link, reader, link.server, TO_SERVER))
                pumps.create_task(self._pump(link, server_reader, link.client, TO_CLIENT))
        except* (OSError, asyncio.CancelledError):
            link.cut(reset=True)  # the other side sees what this side saw
            link.abandon()
        finally:
            link.cut(reset=False)
            self._links.discard(link)

    async def _pump(
        self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction
    ) -> None:
        while data := await reader.read(CHUNK):
            await self._pass_silence(direction)
            await self._pass_delay()
            self._pass_trap(link, writer, direction, data)
            for piece in self._pieces(direction, data):
                await self._pass_throttle(piece)
                writer.write(piece)
                await writer.drain()
        if writer.can_write_eof() and not writer.is_closing():
            writer.write_eof()

    async def _pass_silence(self, direction: Direction) -> None:
        if direction in self._faults.silent:
            self.fired["silence"] += 1
            async with self._changed:
                await self._changed.wait_for(lambda: direction not in self._faults.silent)

    async def _pass_delay(self) -> None:
        faults = self._faults
        if faults.delay or faults.jitter:
            self.fired["delay"] += 1
            await asyncio.sleep((faults.delay + faults.jitter * self._random.random()).total_seconds())

    async def _pass_throttle(self, piece: bytes) -> None:
        rate = self._faults.bytes_per_second
        if rate is not None:
            self.fired["throttle"] += 1
            await asyncio.sleep(len(piece) / rate)

    def _pass_trap(self, link: Link, writer: asyncio.StreamWriter, direction: Direction, data: bytes) -> None:
        trap = self._trap
        if trap is None:
            return
        if direction is TO_SERVER:
            trap.notice(link, data)
        if trap.springs(link, direction, len(data)):
            self._trap = None
            if trap.allowed:
                writer.write(data[: trap.allowed])
            self.fired["lose reply" if direction is TO_CLIENT else "lose request"] += 1
            raise ConnectionResetError("the proxy lost the rest on purpose")

    def _pieces(self, direction: Direction, data: bytes) -> list[bytes]:
        faults = self._faults
        size = len(data)
        if faults.bytes_per_second is not None:
            size = max(1, faults.bytes_per_second // 20)  # little at a time, so that it flows evenly
        if direction in faults.one_byte:
            self.fired["slice"] += 1
            size = 1
        return [data[at : at + size] for at in range(0, len(data), size)]
