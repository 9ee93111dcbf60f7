import base64
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest

from shop.bank.app import signed
from shop.payment.webhooks import verify
from shop.problems import Problem

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes, yes").decode()
OTHER = "whsec_" + base64.b64encode(b"another one, just as long, of sorts").decode()
BODY = json.dumps(
    {
        "id": "evt_1",
        "type": "charge.captured",
        "charge_id": "c",
        "reference": "p",
        "amount": {"amount": "12.30", "currency": "EUR"},
    }
)


def headers(age=timedelta(0), secret=SECRET, webhook_id="evt_1", body=BODY):
    return signed(secret, webhook_id, body, datetime.now(UTC) - age)


def refused(body=BODY, signed_body=None, **wrong):
    with pytest.raises(Problem) as caught:
        verify(SECRET, body.encode(), headers(body=signed_body or BODY, **wrong))
    return caught.value.kind.status


def test_a_signed_webhook_is_read():
    news = verify(SECRET, BODY.encode(), headers())
    assert (news.reference, news.amount.minor) == ("p", 1230)


def test_the_stamp_may_be_five_minutes_off():
    """Not older and not further ahead; the half second is the test's own slack."""
    assert verify(SECRET, BODY.encode(), headers(age=timedelta(minutes=4, seconds=58)))
    assert refused(age=timedelta(minutes=5, seconds=2)) == 401
    assert refused(age=-timedelta(minutes=5, seconds=2)) == 401


def test_another_secret_or_another_byte_is_refused():
    """H155: the signature is over the bytes that came; the same JSON written in another way is not them."""
    assert refused(secret=OTHER) == 401
    assert refused(body=BODY.replace("12.30", "12.31")) == 401
    assert json.loads(BODY.replace(": ", ":")) == json.loads(BODY)
    assert refused(body=BODY.replace(": ", ":"), signed_body=BODY) == 401


def test_what_is_not_signed_is_not_read():
    """H155: a forged body that is no JSON is refused for its signature, and nobody learns how it would be parsed."""
    assert refused(body="{", secret=OTHER) == 401


def test_signatures_are_compared_in_constant_time(monkeypatch):
    """H154: what decides is `compare_digest`, which takes as long for the first wrong byte as for the last."""
    compared = []

    def compare(ours, theirs):
        compared.append((ours, theirs))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert refused() == 401
    assert len(compared) == 1
    assert compared[0][0] == compared[0][1]


def test_a_secret_is_replaced_without_a_gap():
    """Two signatures in one header: one of them fits."""
    both = headers()
    both["webhook-signature"] = headers(secret=OTHER)["webhook-signature"] + " " + both["webhook-signature"]
    assert verify(SECRET, BODY.encode(), both)


@pytest.mark.parametrize(
    "broken",
    [
        {"webhook-signature": "nonsense"},
        {"webhook-signature": "v1,***"},
        {"webhook-timestamp": "yesterday"},
        {"webhook-id": ""},
    ],
)
def test_malformed_headers_are_refused(broken):
    with pytest.raises(Problem) as caught:
        verify(SECRET, BODY.encode(), headers() | broken)
    assert caught.value.kind.status == 401


def test_every_refusal_says_the_same():
    """H154: an old stamp, another secret, another byte, a malformed or missing header: one text for all."""
    fine = headers()
    attempts = [
        (BODY, headers(age=timedelta(minutes=9))),
        (BODY, headers(age=-timedelta(minutes=9))),
        (BODY, headers(secret=OTHER)),
        (BODY.replace("12.30", "12.31"), fine),
        (BODY, {}),
        *(
            (BODY, fine | {"webhook-signature": text})
            for text in ("nonsense", "v1,***", "v1,\xe9", "v2,AAAA", ",,", " ")
        ),
        *((BODY, fine | {"webhook-timestamp": text}) for text in ("yesterday", "nan", "inf", "1e400", "-1e30")),
        ("\udcff", fine),
    ]
    told = set()
    for body, given in attempts:
        with pytest.raises(Problem) as caught:
            verify(SECRET, body.encode(errors="surrogateescape"), given)
        told.add((caught.value.kind.slug, caught.value.detail, str(caught.value.extra)))
    assert len(told) == 1
    assert next(iter(told))[0] == "signature-invalid"


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
    with pytest.raises(Problem) as caught:
        verify(SECRET, odd.encode(), headers(body=odd))
    assert caught.value.kind.slug == "bad-request"


def test_a_body_that_is_not_text_is_refused():
    with pytest.raises(Problem) as caught:
        verify(SECRET, b"\xff\xfe", headers())
    assert caught.value.kind.status == 401


def test_a_signed_body_must_still_make_sense():
    odd = BODY.replace("charge.captured", "charge.exploded")
    with pytest.raises(Problem) as caught:
        verify(SECRET, odd.encode(), headers(body=odd))
    assert caught.value.kind.status == 400
