"""What is added to somebody's transaction and written by its commit: messages, and whatever else is to go with it.

Nothing is written by ``add``. Each entry waits under the savepoints that it was added in: rolling one of them back
drops it. A commit writes what is left as the last thing that it does, kind by kind in one order (``Kind``), and checks
for each that this is the writer's own database. If a kind cannot be written, nothing is committed.

What becomes of the entries, by what SQLAlchemy tells. "Joined" is a session that was given a connection, whose
transaction may be somebody else's; "connection": added to a connection itself.

=====================  ===============================  ===============================  ==============================
Told                   Session of its own               Session joined to a connection   Connection
=====================  ===============================  ===============================  ==============================
session after_begin    go with this connection, too     go with this connection, too
session before_commit  it begins where it writes        written now: seen before the
                                                        outer end, and undone with it
- of a savepoint       the same                         it begins where it writes
session after_commit   their writers are told           written, if the flush added
                                                        any; told by the outer commit
- of a savepoint       move to the savepoint around     the same
session after_rollback dropped                          dropped
- of a savepoint       its own are dropped              the same
session                dropped                          go over to the connection if
after_transaction_end                                   it goes on with the work of
                                                        the session; dropped otherwise
- of a savepoint       its own, unless it was           the same
                       released, are dropped
engine commit          written, if the session writes   written: the session is open     written; told just before the
                       here; refused if elsewhere, too  still; told just before COMMIT   COMMIT
engine                 written on the connection where  written                          written
prepare_twophase       the session writes
engine                 written, if not prepared         written, if not prepared; told   written, if not prepared; told
commit_twophase
engine rollback,       dropped                          dropped                          dropped
rollback_twophase
engine savepoint       refused where SQLite's driver    the same                         the same
                       begins transactions by itself
engine                 those added within are dropped   the same                         the same
rollback_savepoint
=====================  ===============================  ===============================  ==============================

The order holds for each commit: what a joined session writes at its own is written before what the outer one has left.
An error while a commit writes drops everything and rolls the connection back. In a session's before_commit and in a
prepare_twophase nothing has ended yet: there what could not be written stays, and each later commit of it is refused
until it is rolled back.
"""

from txpatterns.database.deferred.adding import AnyTransaction, add, cancel, no_transaction, pending, plain, watch
from txpatterns.database.deferred.engine_events import end_observation, observe
from txpatterns.database.deferred.entries import Entry, Kind, Writer

__all__ = [
    "AnyTransaction",
    "Entry",
    "Kind",
    "Writer",
    "add",
    "cancel",
    "end_observation",
    "no_transaction",
    "observe",
    "pending",
    "plain",
    "watch",
]
