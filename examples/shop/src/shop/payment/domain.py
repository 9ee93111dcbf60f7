"""What an answer of the bank does to a payment, as a pure function."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class PaymentStatus(StrEnum):
    WAITING = "waiting"  # for the stock: nothing is charged before it is set aside
    OPEN = "open"  # the bank was asked
    CAPTURED = "captured"
    FAILED = "failed"
    VOIDED = "voided"  # its checkout gave up: what is charged all the same goes back at once
    DROPPED = "dropped"  # the order ended, and the bank has charged nothing and will not
    REFUNDING = "refunding"
    REFUNDED = "refunded"


class Answer(StrEnum):
    """What the bank may say about a charge, by webhook or when it is asked."""

    CAPTURED = "charge.captured"
    FAILED = "charge.failed"
    REFUNDED = "charge.refunded"


CHARGEABLE = (
    PaymentStatus.WAITING,
    PaymentStatus.OPEN,
    PaymentStatus.FAILED,
    PaymentStatus.DROPPED,
    PaymentStatus.VOIDED,
)
"""Where money that moved is news."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with an answer: the new status, whether others must hear of it, and why, in words."""

    status: PaymentStatus
    tell: bool
    why: str


def judge(status: PaymentStatus, answer: Answer, amount_agrees: bool = True) -> Verdict:
    """Say what an answer does to a payment.

    Money that moved always counts, even after a failure was reported: a card may be declined first and charged
    then, and answers arrive in any order. An answer may even overtake our own note that we asked. A failure counts
    only while nothing else is known.
    """
    if not amount_agrees:
        return Verdict(status, False, "amount differs: left for a person")
    match answer:
        case Answer.CAPTURED if status in CHARGEABLE:
            return Verdict(PaymentStatus.CAPTURED, True, "captured")
        case Answer.FAILED if status in (PaymentStatus.WAITING, PaymentStatus.OPEN):
            return Verdict(PaymentStatus.FAILED, True, "failed")
        case Answer.REFUNDED if status in (PaymentStatus.CAPTURED, PaymentStatus.REFUNDING):
            return Verdict(PaymentStatus.REFUNDED, True, "refunded")
        case _:
            return Verdict(status, False, f"nothing to do: already {status}")
