"""A webhook is the sender's, fresh, and has its effect once; whatever else comes is refused in one way."""

import asyncio
import base64
import hmac
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession

from rig.planting import instead_of
from txpatterns import App, Database
from txpatterns.database.setup import create_missing
from txpatterns.errors import IdReused, WebhookRefused, WebhookSecretInvalid, WebhookUnreadable
from txpatterns.integrations import webhooks
from txpatterns.integrations.fastapi import (
    answer_with_problems,
    session_dependency,
    txpatterns_lifespan,
    webhook_dependency,
)
from txpatterns.integrations.webhooks import Webhook, WebhookReceiver, WebhookSecrets, new_secret
from txpatterns.testing.clock import ManualClock

SECRET = "whsec_" + base64.b64encode(b"canary, thirty-two bytes long: ok").decode()
OTHER = "whsec_" + base64.b64encode(b"another one, as long, of a sort!!").decode()
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BODY = b'{"type": "paid", "amount": "12.30"}'


def signed(secret=SECRET, body=BODY, at=NOW, webhook_id="evt_1"):
    return WebhookSecrets(secret).sign(webhook_id, body, at)


def refusal(headers, body=BODY, secret=SECRET, now=NOW):
    with pytest.raises(WebhookRefused) as caught:
        WebhookSecrets(secret).verify(body, headers, now)
    assert caught.value.__cause__ is None
    return str(caught.value), caught.value.status, dict(caught.value.headers)


def taken(headers, body=BODY, secrets=(SECRET,), now=NOW):
    return WebhookSecrets(*secrets).verify(body, headers, now)


def test_it_signs_as_everybody_does():
    """The example that the libraries of Standard Webhooks have in common."""
    at = datetime.fromtimestamp(1614265330, UTC)
    secrets = WebhookSecrets("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = secrets.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', at)
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    webhook = secrets.verify(b'{"test": 2432232314}', headers, at)
    assert (webhook.id, webhook.sent_at, webhook.json()) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", at, {"test": 2432232314})


@pytest.mark.parametrize("sign", [1, -1])
def test_a_stamp_is_within_five_minutes(sign):
    """H153: to the second, in both directions."""
    for seconds in (0, 299, 300):
        assert taken(signed(at=NOW + sign * timedelta(seconds=seconds)))
    for seconds in (301, 599, 86_400):
        refusal(signed(at=NOW + sign * timedelta(seconds=seconds)))
    refusal(signed(at=NOW + sign * timedelta(seconds=300)), now=NOW - sign * timedelta(milliseconds=1))


def test_what_was_signed_is_what_came():
    """H155: another byte, another way to write the same JSON, or the same bytes cut elsewhere, is something else."""
    for other in (BODY.replace(b"2", b"3"), BODY.replace(b": ", b":"), BODY + b"\n", b" " + BODY, BODY[:-1], b""):
        refusal(signed(), other)
    assert taken(signed(body=b"\xff\xfe\x00"), b"\xff\xfe\x00").body == b"\xff\xfe\x00"
    head = signed()
    stamp = head["webhook-timestamp"]
    refusal(head | {"webhook-id": f"evt_1.{stamp}"})
    refusal(head | {"webhook-id": "evt_2"})
    refusal(head | {"webhook-timestamp": str(int(stamp) + 1)})
    with pytest.raises(ValueError, match="dots"):
        signed(webhook_id="evt.1")


def test_a_shift_between_id_stamp_and_body_does_not_verify():
    """H155: an id with a dot could take a piece of what follows it, so there is none."""
    stamp = str(int(NOW.timestamp()))
    forged = WebhookSecrets(SECRET)._signatures("evt", "1", f"{stamp}.x".encode())[0]
    header = "v1," + base64.b64encode(forged).decode()
    refusal({"webhook-id": "evt.1", "webhook-timestamp": stamp, "webhook-signature": header}, b"x")


def test_a_secret_is_exchanged_without_a_gap():
    """H368: while both are known, what one has signed is taken, whoever exchanges first; then only the new one."""
    old, new, both = signed(SECRET), signed(OTHER), WebhookSecrets(OTHER, SECRET).sign("evt_1", BODY, NOW)
    assert both["webhook-signature"].split(" ") == [new["webhook-signature"], old["webhook-signature"]]
    for headers in (old, new, both):
        assert taken(headers, secrets=(OTHER, SECRET))
    assert taken(both, secrets=(OTHER,))
    assert taken(both, secrets=(SECRET,))
    refusal(old, secret=OTHER)


def test_unknown_versions_and_many_signatures():
    """H368: others may stand beside ours; so many that they cost time are not looked at."""
    mine = signed()["webhook-signature"]
    for header in (f"v1a,AAAA {mine}", f"v2,{mine[3:]} {mine}", f"v1,AAAA {mine}", f"{mine} nonsense", f"  {mine}"):
        assert taken(signed() | {"webhook-signature": header})
    for header in (f"v2,{mine[3:]}", mine[3:], f"V1,{mine[3:]}", f"{mine},", " ".join(["v1,AAAA"] * 8 + [mine])):
        refusal(signed() | {"webhook-signature": header})
    assert taken({name.title(): value for name, value in signed().items()})


def test_every_refusal_is_the_same():
    """H154: a stamp, an id, a signature, missing, odd or wrong: one text, one status, and no cause to look into."""
    fine = signed()
    told = [
        refusal(signed(OTHER)),
        refusal(signed(), BODY + b"x"),
        refusal(signed(at=NOW - timedelta(hours=1))),
        refusal({}),
        *(refusal({name: value for name, value in fine.items() if name != left}) for left in fine),
    ]
    stamp = fine["webhook-timestamp"]
    odd = {
        "webhook-timestamp": [
            *(shape.format(stamp) for shape in ("+{}", "-{}", "0{}", "{}.0", " {}", "{}\n", "{0}, {0}")),
            *("nan", "inf", "1e9", "9" * 400, "٣", ""),
        ],
        "webhook-id": ["", " ", "a b", "é", "\udcff", "x" * 201, "evt_1\n", "evt_1, evt_1"],
        "webhook-signature": ["", " ", "v1", "v1,", "v1,***", "v1,é", "\udcff", "v1,AAAA", "nonsense", ",,"],
    }
    told += [refusal(fine | {name: value}) for name, values in odd.items() for value in values]
    assert len({str(each) for each in told}) == 1
    assert told[0][1] == 401


def test_all_is_compared_in_constant_time(monkeypatch):
    """H154: digests of one length, each with each, however many were sent and whichever fits."""
    compare, seen = hmac.compare_digest, []

    def noting(ours, theirs):
        seen.append((len(ours), len(theirs)))
        return compare(ours, theirs)

    monkeypatch.setattr(hmac, "compare_digest", noting)
    counts = []
    for headers in (
        signed(),
        signed() | {"webhook-signature": "x"},
        {},
        signed(at=NOW - timedelta(hours=1)),
        signed(OTHER),
    ):
        seen.clear()
        with suppress(WebhookRefused):
            WebhookSecrets(SECRET, OTHER).verify(BODY, headers, NOW)
        counts.append(Counter(seen))
    assert counts == [Counter({(32, 32): 16})] * 5


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "whsec_",
        b"",
        "whsec_canary",
        "whsec_canary!" * 9,
        b"canary-canary-canary-23",
        b"canary! " * 9,
        b"x" * 32,
        b"ab" * 16,
        SECRET * 2,
        "changeme",
        "é" * 40,
    ],
)
def test_a_secret_that_protects_nothing_is_refused_at_the_start(bad, tmp_path):
    """H368, I17: and none of it is in the error, nor in what led to it."""
    app = App("hooks", f"sqlite+aiosqlite:///{tmp_path}/hooks.db")
    for make in (WebhookSecrets, partial(WebhookReceiver, app, "bank")):
        with pytest.raises(WebhookSecretInvalid) as caught:
            make(bad)
        assert "canary" not in str(caught.value)
        assert caught.value.__cause__ is None
        with pytest.raises(WebhookSecretInvalid):
            make()


def test_a_secret_shows_nowhere(caplog):
    """I17, H151: not in what is printed of an object, nor in the log of a refusal."""
    secrets = WebhookSecrets(SECRET)
    for headers in (signed(OTHER), {}, signed(at=NOW - timedelta(hours=1))):
        refusal(headers)
    signature = signed()["webhook-signature"]
    shown = f"{secrets!r} {vars(secrets)!r} {caplog.text}"
    assert len(caplog.records) == 3
    for hidden in ("canary", SECRET[6:], signature[3:], signed(OTHER)["webhook-signature"][3:]):
        assert hidden not in shown
    assert taken(WebhookSecrets(made := new_secret()).sign("evt", BODY, NOW), secrets=(made,))


@pytest.mark.parametrize(
    "odd",
    [
        *(b"{", b"", b"\xff", b'{"a": 1, "a": 2}', b'{"a": 1, "\\u0061": 2}', b'[{"a": {"b": 1, "b": 1}}]', b"NaN"),
        *(b"[" * 100_000, b"9" * 5_000, '{"a": 1}'.encode("utf-16"), b"\xef\xbb\xbf{}"),
    ],
    ids=["cut", "empty", "bytes", "twice", "escaped", "nested", "constant", "deep", "long", "utf-16", "mark"],
)
def test_what_two_readers_could_read_as_two_things_is_not_read(odd):
    """H155, H248: signed or not; the error says nothing of what was sent."""
    with pytest.raises(WebhookUnreadable) as caught:
        Webhook("evt_1", NOW, odd).json()
    assert caught.value.status == 400


class Till:
    """An application that counts the payments that a bank tells it of."""

    def __init__(self, database):
        metadata = sa.MetaData()
        self.paid = sa.Table(
            "paid", metadata, sa.Column("number", sa.Integer, primary_key=True), sa.Column("event", sa.String(50))
        )
        self.app = App("till", database, "memory://", metadata=metadata)
        self.receiver = WebhookReceiver(self.app, "bank", OTHER, SECRET, max_body=1_000)
        self.web = FastAPI(lifespan=txpatterns_lifespan(self.app, relay=False, consume=False))
        self.fails = False
        answer_with_problems(self.web)
        opened = Depends(session_dependency(self.app), scope="function")
        verified = Depends(webhook_dependency(self.receiver))

        @self.web.post("/bank")
        async def bank(webhook: Webhook = verified, session: AsyncSession = opened) -> bool:
            is_first = await self.receiver.aclaim(session, webhook)
            if is_first:
                await session.execute(sa.insert(self.paid).values(event=webhook.id))
            if self.fails:
                raise OSError("the disk is full")
            return is_first

    async def count(self):
        query = sa.select(sa.func.count()).select_from(self.paid)
        return await self.app.database.read(lambda connection: connection.scalar(query))

    async def client(self):
        await self.app.database.transact(partial(create_missing, target=self.app.metadata))
        transport = httpx.ASGITransport(self.web, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://till")


@pytest.fixture
def clock():
    return ManualClock(NOW)


@pytest.fixture
async def till(any_database, clock):
    async with Database(any_database, clock=clock) as database:
        yield Till(database)


async def test_a_webhook_has_its_effect_once(till, clock):
    """P2, H153: fifteen times at once, and again as long as its stamp is fresh, and signed anew days later."""
    async with await till.client() as client:
        ahead = signed(at=NOW + timedelta(minutes=5))
        answers = await asyncio.gather(*(client.post("/bank", content=BODY, headers=ahead) for _ in range(15)))
        assert Counter((answer.status_code, answer.json()) for answer in answers) == {(200, True): 1, (200, False): 14}
        for seconds, status in ((299, 200), (301, 200), (599, 200), (601, 401)):
            clock.advance(NOW + timedelta(seconds=seconds) - clock.now())
            assert (await client.post("/bank", content=BODY, headers=ahead)).status_code == status
        clock.advance(timedelta(days=3))
        again = await client.post("/bank", content=BODY, headers=signed(OTHER, at=clock.now()))
        assert (again.status_code, again.json(), await till.count()) == (200, False, 1)


async def test_it_is_remembered_exactly_if_its_effect_commits(till):
    """P2, H153: an error is no answer that the sender could take for one; the next time it is the first."""
    async with await till.client() as client:
        till.fails = True
        assert (await client.post("/bank", content=BODY, headers=signed())).status_code == 500
        assert await till.count() == 0
        till.fails = False
        assert (await client.post("/bank", content=BODY, headers=signed())).json() is True
        assert await till.count() == 1


async def test_one_id_for_two_things_is_an_error(till):
    """P1, H153: what is not the same is not dropped as if it were; a person sees it."""
    async with await till.client() as client:
        assert (await client.post("/bank", content=BODY, headers=signed())).json() is True
        other = BODY.replace(b"12", b"13")
        assert (await client.post("/bank", content=other, headers=signed(body=other))).status_code == 500
        with pytest.raises(IdReused):
            async with till.app.transaction() as session:
                await till.receiver.aclaim(session, Webhook("evt_1", NOW, other))
        assert await till.count() == 1


def forget(database: Path):
    """Who asks it from now on would make it anew."""
    database.unlink()


async def test_strangers_learn_nothing_and_cost_nothing(tmp_path, clock):
    """H154, H161: one answer for all that is wrong, before the database is asked; too much is not read at all."""
    till = Till(Database(f"sqlite+aiosqlite:///{tmp_path}/till.db", clock=clock))
    read = []

    async def pieces():
        for _ in range(100):
            read.append(1)
            yield b"x" * 500

    async with await till.client() as client:
        await till.app.close()
        forget(tmp_path / "till.db")
        attempts = [
            signed(OTHER, body=b"other"),
            {},
            signed() | {"webhook-id": "e.1"},
            signed(at=NOW - timedelta(days=1)),
        ]
        twice = [*signed().items(), ("webhook-signature", "v1,AAAA")]
        answers = [await client.post("/bank", content=BODY, headers=headers) for headers in (*attempts, twice)]
        assert {(each.status_code, each.text, str(each.headers)) for each in answers} == {
            (answers[0].status_code, answers[0].text, str(answers[0].headers))
        }
        assert answers[0].status_code == 401
        assert answers[0].json()["code"] == "TXP-2005"
        assert (await client.post("/bank", content=pieces(), headers=signed())).status_code == 413
        assert len(read) == 3
        announced = {**signed(), "content-length": "1001"}
        assert (await client.post("/bank", content=pieces(), headers=announced)).status_code == 413
        assert len(read) == 3
        assert (await client.get("/bank")).status_code == 405
    assert not (tmp_path / "till.db").exists()
    await till.app.close()


def takes_any_time(patch):
    """How old it is does not count."""
    patch.setattr(webhooks, "WINDOW", timedelta(days=9_999))


def looks_at_the_beginning(patch):
    """The first bytes of the signature decide."""
    patch.setattr(hmac, "compare_digest", lambda ours, theirs: ours[:0] == theirs[:0])


def signs_what_it_has_read(patch):
    """What is verified is the JSON as it would be written here."""
    real = WebhookSecrets._signatures

    @instead_of(patch, WebhookSecrets, real)
    def tidy(self, webhook_id, stamp, body):
        return real(self, webhook_id, stamp, body.replace(b": ", b":").strip())


def knows_one_secret(patch):
    """Of two secrets, the first one counts."""
    real = WebhookSecrets._signatures

    @instead_of(patch, WebhookSecrets, real)
    def first(self, webhook_id, stamp, body):
        return real(self, webhook_id, stamp, body)[:1]


def looks_at_one_signature(patch):
    """The header is one signature, whatever stands behind it."""
    patch.setattr(webhooks, "_MOST_SIGNATURES", 1)


def ends_early(patch):
    """Behind a signature that fits, no other is looked at."""

    def first(self, webhook_id, stamp, body, header):
        given = [webhooks._decoded(each) for each in header.split(" ")]
        return any(
            hmac.compare_digest(ours, each) for ours in self._signatures(webhook_id, stamp, body) for each in given
        )

    patch.setattr(WebhookSecrets, "_is_signed", first)


@pytest.mark.parametrize(
    ("plant", "test"),
    [
        (takes_any_time, partial(test_a_stamp_is_within_five_minutes, 1)),
        (looks_at_the_beginning, test_what_was_signed_is_what_came),
        (signs_what_it_has_read, test_what_was_signed_is_what_came),
        (knows_one_secret, test_a_secret_is_exchanged_without_a_gap),
        (looks_at_one_signature, test_unknown_versions_and_many_signatures),
    ],
)
def test_a_planted_bug_is_found(monkeypatch, plant, test):
    """H153, H154, H155, H368: what people do write turns one of the tests above red."""
    plant(monkeypatch)
    with pytest.raises((AssertionError, WebhookRefused, pytest.fail.Exception)):
        test()


def test_a_comparison_that_ends_early_is_found(monkeypatch):
    """H154: planted, it is seen by the number of comparisons."""
    ends_early(monkeypatch)
    with pytest.raises(AssertionError), monkeypatch.context() as patch:
        test_all_is_compared_in_constant_time(patch)


async def test_an_effect_without_a_claim_is_found(till, clock, monkeypatch):
    """P2, H153: planted, the second time counts."""
    monkeypatch.setattr(WebhookReceiver, "claim", lambda self, session, webhook: True)
    with pytest.raises(AssertionError):
        await test_a_webhook_has_its_effect_once(till, clock)
