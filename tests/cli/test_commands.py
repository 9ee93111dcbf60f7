"""The other commands: tables, outbox, publish, config, explain; JSON, exit codes, help."""

import json

import pytest
import sqlalchemy as sa

from rig.ports import free_port

URL = "sqlite+aiosqlite:///plain.db"


def test_every_help_ends_with_two_examples(txp):
    """Whoever forgets the syntax reads it where it is shortest."""
    commands = [
        ["run"], ["relay"], ["consume"], ["publish"], ["explain"], ["db", "upgrade"], ["db", "check"], ["db", "sql"],
        ["outbox", "list"], ["outbox", "show"], ["config", "show"], ["inbox", "list"], ["inbox", "show"], ["status"],
        ["dlq", "list"], ["dlq", "show"], ["dlq", "retry"], ["dlq", "drop"], ["dlq", "audit"],
    ]  # fmt: skip
    for command in commands:
        last = txp(*command, "--help").out.rstrip().splitlines()[-3:]
        assert last[0].strip() == "Examples:", command
        assert all("txp " + " ".join(command) in line for line in last[1:]), command


def test_tables_from_nothing_to_current(txp, project):
    """H100: upgrade, upgrade again, check; each says in words and in JSON where the database stands."""
    (project / "plain.db").touch()
    assert txp("db", "check", "--database", URL, code=3).out.startswith("the tables differ:")
    assert "upgraded from nothing to 0008" in txp("db", "upgrade", "--database", URL).out
    assert txp("db", "upgrade", "--database", URL, "--json").json == {"before": "0008", "now": "0008", "changed": False}
    assert txp("db", "check", "--json", TXP_DATABASE_URL=URL).json["differences"] == []
    assert "CREATE TABLE txp_outbox (" in txp("db", "sql", "--dialect", "sqlite").out
    assert "autovacuum" in txp("db", "sql").out


@pytest.mark.parametrize("first", ["upgrade", "start"])
def test_upgrading_and_starting_come_in_either_order(txp, place, first):
    """H100: the README's file and `txp db upgrade` agree about one SQLite file, whichever of them comes first."""
    steps = [lambda: txp("db", "upgrade", "--app", "orders:app"), place]
    for step in steps if first == "upgrade" else reversed(steps):
        step()
    assert "packing" in txp("run", "orders:app", "--drain").out
    assert "nothing to do" in txp("db", "upgrade", "--app", "orders:app").out


def test_sql_is_that_of_the_apps_database(txp):
    """H100: the statements fit the database that --app or TXP_APP leads to, as with the other commands."""
    for given in (txp("db", "sql", "--app", "orders:app"), txp("db", "sql", TXP_APP="orders:app")):
        assert given.out == txp("db", "sql", "--dialect", "sqlite").out
    assert txp("db", "sql", "--database", "postgresql://h/x").out == txp("db", "sql", "--dialect", "postgresql").out
    assert txp("db", "sql", "--database", "u:hunter2", code=1).err.startswith("TXP-1001 This is no database URL.")


@pytest.mark.parametrize("given", [("--app", "orders:app"), ("--database", URL)], ids=" ".join)
@pytest.mark.parametrize("command", [("db", "check"), ("outbox", "list"), ("outbox", "show", "7")], ids=" ".join)
def test_looking_makes_no_file(txp, project, command, given):
    """H100: a mistyped path is said to be one, and nothing lies there afterwards."""
    err = txp(*command, *given, code=1).err
    assert err.startswith("TXP-1020 There is no file ")
    assert list(project.glob("*.db*")) == []


@pytest.mark.parametrize("given", [("--app", "orders:app"), ("--database", URL)], ids=" ".join)
@pytest.mark.parametrize("there", ["nothing", "an empty file"])
def test_the_command_that_mends_runs_as_it_is_printed(txp, project, given, there):
    """H100: what is said to make the tables makes them, for whoever copies it."""
    if there == "an empty file":
        for name in ("orders.db", "plain.db"):
            (project / name).touch()
    err = txp("outbox", "list", *given, code=1).err
    printed = err[err.index("txp db upgrade") :].split()
    assert "upgraded from nothing" in txp(*printed[1:]).out
    assert "nothing waits" in txp("outbox", "list", *given).out


def test_the_command_that_mends_repeats_no_password(txp, database):
    """H151: a URL of the environment need not be repeated, and that of an option is shown without its secret."""
    url = database.url("asyncpg").replace("postgres@", "postgres:hunter2@")
    assert "Run: txp db upgrade --database" in (told := txp("outbox", "list", "--database", url, code=1).err)
    assert "hunter2" not in told
    assert txp("outbox", "list", code=1, TXP_DATABASE_URL=url).err.endswith("Run: txp db upgrade\n")


def test_a_file_that_is_no_database_has_a_code_and_a_fix(txp, project):
    """H100: programs find the same three things in every error."""
    (project / "plain.db").write_text("hello " * 1000)
    error = json.loads(txp("db", "check", "--database", URL, "--json", code=1).err)["error"]
    assert error["code"] == "TXP-1001"
    assert "plain.db" in error["message"]
    assert error["fix"]


def test_an_error_of_the_database_has_a_code_and_a_fix(txp, database):
    """H100: also one that nobody foresaw."""
    url = database.url("psycopg")
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE txp_database (other INTEGER)"))
    engine.dispose()
    error = json.loads(txp("outbox", "list", "--database", url, "--json", code=1).err)["error"]
    assert error["code"] == "TXP-1000"
    assert "does not exist" in error["message"]
    assert error["fix"]
    assert txp("outbox", "list", "--database", url, code=1).err.startswith("TXP-1000 UndefinedColumn: ")


@pytest.mark.parametrize("wrong", [("--frobnicate",), ("--state", "nonsense"), ("--limit", "x")], ids=" ".join)
def test_called_wrongly_is_json_for_programs(txp, wrong):
    """A program that asked for JSON reads what it did wrong as it reads everything else."""
    error = json.loads(txp("outbox", "list", *wrong, "--json", code=2).err)["error"]
    assert wrong[-1].lstrip("-") in error["message"] or wrong[0] in error["message"]
    assert error["fix"] == "See: txp outbox list --help"
    assert "Usage: txp outbox list" in txp("outbox", "list", *wrong, code=2).err


def test_no_database_is_said_in_one_line(txp):
    """A command that does not know where to look says how to tell it."""
    assert txp("db", "check", code=1).err.startswith("TXP-1001 Which database?")
    assert txp("db", "check", "--frobnicate", code=2).err


def test_a_database_that_is_away_is_one_line_without_its_password(txp):
    """H151: the first failure must not print a secret, and no traceback."""
    ran = txp("db", "check", "--database", "postgresql+asyncpg://u:hunter2@127.0.0.1:1/x", code=1)
    assert ran.err.count("\n") == 1
    assert "hunter2" not in ran.err + ran.out


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize("command", [("run", "plain:app"), ("db", "check"), ("outbox", "list")], ids=" ".join)
def test_a_database_that_lets_nobody_in_is_named(txp, project, database, driver, command):
    """The commonest second error: a wrong name, user or host; the line says which database it was about."""
    (project / "plain.py").write_text("from txpatterns import App\napp = App('plain')\n")
    url = database.url(driver)
    nosuch, nobody = url.replace(database.name, "nosuch"), url.replace("postgres@", "nobody@")
    for wrong in (nosuch, nobody, database.url(driver, port=free_port())):
        err = txp(*command, code=1, TXP_DATABASE_URL=wrong).err
        assert err.startswith(f"TXP-1001 {wrong} cannot be used: "), err
        assert err.count("\n") == 1


def test_what_is_no_url_is_not_repeated(txp):
    """H151: a URL with a mistake may hold a password."""
    err = txp("db", "check", "--database", "u:hunter2", code=1).err
    assert err.startswith("TXP-1001 This is no database URL.")
    assert "hunter2" not in err


def test_the_outbox_from_add_to_sent(txp, place):
    """What waits is listed, shown in full, and gone when it was sent."""
    order = place()
    (entry,) = txp("outbox", "list", "--app", "orders:app", "--json").json
    assert (entry["state"], entry["type"], entry["key"]) == ("pending", "order.placed", order)
    assert entry["id"] in txp("outbox", "list", TXP_APP="orders:app").out
    shown = txp("outbox", "show", entry["id"], "--app", "orders:app", "--json").json
    assert json.loads(shown["payload"])["payload"]["order_id"] == order
    assert order in txp("outbox", "show", entry["id"], "--app", "orders:app").out
    txp("run", "orders:app", "--drain")
    assert txp("outbox", "list", "--app", "orders:app", "--json").json == []
    assert "not here" in txp("outbox", "show", entry["id"], "--app", "orders:app", code=3).out
    assert txp("outbox", "list", "--state", "nonsense", "--app", "orders:app", code=2).err


def test_publish_goes_through_the_outbox_and_is_handled(txp):
    """P1, P2: an event by hand is an event like any other."""
    fields = '{"order_id": "7", "total": "5.10"}'
    message_id = txp("publish", "order-events", "order.placed", "--json", fields, "--app", "orders:app").out.strip()
    shown = txp("outbox", "show", message_id, "--app", "orders:app", "--json").json
    assert (shown["key"], shown["topic"]) == ("7", "order-events")
    assert "packing 7" in txp("run", "orders:app", "--drain").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["order-events", "order.placed", "--json", '{"order_id": "7", "total": "x"}'], "total: "),
        (["elsewhere", "order.placed", "--json", '{"order_id": "7", "total": "1"}'], "goes to 'order-events'"),
        (["order-events", "order.placed", "--json", "{"], "--json is no JSON"),
        (["order-events", "order.placed", "--json", "[]"], "must be an object"),
        (["order-events", "order.placed", "--key", "8", "--json", "{}"], "is its field 'order_id'"),
    ],
)
def test_publish_refuses_what_does_not_fit(txp, arguments, said):
    """H12: a typing error on the command line does not become a dead letter."""
    err = txp("publish", *arguments, "--app", "orders:app", code=1).err
    assert err.startswith("TXP-1101")
    assert said in err
    # Not even the tables were made; the next command says what would make them.
    assert txp("outbox", "list", "--app", "orders:app", code=1).err.startswith("TXP-1020")


def test_publish_of_an_unknown_type(txp):
    """An event for others needs no class here."""
    arguments = ["audit", "note.taken", "--json", '{"text": "by hand"}', "--key", "7", "--unknown"]
    message_id = txp("publish", *arguments, "--app", "orders:app").out.strip()
    shown = txp("outbox", "show", message_id, "--app", "orders:app", "--json").json
    assert (shown["key"], shown["type"]) == ("7", "note.taken")
    assert json.loads(shown["payload"])["payload"] == {"text": "by hand"}


def test_config_shows_values_and_sources_without_secrets(txp, project):
    """H151: what is shown can be pasted into a ticket."""
    (project / "plain.py").write_text("from txpatterns import App\napp = App('plain')\n")
    environment = {
        "TXP_DATABASE_URL": "postgresql+asyncpg://u:hunter2@h/x?sslpassword=hunter3",
        "TXP_RELAY_POLL": "100ms",
    }
    ran = txp("config", "show", "--app", "plain:app", "--json", **environment)
    rows = {row["setting"]: row for row in ran.json}
    assert "hunter" not in ran.out
    assert rows["TXP_DATABASE_URL"]["value"] == "postgresql+asyncpg://u:***@h/x?sslpassword=***"
    assert rows["TXP_DATABASE_URL"]["from"] == "environment"
    assert (rows["TXP_RELAY_POLL"]["value"], rows["TXP_RELAY_POLL"]["from"]) == ("100ms", "environment")
    assert rows["TXP_BROKER_URL"]["from"] == "default"
    assert "hunter" not in txp("config", "show", **environment).out
    assert txp("config", "show", "--app", "orders:app").out.splitlines()[1].endswith("constructor")


def test_a_wrong_setting_is_refused_by_name(txp):
    """A mistyped variable is not ignored, and a value that cannot be read is named with an example."""
    assert "TXP_RELAY_BACTH is no setting" in txp("config", "show", code=1, TXP_RELAY_BACTH="1").err
    err = txp("config", "show", code=1, TXP_RELAY_POLL="soon").err
    assert "TXP_RELAY_POLL: 'soon' is no duration" in err
    assert "TXP_RELAY_POLL=30s" in err


def test_explain_knows_every_code(txp):
    """The code in a log line leads to its cause and its fix."""
    known = txp("explain", "--json").json
    assert {row["code"] for row in known} >= {"TXP-1020", "TXP-1103", "TXP-1301"}
    assert len({row["code"] for row in known}) == len(known)
    assert "AUTOCOMMIT" in txp("explain", "TXP-1103").out
    assert txp("explain", "1103", "--json").json["error"] == "NotTransactional"
    assert txp("explain", "TXP-9999", code=3).out
    assert "the error itself ends with it" in txp("explain", "TXP-1001").out
