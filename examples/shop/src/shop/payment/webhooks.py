"""Webhooks of the bank: is it really the bank, is it fresh, what does it say."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from standardwebhooks import Webhook, WebhookVerificationError

from shop.money import Money
from shop.payment.domain import Answer
from shop.ports import Charge
from shop.problems import KINDS, Problem

logger = logging.getLogger("shop.payment")


class BankNews(BaseModel):
    """A webhook's body. ``reference`` is the id of our payment, which we gave the bank."""

    id: str
    type: str
    charge_id: str
    reference: str
    amount: Money

    @property
    def answer(self) -> Answer:
        """What it says about the charge."""
        return Answer(self.type)

    @property
    def charge(self) -> Charge:
        """The charge, as it stands by this."""
        return Charge(id=self.charge_id, status=self.answer.removeprefix("charge."), amount=self.amount)


def verify(secret: str, body: bytes, headers: Mapping[str, str]) -> BankNews:
    """Check the signature over the raw bytes and the time stamp, and only then read the body.

    The stamp may be at most five minutes old, or ahead. Several signatures in one header are fine, so that a
    secret can be replaced without a gap.

    Whatever is wrong with a signature, the refusal says the same: whoever tries out signatures learns nothing.

    Raises:
        Problem: ``signature-invalid`` when it is not the bank's or not fresh, ``bad-request`` when it is, but cannot
            be read, or says something twice.
    """
    try:
        Webhook(secret).verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError) as error:  # a malformed header or body is a ValueError
        logger.warning("a webhook was refused: %s", error)
        raise Problem("signature-invalid", KINDS["signature-invalid"].help) from error
    try:
        json.loads(body, object_pairs_hook=_each_once)
        news = BankNews.model_validate_json(body)
        Answer(news.type)
    except (ValueError, RecursionError) as error:
        raise Problem("bad-request", "The body is not one of the bank's events.") from error
    if news.id != _header(headers, "webhook-id"):
        raise Problem("bad-request", "The event's id is not that of its header.")
    return news


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that has a key twice: two readers could read two different things under one signature."""
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("an object has a key twice")
    return dict(pairs)


def _header(headers: Mapping[str, str], name: str) -> Any:
    return next((value for key, value in headers.items() if key.lower() == name), None)
