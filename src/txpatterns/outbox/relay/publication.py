"""One publication under way: what was told of it, lane by lane. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from txpatterns.outbox.relay.rows import Lane, Row
from txpatterns.transport import Outcome

_SILENT = 0.25
"""Seconds without a word after which others need not wait for it."""


class Publication:
    """Rows that were handed to the broker together. A lane is concluded as a whole, as soon as all of it is told."""

    def __init__(self, rows: Sequence[Row], apart: str | None, now: float) -> None:
        self.rows = rows
        self.apart = apart
        """The topic, where it is published apart from the others."""
        self.outcomes: dict[str, Outcome] = {}
        self.lags = False
        """Nothing else waits for its end any more."""
        self._heard_at = now
        self._open: dict[Lane, list[Row]] | None = None
        self._lane_of: dict[str, Lane] = {}

    @property
    def topics(self) -> set[str]:
        """The topics of what is not concluded."""
        return {row.message.topic for row in self.rest()}

    @property
    def silent_at(self) -> float:
        """When nothing will have been heard of it for long."""
        return self._heard_at + _SILENT

    def told(self, outcomes: Mapping[str, Outcome], now: float) -> Sequence[Row]:
        """Take note of outcomes; gives the rows of the lanes of which everything is told now."""
        self._heard_at, self.lags = now, False
        self.outcomes.update(outcomes)
        if self._open is None:
            if len(self.outcomes) >= len(self.rows):  # the usual: all at once
                self._open = {}
                return self.rows
            self._open = {}
            for row in self.rows:
                self._open.setdefault(row.lane, []).append(row)
                self._lane_of[row.message.id] = row.lane
        done: list[Row] = []
        for lane in {self._lane_of[message_id] for message_id in outcomes if message_id in self._lane_of}:
            rows = self._open.get(lane, ())
            if all(row.message.id in self.outcomes for row in rows):
                done += self._open.pop(lane, ())
        return done

    def not_told(self, outcome: Outcome) -> None:
        """It has ended with this for all of which nothing was told."""
        self.outcomes = dict.fromkeys((row.message.id for row in self.rest()), outcome) | self.outcomes

    def rest(self) -> list[Row]:
        """Give the rows that are not concluded."""
        if self._open is None:
            return list(self.rows)
        return [row for rows in self._open.values() for row in rows]
