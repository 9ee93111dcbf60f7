"""How the pretended bank decides, and how its answers go astray: pure and seeded."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

OUT_OF = 20
"""Of so many charges one is declined."""


class Method(StrEnum):
    """The demo's ways to pay. ``CARD`` decides by its seed; the others force a story."""

    CARD = "card"
    SUCCEED = "succeed"
    FAIL = "fail"
    LATE = "late"
    TWICE = "twice"
    REORDERED = "reordered"
    LOST = "lost"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Answering:
    """One webhook to come. Equal ``event`` numbers are the same webhook sent again."""

    event: int
    kind: str
    after: timedelta


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a charge: when money moves, if it does, and which webhooks say so."""

    captured_after: timedelta | None
    failed: bool
    answers: tuple[Answering, ...]


def accepts(seed: int, number: int) -> bool:
    """Say whether the number-th charge is accepted: the same for the same seed, also after a restart.

    The seed draws which of each twenty is declined. It is never their first: nobody's first order fails by chance.
    """
    before, place = divmod(number - 1, OUT_OF)
    return place != random.Random(f"{seed}:{before}").randrange(1, OUT_OF)


def plan(method: Method, accepted: bool, window: timedelta, think: timedelta) -> Plan:
    """Lay out the answers to a charge.

    Args:
        method: The story that was asked for.
        accepted: What the seeded draw says; only ``CARD`` asks.
        window: How long the shop waits for a payment; ``LATE`` answers just after it.
        think: How long the bank takes for an ordinary answer.
    """
    captured, failed = "charge.captured", "charge.failed"
    soon, too_late = Answering(1, captured, think), window + timedelta(seconds=5)
    match method:
        case Method.CARD if not accepted:
            return Plan(None, True, (Answering(1, failed, think),))
        case Method.FAIL:
            return Plan(None, True, (Answering(1, failed, think),))
        case Method.LATE:
            return Plan(too_late, False, (Answering(1, captured, too_late),))
        case Method.TWICE:
            return Plan(think, False, (soon, Answering(1, captured, think + timedelta(seconds=1))))
        case Method.REORDERED:
            # Declined, then charged at the second attempt; the news of the first arrives last.
            return Plan(think, False, (Answering(2, captured, think), Answering(1, failed, think * 3)))
        case Method.LOST:
            return Plan(think, False, ())
        case Method.SILENT:
            return Plan(None, False, ())
        case _:
            return Plan(think, False, (soon,))
