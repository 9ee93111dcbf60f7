"""A broker made of files in a folder: each topic a log of lines, each group a list of the lines that are done."""

import asyncio
import fcntl
import json
import os
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Self
from urllib.parse import quote, urlsplit

from txpatterns.errors import BrokerUnavailable, PublishRejected
from txpatterns.messages import Message
from txpatterns.transport import CONFIRMED, Capabilities, Outcome, Verdict, from_wire, to_wire_headers

BATCH, LOOK_AGAIN = 100, 0.01

Batches = AsyncIterator[Sequence["FileDelivery"]]


class FileBroker:
    def __init__(self, folder: Path, *, max_payload: int = 100_000) -> None:
        self.folder = folder
        self.capabilities = Capabilities(max_batch=500, max_payload=max_payload)

    @classmethod
    def from_url(cls, url: str, *, max_payload: int = 100_000) -> "FileBroker":
        return cls(Path(urlsplit(url).path), max_payload=max_payload)

    async def __aenter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Nothing is kept open between calls."""

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        limit = self.capabilities.max_payload or 0
        outcomes: dict[str, Outcome] = {}
        lines: dict[str, list[bytes]] = {}
        for message in messages:
            if message.size > limit:
                reason = PublishRejected(f"The message has {message.size} bytes, {limit} are allowed.")
                outcomes[message.id] = Outcome(Verdict.REJECTED, reason)
            else:
                outcomes[message.id] = CONFIRMED
                lines.setdefault(message.topic, []).append(_to_line(message))
        for topic, added in lines.items():
            try:
                await asyncio.to_thread(_append, self._file(topic, "log"), b"".join(added))
            except OSError as error:  # some of the lines may be there
                doubtful = Outcome(Verdict.UNKNOWN, BrokerUnavailable(str(error.strerror)))
                outcomes |= {m.id: doubtful for m in messages if m.topic == topic and outcomes[m.id] is CONFIRMED}
        if outcomes:
            yield outcomes

    @asynccontextmanager
    async def subscribe(self, topics: Sequence[str], *, group: str) -> AsyncIterator[Batches]:
        with ExitStack() as held:
            logs = [(topic, self._file(topic, "log"), self._file(topic, f"{group}.done")) for topic in sorted(topics)]
            yield self._deliveries(
                [Share(topic, log, held.enter_context(done.open("ab+"))) for topic, log, done in logs]
            )

    async def _deliveries(self, shares: "list[Share]") -> Batches:
        for share in shares:  # in the order of topics, so that two members do not wait for each other
            while not share.join():  # one member of a group reads a topic, the others look again
                await asyncio.sleep(LOOK_AGAIN)
        while True:
            batch = [delivery for share in shares for delivery in share.next()]
            if batch:
                yield batch
            else:
                await asyncio.sleep(LOOK_AGAIN)

    def _file(self, topic: str, kind: str) -> Path:
        return self.folder / quote(f"{topic}.{kind}", safe="")


class Share:
    """A group's reading of one topic, by the member that holds the lock on the list of what is done."""

    def __init__(self, topic: str, log: Path, done: BinaryIO) -> None:
        self.topic, self.log, self.done = topic, log, done  # closing `done` sets its lock free
        self.read_to, self.number = 0, 0

    def join(self) -> bool:
        try:
            fcntl.flock(self.done, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self.done.seek(0)
        self.finished = {int(line) for line in self.done}
        return True

    def next(self) -> list["FileDelivery"]:
        batch: list[FileDelivery] = []
        if self.log.exists():
            with self.log.open("rb") as log:
                log.seek(self.read_to)
                for line in log:
                    if not line.endswith(b"\n") or len(batch) == BATCH:  # still being written
                        break
                    self.read_to, self.number = self.read_to + len(line), self.number + 1
                    message = _to_message(self.topic, line, self.number)
                    if message is not None and self.number not in self.finished:
                        batch.append(FileDelivery(self, self.number, message))
        return batch


class FileDelivery:
    redelivered = False  # a file does not say so

    def __init__(self, share: Share, number: int, message: Message) -> None:
        self.share, self.number, self.message = share, number, message

    async def ack(self) -> None:
        if not self.share.done.closed:  # otherwise another member has it
            self.share.done.write(b"%d\n" % self.number)
            self.share.done.flush()


def _append(path: Path, lines: bytes) -> None:
    with path.open("ab+") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        if log.tell() and os.pread(log.fileno(), 1, log.tell() - 1) != b"\n":
            lines = b"\n" + lines  # whoever wrote last died in the middle of a line
        log.write(lines)
        log.flush()
        os.fsync(log.fileno())  # only what is on the disk is confirmed


def _to_line(message: Message) -> bytes:
    return json.dumps([to_wire_headers(message), b64encode(message.payload).decode()]).encode() + b"\n"


def _to_message(topic: str, line: bytes, number: int) -> Message | None:
    try:
        headers, payload = json.loads(line)
    except ValueError:  # a line that was never confirmed
        return None
    return from_wire(topic, b64decode(payload), headers, fallback_id=f"{topic}/{number}")
