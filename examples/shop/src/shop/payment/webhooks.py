"""What the bank's webhooks say."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from shop.money import Money
from shop.payment.domain import Answer
from shop.ports import Charge
from shop.problems import Problem
from txpatterns.errors import WebhookUnreadable
from txpatterns.integrations.webhooks import Webhook


class BankNews(BaseModel):
    """A webhook's body. ``reference`` is the id of our payment, which we gave the bank."""

    id: str
    type: Answer
    charge_id: str
    reference: str
    amount: Money

    @property
    def charge(self) -> Charge:
        """The charge, as it stands by this."""
        return Charge(id=self.charge_id, status=self.type.removeprefix("charge."), amount=self.amount)


def news_of(webhook: Webhook) -> BankNews:
    """Read a webhook that is the bank's.

    Raises:
        Problem: ``bad-request`` when it cannot be read, or says something twice, or something else than its header.
    """
    try:
        news = BankNews.model_validate(webhook.json())
    except (WebhookUnreadable, ValidationError) as error:
        raise Problem("bad-request", "The body is not one of the bank's events.") from error
    if news.id != webhook.id:
        raise Problem("bad-request", "The event's id is not that of its header.")
    return news
