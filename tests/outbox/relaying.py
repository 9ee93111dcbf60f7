"""A child that relays into a file, and can stop for ever between the confirmation and its note of it.

python -m outbox.relaying URL FILE [stop]
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from rig.planting import instead_of
from txpatterns.database import Database
from txpatterns.messages import Message
from txpatterns.outbox import Relay, RelaySettings
from txpatterns.outbox.relay.rows import Row
from txpatterns.outbox.relay.store import OutboxStore
from txpatterns.transport import CONFIRMED, Capabilities, Outcome


class FileBroker:
    """Stores a message as a line, and confirms it when the line is on the disk."""

    capabilities = Capabilities(ordered_prefix=True)

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        with self.path.open("a") as file:
            for message in messages:
                file.write(f"{message.key} {message.id} {message.payload.hex()}\n")
            file.flush()
            os.fsync(file.fileno())
        yield dict.fromkeys((message.id for message in messages), CONFIRMED)

    @property
    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.path.read_text().splitlines()] if self.path.exists() else []


SETTINGS = RelaySettings(batch=20, lease=timedelta(seconds=1), poll=timedelta(milliseconds=50))


async def relay(url: str, path: str, stop: bool) -> None:
    if stop:

        @instead_of(pytest.MonkeyPatch(), OutboxStore, OutboxStore.settle)
        async def settle(self: OutboxStore, rows: Sequence[Row]) -> int | None:
            print(f"confirmed {len(rows)}", flush=True)
            await asyncio.Event().wait()
            return None

    async with Database(url) as database:
        await Relay(database, FileBroker(path), settings=SETTINGS).run()


if __name__ == "__main__":
    asyncio.run(relay(sys.argv[1], sys.argv[2], sys.argv[3:] == ["stop"]))
