"""A request that comes again is given the first answer, and nothing is done twice."""

import asyncio
import inspect
import signal
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from fastapi import APIRouter, BackgroundTasks, Depends
from fastapi.responses import PlainTextResponse, StreamingResponse
from sqlalchemy.ext.asyncio import AsyncSession

from integrations.halls import Hall, ask, is_replay
from rig.planting import instead_of
from txpatterns import App, Database
from txpatterns.errors import AnswerNotKept, ConfigurationError, KeyInUse, KeyReused, PrincipalMissing, TurnLost
from txpatterns.integrations import idempotency
from txpatterns.integrations.answers import Answer, AnswerStore, Found, Turn
from txpatterns.integrations.fastapi import keyed, keyed_route, session_dependency
from txpatterns.integrations.fastapi.keeping import Keeping
from txpatterns.integrations.idempotency import IdempotencyKeys, fingerprint_of, parsed_key
from txpatterns.testing.clock import ManualClock

WAYS = ["async", "late", "plain", "elsewhere"]
LEASE, KEEP = timedelta(minutes=1), timedelta(days=1)
DYING = Path(__file__).with_name("dying.py")
DONE = Answer(201, (("location", "/seats/1"),), b"taken")


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
async def hall(any_database, clock):
    """On each kind of database."""
    async with Database(any_database, clock=clock) as database:
        yield Hall(database)


@pytest.fixture
async def small(tmp_path, clock):
    """On SQLite, for what no database decides."""
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/hall.db", clock=clock) as database:
        yield Hall(database)


async def test_the_first_answer_is_given_again(hall):
    """P2, H364: status, chosen headers and bytes are those of the first time, in coroutines and threads, wherever the
    commit is; a header says that it is a repeat."""
    async with hall.open() as client:
        for number, way in enumerate(WAYS, 1):
            first, again = await ask(client, way, way), await ask(client, way, way)
            assert (first.status_code, first.json(), is_replay(first)) == (201, {"taken": number}, False)
            assert (again.status_code, again.content, is_replay(again)) == (201, first.content, True)
            assert again.headers["location"] == first.headers["location"] == f"/seats/{number}"
            assert again.headers["content-type"] == first.headers["content-type"]
            assert "set-cookie" not in again.headers
        assert await hall.taken() == len(WAYS)


async def test_twenty_at_once_are_one(hall):
    """P2, H364: over a real socket one of them is answered; the others are told to come again, and get the same."""
    async with hall.serve() as client:
        for way in ("async", "plain"):
            many = await asyncio.gather(*(ask(client, way, way) for _ in range(20)))
            counted = Counter((answer.status_code, is_replay(answer)) for answer in many)
            assert counted[201, False] == 1, counted
            assert counted.keys() <= {(201, False), (201, True), (409, False)}
            told = [answer.headers["retry-after"] for answer in many if answer.status_code == 409]
            assert set(told) <= {"1"}
            bodies = {answer.content for answer in many if answer.status_code == 201}
            assert {(await ask(client, way, way)).content} == bodies
        assert await hall.taken() == 2


async def test_a_request_that_is_under_way_is_not_waited_for(hall):
    """H365: the second is told 409 and when to come again, while the first still holds its transaction."""
    inside, go_on = asyncio.Event(), asyncio.Event()

    async def meanwhile():
        inside.set()
        await go_on.wait()

    hall.meanwhile = meanwhile
    async with hall.open() as client:
        first = asyncio.create_task(ask(client))
        await inside.wait()
        second = await ask(client)
        assert (second.status_code, second.headers["retry-after"]) == (409, "1")
        assert second.headers["content-type"] == "application/problem+json"
        assert second.json()["code"] == "TXP-2004"
        assert (await ask(client, json={"other": 1})).status_code == 422
        go_on.set()
        assert (await first).status_code == 201
        assert is_replay(await ask(client))
        assert await hall.taken() == 1


async def test_who_has_died_is_followed(hall, clock):
    """P7, H365: a turn that nobody uses is free when its lease is over, and not before; only for the same request."""
    fingerprint = fingerprint_of("POST", "/seats/async?", b"")
    async with hall.open() as client:
        assert isinstance(await hall.keys.begin("alice", "k", fingerprint), Turn)
        clock.advance(LEASE - timedelta(seconds=30))
        waiting = await ask(client)
        assert (waiting.status_code, waiting.headers["retry-after"]) == (409, "30")
        clock.advance(timedelta(seconds=30))
        assert (await ask(client, json={"other": 1})).status_code == 422
        assert (await ask(client)).status_code == 201
        assert await hall.taken() == 1


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'hall.db'}"
    return request.getfixturevalue("database").url("asyncpg")


@pytest.mark.parametrize("point", [pytest.param("effect", marks=pytest.mark.soak), "answer", "commit"])
async def test_a_process_that_is_killed_has_answered_or_done_nothing(url, child, point):
    """P2, P7, H364: killed behind the effect, behind its answer and behind the commit of both, it leaves both or none;
    whoever asks again after the lease gets the first answer, or is the first."""
    assert child(DYING, url, point).wait() == -signal.SIGKILL
    async with Database(url, clock=ManualClock(datetime.now(UTC) + LEASE)) as database:
        hall = Hall(database)
        async with hall.open() as client:
            assert await hall.taken() == (point == "commit")
            answers = [await ask(client) for _ in "12"]
            assert [(answer.status_code, answer.json()) for answer in answers] == [(201, {"taken": 1})] * 2
            assert [is_replay(answer) for answer in answers] == [point == "commit", True]
            assert (hall.begun, await hall.taken()) == (point != "commit", 1)


@pytest.mark.parametrize("way", ["async", "late"])
async def test_who_was_too_slow_has_done_nothing(database, clock, way):
    """P2, H365: taken over, a request is rolled back at its end, and gives the answer of the one that did it."""
    async with Database(database.url("asyncpg"), clock=clock) as ours:
        hall = Hall(ours)
        inside, go_on = asyncio.Event(), asyncio.Event()

        async def meanwhile():
            if not inside.is_set():
                inside.set()
                await go_on.wait()

        hall.meanwhile = meanwhile
        async with hall.open() as client:
            slow = asyncio.create_task(ask(client, way))
            await inside.wait()
            clock.advance(LEASE)
            quick = await ask(client, way)
            assert (quick.status_code, is_replay(quick)) == (201, False)
            go_on.set()
            beaten = await slow
            assert (beaten.status_code, beaten.content, is_replay(beaten)) == (201, quick.content, True)
            assert (hall.begun, await hall.taken()) == (2, 1)


async def test_a_key_is_for_one_request_of_one_user(hall):
    """H366: another body, path, query or method is refused, also when it comes first to nobody else; another
    user has a key of the same name, and a stranger is asked who they are before anything is looked up."""
    async with hall.open() as client:
        first = await ask(client, json={"row": 1})
        for way, body in (("async", {"row": 2}), ("async?status=200", {"row": 1}), ("plain", {"row": 1})):
            other = await ask(client, way, json=body)
            assert other.status_code == 422
            assert other.json()["code"] == "TXP-2003"
        assert (await ask(client, "late", json={"row": 1})).status_code == 422
        bob = await ask(client, who="bob", json={"row": 1})
        assert (bob.status_code, bob.json(), is_replay(bob)) == (201, {"taken": 2}, False)
        assert (await ask(client, who="stranger", json={"row": 1})).status_code == 401
        assert (await ask(client, json={"row": 1})).content == first.content
        assert await hall.taken() == 2


async def test_where_a_path_ends_is_part_of_the_request(small):
    """H366: a question mark inside the path, and one that begins the query, are two requests."""
    opened = Depends(session_dependency(small.app), scope="function")

    @small.routes.post("/row/{name:path}", status_code=201)
    async def in_a_row(name: str, session: AsyncSession = opened) -> str:
        await session.run_sync(small.book, "row")
        return name

    async with small.open() as client:
        assert (await ask(client, "row/a%3Fb")).json() == "a?b"
        for other in ("row/a?b?", "row/a%253Fb"):
            assert (await ask(client, other)).status_code == 422
        assert is_replay(await ask(client, "row/a%3Fb"))
        assert await small.taken() == 1


async def test_nobody_is_taken_for_everybody(small):
    """H366: where nobody says who asks, keys are not shared: the request fails, and nothing is done."""
    async with small.open() as client:
        assert (await ask(client, who="")).status_code == 500
        for nobody in ("", None, 7):
            with pytest.raises(PrincipalMissing):
                await small.keys.begin(nobody, "k", "f")
        assert await small.taken() == 0


@pytest.mark.parametrize(
    ("values", "key"),
    [
        (["8e03978e-40d5"], "8e03978e-40d5"),
        (['"8e03978e-40d5"'], "8e03978e-40d5"),
        (['"a b"'], "a b"),
        ([r'"a\"b\\"'], 'a"b\\'),
        (["x" * 200], "x" * 200),
        ([], None),
        *(
            ([bad], KeyError)
            for bad in ("", " ", '""', "a b", "a,b", '"a', 'a"', r'"\a"', "x" * 201, "é", "a\x7f", "\x00")
        ),
        (["a", "a"], KeyError),
    ],
)
async def test_a_key_is_a_string_of_the_draft_or_a_bare_word(small, values, key):
    """H366: what two readers could read as two keys is refused."""
    async with small.open() as client:
        headers = [("authorization", "alice"), *(("idempotency-key", value.encode("latin-1")) for value in values)]
        answer = await client.post("/seats/async", headers=headers)
        assert answer.status_code == (201 if isinstance(key, str) else 400)
        if key is not KeyError:
            assert parsed_key(values) == key


async def test_what_is_refused_for_good_is_kept_and_what_is_not_is_rolled_back(hall):
    """P2, H367: a decided refusal is repeated; an error of ours, or one about who or when, takes no seat and no key."""
    async with hall.open() as client:
        for way in ("async", "plain", "late"):
            for status in (404, 409, 422):
                first, again = [await ask(client, f"{way}?status={status}&raises=true", f"{way}{status}") for _ in "12"]
                assert (first.status_code, again.status_code, is_replay(again)) == (status, status, True)
            before = await hall.taken()
            for status in (401, 403, 429, 500, 503):
                for raises in ("true", "false"):
                    path = f"{way}?status={status}&raises={raises}"
                    first, again = [await ask(client, path, f"{way}{status}{raises}") for _ in "12"]
                    assert (first.status_code, again.status_code, is_replay(again)) == (status, status, False)
            assert await hall.taken() == before


async def test_a_commit_that_fails_is_no_answer(small):
    """P2, H367: what was written down with the effect goes with it; the next request does the work."""
    fails = [True]

    late = Depends(session_dependency(small.app))

    @small.routes.post("/failing", status_code=201)
    async def failing(session: AsyncSession = late) -> str:
        await session.run_sync(small.book, "failing")

        @sa.event.listens_for(session.sync_session, "before_commit")
        def cannot(_session):
            if fails:
                raise OSError(fails.pop())

        return "taken"

    async with small.open() as client:
        answers = [await ask(client, "failing") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [500, 201, 201]
        assert [is_replay(answer) for answer in answers] == [False, False, True]
        assert await small.taken() == 1


async def test_an_answer_that_cannot_be_kept_is_not_given(small):
    """P2, H367: streamed with its effect, or too large: the effect is rolled back, and the developer told."""
    opened = Depends(session_dependency(small.app), scope="function")
    small.keys.max_answer = 50

    @small.routes.post("/stream")
    async def stream(session: AsyncSession = opened) -> StreamingResponse:
        await session.run_sync(small.book, "stream")
        return StreamingResponse(iter([b"taken"]))

    @small.routes.post("/large")
    async def large(session: AsyncSession = opened) -> PlainTextResponse:
        await session.run_sync(small.book, "large")
        return PlainTextResponse("x" * 51)

    @small.routes.post("/report")
    async def report() -> StreamingResponse:
        return StreamingResponse(iter([b"no ", b"effect"]))

    async with small.open() as client:
        for path in ("stream", "large"):
            assert [(await ask(client, path, path)).status_code for _ in "12"] == [500, 500]
        assert await small.taken() == 0
        answers = [await ask(client, "report", "report") for _ in "12"]
        assert [(answer.text, is_replay(answer)) for answer in answers] == [("no effect", False), ("no effect", True)]
        turn = await small.keys.begin("alice", "other", "f")
        with pytest.raises(AnswerNotKept):
            await small.keys.keep_alone(turn, Answer(200, (), b"x" * 51))


async def test_what_comes_after_an_answer_comes_once(small):
    """H367: background tasks run behind the answer that is given first, and behind no other."""
    seen, opened = [], Depends(session_dependency(small.app), scope="function")

    @small.routes.post("/task", status_code=204)
    async def with_a_task(tasks: BackgroundTasks, session: AsyncSession = opened) -> None:
        await session.run_sync(small.book, "task")
        tasks.add_task(seen.append, "done")

    async with small.open() as client:
        answers = [await ask(client, "task") for _ in "12"]
        assert [(answer.status_code, is_replay(answer)) for answer in answers] == [(204, False), (204, True)]
    assert seen == ["done"]


async def test_large_requests_are_refused(small):
    """H161: announced or not, no more is read than may be; without a key the route is as it was."""

    async def pieces():
        for _ in range(3):
            yield b"x" * 500_000

    async with small.open() as client:
        for body in (b"x" * 1_500_000, pieces()):
            assert (await ask(client, content=body)).status_code == 413
        missing = await ask(client, key=None)
        assert (missing.status_code, missing.json()["code"]) == (400, "TXP-2001")
        assert (await client.get("/seats/async")).status_code == 405
        assert await small.taken() == 0


async def test_a_key_may_be_left_out_where_it_may(tmp_path):
    """Then each request is one of its own."""
    hall = Hall(f"sqlite+aiosqlite:///{tmp_path}/hall.db")
    routes = APIRouter(prefix="/free", route_class=keyed_route(hall.keys, principal=lambda: "all", required=False))
    opened = Depends(session_dependency(hall.app), scope="function")

    @routes.post("/seat")
    async def seat(session: AsyncSession = opened) -> int:
        return await session.run_sync(hall.book, "free")

    hall.web.include_router(routes)
    async with hall.open() as client:
        assert [(await client.post("/free/seat")).json() for _ in "12"] == [1, 2]
        head = {"idempotency-key": "k"}
        assert [(await client.post("/free/seat", headers=head)).json() for _ in "12"] == [3, 3]


async def test_answers_are_kept_for_a_while(hall, clock):
    """H245: then the key is free again, and the row goes with a later request, or when it is asked for."""
    rows = sa.select(sa.func.count()).select_from(hall.keys.table)

    async def count():
        return await hall.app.database.read(lambda connection: connection.scalar(rows))

    async with hall.open() as client:
        for number in range(3):
            await ask(client, key=f"old-{number}")
        clock.advance(KEEP)
        assert is_replay(await ask(client, key="old-0"))
        clock.advance(timedelta(seconds=1))
        assert not is_replay(await ask(client, key="old-0"))
        await ask(client, key="new")
        assert await count() == 2
        clock.advance(KEEP + timedelta(seconds=1))
        assert (await hall.keys.clean(), await count()) == (2, 0)
        assert await hall.taken() == 5


async def test_a_claim_is_one_with_its_transaction(hall):
    """P2, H364: without a lease of its own, where all is one transaction: what is rolled back is free at once."""
    await hall.prepare()
    keys, app = hall.keys, hall.app

    async def once(key="k", fingerprint="f", *, fails=False):
        async with app.transaction() as session:
            turn = await session.run_sync(keys.claim, "alice", key, fingerprint)
            if isinstance(turn, Answer):
                return turn
            await session.run_sync(hall.book, "claimed")
            await session.run_sync(keys.keep, turn, DONE)
            if fails:
                raise OSError("the line is cut")
            return None

    with pytest.raises(OSError, match="cut"):
        await once(fails=True)
    answers = await asyncio.gather(*(once() for _ in range(5)))
    assert Counter(answers) == {None: 1, DONE: 4}
    with pytest.raises(KeyReused):
        await once(fingerprint="other")
    assert await hall.taken() == 1


async def test_who_is_cancelled_leaves_the_key_free(small, monkeypatch):
    """H365: also where that happens while the turn is being noted, so that nobody knows of it."""
    await small.prepare()
    write = IdempotencyKeys._write_once

    async def cut_off(self, work):
        if await write(self, work) is True:
            raise asyncio.CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(IdempotencyKeys, "_write_once", cut_off)
        with pytest.raises(asyncio.CancelledError):
            await small.keys.begin("alice", "k", "f")
    assert isinstance(await small.keys.begin("alice", "k", "f"), Turn)

    inside = asyncio.Event()

    async def meanwhile():
        inside.set()
        await asyncio.Event().wait()

    small.meanwhile = meanwhile
    async with small.open() as client:
        asked = asyncio.create_task(ask(client, key="other"))
        await inside.wait()
        asked.cancel()
        await asyncio.wait({asked})
        small.meanwhile = None
        assert (await ask(client, key="other")).status_code == 201
        assert await small.taken() == 1


async def test_who_has_lost_its_turn_cannot_answer(hall, clock):
    """H365: neither with its effect nor alone; to give the turn up harms nobody."""
    await hall.prepare()
    keys = hall.keys
    slow = await keys.begin("alice", "k", "f")
    with pytest.raises(KeyInUse):
        await keys.begin("alice", "k", "f")
    clock.advance(LEASE)
    quick = await keys.begin("alice", "k", "f")
    await keys.give_up(slow)
    with pytest.raises(TurnLost):
        await keys.keep_alone(slow, DONE)
    with pytest.raises(KeyInUse):
        await keys.look(slow)
    await keys.keep_alone(quick, DONE)
    await keys.give_up(quick)
    with pytest.raises(TurnLost):
        async with hall.app.transaction() as session:
            await session.run_sync(keys.keep, slow, DONE)
    assert await keys.begin("alice", "k", "f") == DONE == await keys.look(slow)


def test_an_app_without_asyncio(sync_database):
    """P2, H364: on a plain engine the core does its work in threads."""
    engine = sa.create_engine(sync_database)
    hall = Hall(engine)

    async def twice():
        await hall.prepare()
        async with hall.open() as client:
            return [await ask(client, "plain") for _ in "12"], await hall.taken()

    answers, taken = asyncio.run(twice())
    assert [(answer.status_code, is_replay(answer)) for answer in answers] == [(201, False), (201, True)]
    assert taken == 1
    engine.dispose()


def shares_keys(patch):
    """Keys are looked up by their name alone."""
    turn_of = idempotency._turn
    instead_of(patch, idempotency, turn_of)(lambda principal, key, fingerprint: turn_of("all", key, fingerprint))


def forgets_the_request(patch):
    """Whatever comes with the key is taken for the same request."""
    patch.setattr(keyed, "fingerprint_of", lambda method, target, body: "the same")


def joins_path_and_query(patch):
    """Where the one ends and the other begins is not to be seen."""
    patch.setattr(keyed, "_target", lambda scope: f"{scope['path']}?{scope['query_string'].decode()}")


def keeps_every_answer(patch):
    """An error is as good an answer as any."""
    patch.setattr(Keeping, "is_decided", lambda self, status: True)


def takes_every_turn(patch):
    """A lease is taken over before it is over."""
    free = Found.is_free_for
    instead_of(patch, Found, free)(lambda self, fingerprint: self.answer is None or free(self, fingerprint))
    patch.setattr(AnswerStore, "seize", lambda self, connection, turn: True)


def keeps_the_answer_apart(patch):
    """The answer is written down in a transaction of its own, and the note of who answers is not looked at."""

    async def apart(self, course, response):
        course.session = None

    patch.setattr(Keeping, "keep_with_effect", apart)


def answers_late(patch):
    """Who was taken over commits all the same."""
    keep = AnswerStore.keep_answer

    @instead_of(patch, AnswerStore, keep)
    def hopeful(self, connection, turn, answer):
        with suppress(TurnLost):
            keep(self, connection, turn, answer)


@pytest.mark.parametrize(
    ("plant", "test"),
    [
        (shares_keys, test_a_key_is_for_one_request_of_one_user),
        (forgets_the_request, test_a_key_is_for_one_request_of_one_user),
        (joins_path_and_query, test_where_a_path_ends_is_part_of_the_request),
        (keeps_every_answer, test_what_is_refused_for_good_is_kept_and_what_is_not_is_rolled_back),
        (takes_every_turn, test_who_has_lost_its_turn_cannot_answer),
        (keeps_the_answer_apart, test_an_answer_that_cannot_be_kept_is_not_given),
        (answers_late, test_who_has_lost_its_turn_cannot_answer),
    ],
)
async def test_a_planted_bug_is_found(small, clock, monkeypatch, plant, test):
    """P2, H364, H365, H366, H367: what people do write turns one of the tests above red."""
    plant(monkeypatch)
    given = {"hall": small, "small": small, "clock": clock}
    named = inspect.signature(test).parameters
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        await test(**{name: given[name] for name in named})


@pytest.mark.parametrize("wrong", [{"lease": timedelta(0)}, {"lease": timedelta(days=2)}])
def test_what_makes_no_sense_is_refused(wrong):
    """H367: at the start, and not with the first request."""
    with pytest.raises(ConfigurationError):
        IdempotencyKeys(App("hall", "sqlite+aiosqlite://", metadata=sa.MetaData()), **wrong)
    with pytest.raises(ConfigurationError):
        IdempotencyKeys(App("hall", "sqlite+aiosqlite://"))
