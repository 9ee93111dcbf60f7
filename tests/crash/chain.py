"""An App whose handlers each emit what the next one handles."""

from txpatterns import App, Event, Transaction
from txpatterns.testing.explorer import State

HOPS = 6


class Passed(Event, topic="chain", type="passed", key="story"):
    story: str
    hop: int


app = App("chain")


@app.on(Passed)
async def pass_on(event: Passed, tx: Transaction) -> None:
    if event.hop < HOPS:
        tx.emit(Passed(story=event.story, hop=event.hop + 1))


async def begin(app: App, story: str = "one") -> None:
    async with app.transaction() as session:
        app.outbox.add(session, Passed(story=story, hop=1))


async def begin_before(app: App) -> None:
    await begin(app, "before")


def what_was_before_is_there(state: State) -> None:
    assert "before" in {row["message_key"] for row in state.committed}


def everybody_has_handled_it(state: State) -> None:
    assert len(state.handled) == HOPS * len({row["message_key"] for row in state.committed}), state.handled
