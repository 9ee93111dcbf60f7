"""Accounts and sessions: who has one is nobody's business, and a stolen token is noticed. On both databases."""

import asyncio
import os
from dataclasses import replace
from datetime import timedelta

import jwt
import pytest
from pwdlib import PasswordHash
from sqlalchemy import text

from rig.servers.postgres import Postgres
from rig.started import started
from shop.problems import Problem
from shop.rpc.services import SERVICES
from shop.tokens import ALGORITHM, AccessTokens, SignedIn
from shop.users.refresh import RefreshTokens, digest_of
from shop.users.seed import DEMO_PASSWORD
from shop.users.tries import Tries
from txpatterns.resilience import MemoryBuckets
from txpatterns.testing.clock import ManualClock

ADA, HERE = "ada@example.com", "192.0.2.1"
SECRET, NEWER = "s" * 40, "n" * 40
NEW = ("grace@example.com", "long enough", "Grace", HERE)


@pytest.fixture(scope="module")
def postgres_url():
    with started(Postgres) as server:
        yield server.url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.server)])
async def services(request, open_services, tmp_path):
    """The users' service, and its gRPC server beside it."""
    servers = {"SHOP_TOKEN_SECRET": SECRET, "SHOP_DEMO_USERS": "on"}
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+asyncpg://")
        name = f"u{os.getpid()}_{tmp_path.name[-20:]}_{{service}}"
        servers |= {"SHOP_DATABASE": f"{url.rpartition('/')[0]}/{name}", "SHOP_BROKER": "memory://"}
    async with open_services(tmp_path, "users", **servers) as opened:
        yield opened


@pytest.fixture
def users(services):
    api = services.straight("users")
    # Time stands still between tries: on a slow machine buckets would fill up meanwhile.
    api.tools = replace(api.tools, tries=Tries(MemoryBuckets(clock=ManualClock())))
    return services.grpc("users")


@pytest.fixture
def sql(services):
    """Ask the service's own database, past its service."""
    database = services.builder.app_of("users")

    async def run(statement):
        async with database.transaction() as session:
            found = await session.execute(text(statement))
            return [tuple(row) for row in found] if found.returns_rows else []

    return run


async def refused(call):
    with pytest.raises(Problem) as caught:
        await call
    return caught.value.kind.slug


def heard(services):
    """Whatever the users' service adds to its outbox from now on."""
    outbox, added = services.builder.app_of("users").outbox, []
    usual = outbox.add

    def add(session, event, **options):
        added.append(event)
        return usual(session, event, **options)

    outbox.add = add
    return added


async def later(sql):
    """Let the last exchange be some time ago."""
    await sql("update login_session set rotated_at = '2026-01-01 00:00:00+00:00'")


async def test_a_refresh_token_is_exchanged_once(users, services, sql):
    """H380: each exchange gives another one; the former one, when it comes again later, ends the session for both."""
    added = heard(services)
    first = await users.login(ADA, DEMO_PASSWORD, HERE)
    second = await users.refresh(first.refresh_token)
    assert second.refresh_token != first.refresh_token
    await later(sql)
    assert await refused(users.refresh(first.refresh_token)) == "session-ended"
    assert await refused(users.refresh(second.refresh_token)) == "session-ended"
    assert [(event.user_id, event.session_id) for event in added] == await sql(
        "select account_id, id from login_session where end_reason = 'token_reuse'"
    )
    assert len(added) == 1
    assert await refused(users.refresh(first.refresh_token)) == "session-ended"
    assert len(added) == 1


async def test_another_session_of_the_same_person_goes_on(users, sql):
    """H380: what is ended is the family of the token that was in two hands."""
    stolen, other = [await users.login(ADA, DEMO_PASSWORD, HERE) for _ in range(2)]
    await users.refresh(stolen.refresh_token)
    await later(sql)
    assert await refused(users.refresh(stolen.refresh_token)) == "session-ended"
    assert (await users.refresh(other.refresh_token)).user.email == ADA


async def test_a_successor_in_use_leaves_no_grace(users):
    """H380: whoever has the token before the last one is not somebody whose answer got lost."""
    first = await users.login(ADA, DEMO_PASSWORD, HERE)
    second = await users.refresh(first.refresh_token)
    third = await users.refresh(second.refresh_token)
    assert await refused(users.refresh(first.refresh_token)) == "session-ended"
    assert await refused(users.refresh(third.refresh_token)) == "session-ended"


async def test_an_answer_that_got_lost_is_given_again(users, sql):
    """H381: the same exchange within the grace time gives the same successor, and there is no second one."""
    first = await users.login(ADA, DEMO_PASSWORD, HERE)
    lost = await users.refresh(first.refresh_token)
    again = await users.refresh(first.refresh_token)
    assert again.refresh_token == lost.refresh_token
    assert (await users.refresh(lost.refresh_token)).user.email == ADA
    assert await sql("select count(*) from refresh_token") == [(3,)]


async def test_twenty_windows_exchange_the_same_token_at_once(users, sql):
    """H381: all of them are given the one successor, and all of them go on."""
    first = await users.login(ADA, DEMO_PASSWORD, HERE)
    given = await asyncio.gather(*(users.refresh(first.refresh_token) for _ in range(20)))
    (successor,) = {each.refresh_token for each in given}
    await later(sql)
    assert (await users.refresh(successor)).user.email == ADA


async def test_logging_out_ends_the_session(users):
    """H380: its tokens are worth nothing then; again, or with what was never one, is fine."""
    first = await users.login(ADA, DEMO_PASSWORD, HERE)
    for token in (first.refresh_token, first.refresh_token, "never", ""):
        await users.logout(token)
    assert await refused(users.refresh(first.refresh_token)) == "session-ended"


async def test_a_session_has_an_end_however_often_it_is_prolonged(users, sql):
    """H380: after that day somebody signs in again."""
    first = await users.login(ADA, DEMO_PASSWORD, HERE)
    await sql("update login_session set expires_at = rotated_at")
    assert await refused(users.refresh(first.refresh_token)) == "session-ended"


async def test_tables_hold_no_token_and_no_password(users, services, sql):
    """H383: with a copy of the database nobody signs in."""
    given = await users.login(ADA, DEMO_PASSWORD, HERE)
    later_one = await users.refresh(given.refresh_token)
    kept = str([await sql(f"select * from {table}") for table in ("account", "login_session", "refresh_token")])
    for secret in (given.refresh_token, later_one.refresh_token, given.access_token, DEMO_PASSWORD, SECRET):
        assert secret not in kept
    assert given.refresh_token not in repr(given)
    assert given.access_token not in repr(given)


@pytest.mark.parametrize("who", ["dev@example.com", "eve@example.com"])
async def test_an_old_hash_is_made_anew_at_sign_in(users, sql, who):
    """H383: bcrypt, and Argon2id with weaker parameters; the same password goes on to work, and once is enough."""
    query = f"select password_hash from account where email = '{who}'"
    before = await sql(query)
    assert await refused(users.login(who, "another one", HERE)) == "credentials-refused"
    assert await sql(query) == before
    await users.login(who, DEMO_PASSWORD, HERE)
    after = await sql(query)
    assert after != before
    assert after[0][0].startswith("$argon2id$v=19$m=65536,")
    await users.login(who, DEMO_PASSWORD, HERE)
    assert await sql(query) == after


async def test_nobody_learns_who_has_an_account(users, monkeypatch):
    """H382: a wrong password and nobody's address are answered alike, after the same work."""
    work = []
    for name in ("hash", "verify_and_update"):
        usual = getattr(PasswordHash, name)
        monkeypatch.setattr(
            PasswordHash, name, lambda *given, usual=usual, name=name: work.append(name) or usual(*given)
        )
    answers = []
    for email in (ADA, "nobody@example.com", "no address", ""):
        work.clear()
        with pytest.raises(Problem) as caught:
            await users.login(email, "wrong" * 3, HERE)
        answers.append((caught.value.body(), list(work)[-1:], work.count("verify_and_update")))
    assert answers[0][1:] == (["verify_and_update"], 1)
    assert all(answer == answers[0] for answer in answers)


async def test_registering_twice_is_answered_alike_and_changes_nothing(users, services, monkeypatch):
    """H382: the account stays as it is, the same hash is computed, and one event tells of it."""
    added, hashed = heard(services), []
    usual = PasswordHash.hash
    monkeypatch.setattr(PasswordHash, "hash", lambda *given: hashed.append(1) or usual(*given))
    assert await users.register(*NEW) is None
    assert await users.register(" Grace@Example.COM", "something else", "Mallory", HERE) is None
    assert len(hashed) == 2
    assert (await users.login(*NEW[:2], HERE)).user.name == "Grace"
    assert await refused(users.login(NEW[0], "something else", HERE)) == "credentials-refused"
    assert [type(event).__name__ for event in added] == ["UserRegistered"]


async def test_registering_many_times_at_once_opens_one_account(users, services, sql):
    """H382: whoever comes second is answered like whoever comes first."""
    assert await asyncio.gather(*(users.register(*NEW) for _ in range(5))) == [None] * 5
    assert await sql(f"select count(*) from account where email = '{NEW[0]}'") == [(1,)]


@pytest.mark.parametrize(
    "given", [("no address", NEW[1]), ("a@b", NEW[1]), (f"{'a' * 260}@b.c", NEW[1]), (NEW[0], "short")]
)
async def test_what_no_account_can_have_is_refused(users, given):
    assert await refused(users.register(*given, "Grace", HERE)) == "invalid"


@pytest.mark.parametrize("email", [ADA, "nobody@example.com"])
async def test_the_eleventh_try_in_a_minute_has_to_wait(users, email):
    """H382: also where there is no account, also with the right password; somebody elsewhere may try."""
    for _ in range(10):
        assert await refused(users.login(email, "wrong" * 3, HERE)) == "credentials-refused"
    with pytest.raises(Problem) as caught:
        await users.login(email, DEMO_PASSWORD, HERE)
    assert caught.value.kind.slug == "too-many-tries"
    assert 1 <= caught.value.extra["retry_after"] <= 60
    elsewhere = await asyncio.gather(users.login(email, DEMO_PASSWORD, "192.0.2.2"), return_exceptions=True)
    assert isinstance(elsewhere[0], Problem) is (email != ADA)


def test_what_was_typed_is_in_no_error():
    """H383: a call that does not fit says where, and not what came."""
    (login,) = [rpc for rpc in SERVICES["users"].rpcs if rpc.name == "login"]
    with pytest.raises(ValueError, match="200 characters") as caught:
        login.method.arguments["password"].validate_json('"' + "hunter2" * 40 + '"')
    assert "hunter2" not in str(caught.value)


FIVE = timedelta(minutes=5)
WHO = SignedIn("ada", "session")


def forged(secret=SECRET, algorithm=ALGORITHM, **other):
    claims = jwt.decode(AccessTokens([SECRET], FIVE).issue(WHO), options={"verify_signature": False})
    return jwt.encode({name: v for name, v in (claims | other).items() if v is not None}, secret, algorithm)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a.b.c",
        forged("x" * 40),
        forged(None, "none"),
        forged(algorithm="HS512", secret=SECRET * 2),
        forged(aud="another"),
        forged(iss="another"),
        forged(exp=1),
        forged(exp=None),
        forged(sub=None),
        AccessTokens([SECRET], -FIVE).issue(WHO),
    ],
)  # fmt: skip
def test_a_token_that_is_not_ours_is_refused(token):
    """H383: another signature, another algorithm or none, for somebody else, run out, or with something left out."""
    with pytest.raises(Problem) as caught:
        AccessTokens([SECRET], FIVE).read(token)
    assert caught.value.kind.slug == "unauthenticated"
    assert not token or token not in str(caught.value.body())


def test_secrets_are_exchanged_without_signing_anybody_out():
    """H383: what the old one has made is believed, and the new one makes what comes."""
    old, both, new = (AccessTokens(secrets, FIVE) for secrets in ([SECRET], [NEWER, SECRET], [NEWER]))
    assert both.read(old.issue(WHO)) == new.read(both.issue(WHO)) == WHO
    made = RefreshTokens([SECRET]).make("session", 3)
    assert RefreshTokens([NEWER, SECRET]).again("session", 3, digest_of(made)) == made
    assert RefreshTokens([NEWER]).again("session", 3, digest_of(made)) is None
