"""What the bank's webhooks say; who they are of, and how old, is the library's matter."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from shop.payment.webhooks import news_of
from shop.problems import Problem
from txpatterns.integrations.webhooks import Webhook, WebhookSecrets, new_secret

BODY = json.dumps(
    {
        "id": "evt_1",
        "type": "charge.captured",
        "charge_id": "c",
        "reference": "p",
        "amount": {"amount": "12.30", "currency": "EUR"},
    }
)


def read(body, webhook_id="evt_1"):
    return news_of(Webhook(webhook_id, datetime.now(UTC), body.encode()))


def refused(body, webhook_id="evt_1"):
    with pytest.raises(Problem) as caught:
        read(body, webhook_id)
    return caught.value.kind.slug


def test_a_webhook_is_read():
    news = read(BODY)
    assert (news.reference, news.amount.minor, news.charge.status) == ("p", 1230, "captured")


@pytest.mark.parametrize(
    "odd",
    [
        BODY.replace('"reference": "p"', '"reference": "other", "reference": "p"'),
        BODY.replace('"amount": "12.30"', '"amount": "99.00", "amount": "12.30"'),
        BODY.replace('"id": "evt_1"', '"id": "evt_1", "\\u0069d": "evt_1"'),
        BODY.replace('"p"', '"p", "more": [{"a": 1, "a": 1}]'),
        BODY.replace('"p"', '"p", "deep": ' + "[" * 5000 + "]" * 5000),
    ],
    ids=["member", "nested", "escaped", "unknown", "deep"],
)
def test_what_says_something_twice_is_refused(odd):
    """H248: two readers of one signed body could read two things, so a key that is there twice is refused."""
    assert refused(odd) == "bad-request"


@pytest.mark.parametrize("odd", ["{", "[]", "null", BODY.replace("charge.captured", "charge.exploded"), "{}"])
def test_a_signed_body_must_still_make_sense(odd):
    assert refused(odd) == "bad-request"
    assert refused(BODY, "evt_2") == "bad-request"


async def test_every_refusal_says_the_same(open_services, tmp_path):
    """H154: another secret, another byte, an old stamp, nothing at all: one text for all, in the words of the shop."""
    async with open_services(tmp_path, "payment") as services:
        payments, body = services.straight("payment"), BODY.encode()
        theirs = WebhookSecrets(services.builder.settings.webhook_secret)
        old = theirs.sign("evt_1", body, datetime.now(UTC) - timedelta(minutes=6))
        told = set()
        for headers in ({}, WebhookSecrets(new_secret()).sign("evt_1", body), theirs.sign("evt_1", body + b" "), old):
            with pytest.raises(Problem) as caught:
                await payments.receive_webhook(body, headers)
            told.add((caught.value.kind.slug, caught.value.detail, str(caught.value.extra)))
        assert len(told) == 1
        assert next(iter(told))[0] == "signature-invalid"
        with pytest.raises(Problem) as caught:
            await payments.receive_webhook(body, theirs.sign("evt_1", body))
        assert caught.value.kind.slug == "not-found"
