"""What is shown can be pasted anywhere: one idea of a secret for URLs, driver options and stored errors."""

import traceback

import pytest

from txpatterns import App
from txpatterns.brokers.kafka.settings import settings_from_url
from txpatterns.database import Database
from txpatterns.deadletters.store import scrub
from txpatterns.errors import ConfigurationError
from txpatterns.text import masked

SECRET = "hunter2"
NAMES = [
    "password",
    "sslpassword",
    "sasl.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "api_key",
    "access-token",
]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+asyncpg://u:sec%40:re/t@h/x", "postgresql+asyncpg://u:***@h/x"),
        ("postgresql+asyncpg://u:se?cre/t@h:5432/x?ssl=require", "postgresql+asyncpg://u:***@h:5432/x?ssl=require"),
        ("postgresql://u@corp:secret@h/x", "postgresql://u@corp:***@h/x"),
        ("kafka://u:secr@et@h:1,i:2?deadline=3", "kafka://u:***@h:1,i:2?deadline=3"),
        ("kafka://:secret@h:1", "kafka://:***@h:1"),
        ("kafka://h:1?p%61ssword=secret&deadline=3", "kafka://h:1?p%61ssword=***&deadline=3"),
        ("u:secret@h", "u:***@h"),
        ("kafka://h:1,i:2?deadline=3", "kafka://h:1,i:2?deadline=3"),
        ("sqlite+aiosqlite:////tmp/a:b@c.db", "sqlite+aiosqlite:////tmp/a:b@c.db"),
        ("memory://", "memory://"),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown):
    """H151, I17: wherever SQLAlchemy or an adapter lets a password stand, and nothing else is taken away."""
    assert masked(url) == shown


@pytest.mark.parametrize("name", NAMES)
def test_one_list_of_secret_words(name):
    """H151, I17: what one part hides, all hide: shown URLs, the driver's words, stored errors."""
    assert SECRET not in masked(f"kafka://h:1?{name}={SECRET}&producer.{name}={SECRET}")
    assert SECRET not in settings_from_url(f"kafka://h:1?{name}={SECRET}").mask(f"no: {SECRET}")
    assert SECRET not in scrub(f"refused {name}={SECRET} and {name.upper()}: {SECRET}")
    assert SECRET not in scrub(f"refused {{'{name}': '{SECRET}'}}")


def test_stored_errors_have_no_password_of_a_url():
    """H151, I17: a driver's error repeats the address; cut and masked in bounded time."""
    assert scrub("no route to postgresql://u:se/cr@et@h/x now") == "no route to postgresql://u:***@h/x now"
    assert scrub("see https://h:80/page for more") == "see https://h:80/page for more"
    assert scrub("the token was refused") == "the token was refused"


@pytest.mark.parametrize(
    "url",
    [
        f"u:{SECRET}",
        f"postgresql+asyncpg://u@h:{SECRET}/x",
        f"postgresql+asyncpg://u:a@b:{SECRET}@h/x",
        f"sqlite+aiosqlite://u:{SECRET}@orders.db",
        f"postgresql+asynpcg://u:{SECRET}@h/x",
        f"mysql://u:{SECRET}@h/x",
    ],
)
def test_what_is_no_url_is_not_repeated(url):
    """H151, I17: who mistypes a URL has a password in it, and SQLAlchemy's errors tell where it stopped reading."""
    with pytest.raises(ConfigurationError, match=r"Fix: .*sqlite") as refused:
        App("shop", url)
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_a_second_url_is_read_when_it_is_given(tmp_path):
    """H151: and not by the part that uses it, when all is up."""
    with pytest.raises(ConfigurationError, match=r"listen_url is no database URL") as refused:
        Database(f"sqlite:///{tmp_path}/a.db", listen_url=f"postgresql://u@h:{SECRET}/x")
    assert SECRET not in "".join(traceback.format_exception(refused.value))


def test_an_app_shows_none(tmp_path):
    """H151, I17: the first line of `txp run`, and every repr."""
    app = App("shop", f"postgresql+asyncpg://u:p@h/x?sslpassword={SECRET}", f"kafka://h:1?client.secret={SECRET}")
    assert SECRET not in f"{app!r} {app.database!r} {app.broker_name}"
    assert repr(Database(f"sqlite:///{tmp_path}/a.db")) == f"Database('sqlite:///{tmp_path}/a.db')"
