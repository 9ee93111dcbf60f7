"""An application whose sessions are its own: a class with a listener, and reads that go to a replica."""

# --8<-- [start:routing]
import asyncio
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, ORMExecuteState, Session, mapped_column, with_loader_criteria

from txpatterns import App, Database, Event, Transaction


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(primary_key=True)
    deleted: Mapped[bool] = mapped_column(default=False)


class Noted(Event, topic="notes", type="note.noted", key="note_id"):
    note_id: str


primary = create_async_engine("sqlite+aiosqlite:///notes.db")
replica = create_async_engine("sqlite+aiosqlite:///notes.db")  # elsewhere, in earnest


class RoutingSession(Session):
    def get_bind(self, mapper: Any = None, *, clause: Any = None, **given: Any) -> Any:
        writes = self._flushing or isinstance(clause, (sa.Insert, sa.Update, sa.Delete))
        return primary.sync_engine if writes else replica.sync_engine


@event.listens_for(RoutingSession, "do_orm_execute")
def hide_deleted(state: ORMExecuteState) -> None:
    if state.is_select:
        state.statement = state.statement.options(with_loader_criteria(Note, Note.deleted == sa.false()))


# --8<-- [end:routing]


# --8<-- [start:app]
sessions = async_sessionmaker(sync_session_class=RoutingSession, expire_on_commit=False)  # the one that you have
app = App("notes", Database(primary, sessions=sessions), metadata=Base.metadata)
# --8<-- [end:app]


# --8<-- [start:run]
@app.on(Noted)
async def list_notes(event: Noted, tx: Transaction) -> None:
    found = await tx.session.scalars(sa.select(Note.id))
    print("the handler sees", *found)


async def main() -> None:
    async with app.running():
        async with app.session() as session, session.begin():
            session.add_all([Note(id="kept"), Note(id="gone", deleted=True)])
            app.outbox.add(session, Noted(note_id="kept"))
        await app.drained()
    await primary.dispose()
    await replica.dispose()


if __name__ == "__main__":
    asyncio.run(main())
# --8<-- [end:run]
