"""The look at the broker that an App takes when it starts, and now and then: what is wrong is told before it hurts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta

from txpatterns.clock import Clock
from txpatterns.findings import Finding, Severity
from txpatterns.inbox.settings import ConsumerSettings
from txpatterns.text import error_line
from txpatterns.transport import Broker, Checks

logger = logging.getLogger("txpatterns.broker")

LOOK_AGAIN = timedelta(minutes=5)
LOOK_AGAIN_IF_WRONG = timedelta(minutes=1)
_LEVELS = {Severity.ERROR: logging.ERROR, Severity.WARNING: logging.WARNING, Severity.INFO: logging.INFO}


async def examine_broker(
    broker: Broker, name: str, topics: Sequence[str], group: str | None, settings: ConsumerSettings
) -> list[Finding]:
    """Look at the broker for these topics, and for a group that reads."""
    found = list(await broker.check(topics, group)) if isinstance(broker, Checks) else []
    if not broker.capabilities.ordered:
        words = "It keeps no order: messages of a key may be handled in another order than they were published in."
        fix = "Use one that does (SQS: ordered=true), where a handler or a saga needs it."
        found.append(Finding(Severity.WARNING, f"broker {name}", words, fix))
    kept = broker.capabilities.horizon
    if group is not None and kept is not None and kept > settings.retention:
        words = f"It keeps messages for {kept}; handled ones are remembered for {settings.retention}: one that comes "
        words += "again later is handled again."
        fix = f"Set the consumer's retention to at least {kept}."
        found.append(Finding(Severity.WARNING, f"broker {name}", words, fix))
    return found


class BrokerWatch:
    """Looks at the broker at the start, and again for as long as it runs; says each finding once.

    Nobody waits for it. A broker that cannot be asked is a finding like the others: told once, and looked at again.
    ``topics`` are asked for anew each time, for events become known while a process runs. ``group`` is None where
    nothing is read here.
    """

    def __init__(
        self,
        broker: Broker,
        topics: Callable[[], Iterable[str]],
        group: str | None,
        settings: ConsumerSettings,
        clock: Clock,
    ) -> None:
        self._broker, self._name = broker, type(broker).__name__
        self._topics, self._group = topics, group
        self._settings, self._clock = settings, clock
        self._stopping = asyncio.Event()
        self._found: list[Finding] = []

    async def run(self) -> None:
        """Look until ``stop`` is called; a look that is under way then is given up."""
        looking = asyncio.create_task(self._look_again_and_again(), name="look at the broker")
        try:
            await self._stopping.wait()
        finally:
            looking.cancel()
            await asyncio.wait([looking])

    def stop(self) -> None:
        """End ``run``."""
        self._stopping.set()

    def attention(self) -> list[str]:
        """Say what keeps messages from being published or read, as far as the last look has found."""
        return [str(each) for each in self._found if each.severity is Severity.ERROR]

    async def _look_again_and_again(self) -> None:
        while True:
            before, self._found = set(self._found), await self._look()
            for each in self._found:
                if each not in before:
                    logger.log(_LEVELS[each.severity], "broker, %s: %s", each.severity, each)
            wrong = bool(self.attention())
            if not wrong and any(each.severity is Severity.ERROR for each in before):
                logger.info("broker: what was wrong is mended")
            await self._clock.wait(self._stopping, LOOK_AGAIN_IF_WRONG if wrong else LOOK_AGAIN)

    async def _look(self) -> list[Finding]:
        topics = sorted(set(self._topics()))
        try:
            return await examine_broker(self._broker, self._name, topics, self._group, self._settings)
        except Exception as error:  # noqa: BLE001 - an adapter's mistake must not touch what runs
            words = f"It could not be looked at: {error_line(error)}"
            return [Finding(Severity.WARNING, f"broker {self._name}", words, "Run txp doctor, which shows more.")]
