"""What a publication came to: the rule by which a message's fate is decided from what the broker said. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from txpatterns.outbox.relay.doubts import Doubts
from txpatterns.outbox.relay.rows import Lane, Row
from txpatterns.transport import Outcome, Verdict


@dataclass(slots=True)
class Verdicts:
    """What a publication came to, row by row."""

    settled: list[Row] = field(default_factory=list)
    rejected: list[tuple[Row, Exception | None]] = field(default_factory=list)
    doubtful: list[tuple[Row, Exception | None]] = field(default_factory=list)
    """Never answered, while the broker answered others."""
    unanswered: set[str] = field(default_factory=set)
    """Topics of which something was not decided and nothing confirmed: pause before sending to them again."""
    postponed: dict[str, Exception | None] = field(default_factory=dict)
    """Topics that take nothing now."""
    unavailable: Exception | None = None
    """The broker takes nothing now."""
    again: dict[Lane, list[Row]] = field(default_factory=dict)
    """What must go out again, in order; of a lane whose first row has left the outbox, what follows it."""
    alone: set[Lane] = field(default_factory=set)
    """Lanes that must send their next message all by itself."""


class Judge:
    """Decides over publications. What was confirmed meanwhile tells a dead broker from a bad message: see `Doubts`.

    In a lane, everything behind the first that was not confirmed counts as unknown. Where the transport batches
    (``ordered_prefix``), a rejection is believed only of a message that was published alone.
    """

    def __init__(self, doubts: Doubts, *, ordered_prefix: bool) -> None:
        self.doubts = doubts
        self.ordered_prefix = ordered_prefix

    def verdicts(self, rows: Sequence[Row], outcomes: Mapping[str, Outcome], *, alone: bool) -> Verdicts:
        """Decide what each row of a publication's lanes came to; rows of a lane come in order."""
        believed = alone or not self.ordered_prefix
        found = Verdicts()
        settled, again = found.settled, found.again
        for row in rows:
            outcome = outcomes.get(row.message.id, UNTOLD)
            if again and row.lane in again:
                again[row.lane].append(row)
            elif outcome.verdict is _CONFIRMED:
                settled.append(row)
            elif outcome.verdict is Verdict.REJECTED and believed:
                found.rejected.append((row, outcome.error))
                again[row.lane] = []
            else:
                again[row.lane] = [] if self._gives_up(row, outcome, found, believed) else [row]
        self.doubts.confirmations += len(settled)
        self.doubts.forget(settled)
        if found.unanswered:
            found.unanswered -= {row.message.topic for row in settled}
        return found

    def _gives_up(self, row: Row, outcome: Outcome, found: Verdicts, believed: bool) -> bool:
        """Count a missing answer; against a message only when the broker took other messages meanwhile."""
        topic = row.message.topic
        if outcome.verdict is Verdict.UNAVAILABLE:
            found.unavailable = outcome.error or ConnectionError("the broker gave no answer")
            return False
        if outcome.verdict is Verdict.POSTPONED:
            found.postponed[topic] = outcome.error
            return False
        if outcome.verdict is Verdict.UNKNOWN:
            found.unanswered.add(topic)
        doubts = self.doubts.add(row)
        if believed and doubts >= _DOUBTS:
            found.doubtful.append((row, outcome.error))
            return True
        if self.ordered_prefix and (outcome.verdict is Verdict.REJECTED or doubts >= _DOUBTS - 1):
            found.alone.add(row.lane)
        return False


UNTOLD = Outcome(Verdict.UNKNOWN)
"""Of a message of which the broker said nothing."""
_CONFIRMED = Verdict.CONFIRMED
"""Looked up once, which in Python 3.11 costs as much as all else that is asked of a confirmed row."""
_DOUBTS = 3
