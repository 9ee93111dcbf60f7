"""A broker inside the test: it does what a script says, and keeps what it stored."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from txpatterns.messages import Message
from txpatterns.transport import CONFIRMED, Capabilities, Outcome, Verdict

REJECTED = Outcome(Verdict.REJECTED, ValueError("too large for this broker"))
UNKNOWN = Outcome(Verdict.UNKNOWN, TimeoutError("no reply"))
UNAVAILABLE = Outcome(Verdict.UNAVAILABLE, ConnectionError("refused"))

Decision = tuple[bool, Outcome]
STORED: Decision = (True, CONFIRMED)
REFUSED: Decision = (False, REJECTED)
LOST: Decision = (False, UNKNOWN)
REPLY_LOST: Decision = (True, UNKNOWN)
AWAY: Decision = (False, UNAVAILABLE)


class ScriptedBroker:
    """``decide`` says of each message whether it is stored and what is answered; ``before`` may wait or raise.

    With ``ordered`` it keeps prefixes: after a failure of a lane nothing later of that call is stored.
    """

    def __init__(self, *, ordered: bool = False, patient: bool = False, max_batch: int = 1000) -> None:
        self.capabilities = Capabilities(ordered_prefix=ordered, confirms_handling=patient, max_batch=max_batch)
        self.calls: list[list[Message]] = []
        self.wire: list[Message] = []
        self.decide: Callable[[Message], Decision] = lambda _: STORED
        self.before: Callable[[Sequence[Message]], Awaitable[None]] | None = None
        self.under_way = self.most_under_way = 0

    async def publish(self, messages: Sequence[Message]) -> AsyncIterator[Mapping[str, Outcome]]:
        self.calls.append(list(messages))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.before is not None:
                await self.before(messages)
            await asyncio.sleep(0)
            failed: set[tuple[str, str | None]] = set()
            for message in messages:
                lane = (message.topic, message.key)
                stored, outcome = self.decide(message)
                if self.capabilities.ordered_prefix and lane in failed and message.key is not None:
                    stored, outcome = False, UNKNOWN
                if outcome is not CONFIRMED:
                    failed.add(lane)
                if stored:
                    self.wire.append(message)
                yield {message.id: outcome}
        finally:
            self.under_way -= 1

    @property
    def first_of_key(self) -> dict[str | None, list[str]]:
        """The ids of each key in the order of their first publications."""
        found: dict[str | None, list[str]] = defaultdict(list)
        seen: set[str] = set()
        for message in self.wire:
            if message.id not in seen:
                seen.add(message.id)
                found[message.key].append(message.id)
        return dict(found)

    @property
    def copies(self) -> dict[str, int]:
        found: dict[str, int] = defaultdict(int)
        for message in self.wire:
            found[message.id] += 1
        return dict(found)
