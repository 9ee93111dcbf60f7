"""`import txpatterns` is light: it loads SQLAlchemy and pydantic, and nothing that only some installations need."""

import subprocess
import sys
from importlib.metadata import distribution

OPTIONAL = (
    "aiosqlite", "alembic", "asyncpg", "click", "confluent_kafka", "fastapi", "hypothesis", "opentelemetry", "orjson",
    "pika", "prometheus_client", "psycopg", "pybreaker", "pytest", "redis", "rich", "sqids", "stamina", "structlog",
    "typer", "uvicorn",
)  # fmt: skip


def loaded_by(statement):
    """Return which of the optional libraries a fresh interpreter has loaded after `statement`."""
    script = f"{statement}; import sys; print(*[name for name in {OPTIONAL!r} if name in sys.modules])"
    # Without the environment's .pth hooks and plugins, which are not ours.
    answer = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(answer.stdout.split())


def test_the_root_loads_no_optional_library():
    """H147: an installation without an extra must not even look for it."""
    assert loaded_by("import txpatterns") == set()


def test_an_optional_library_is_seen_when_it_is_loaded():
    """The test above can fail: the same look finds a library that was imported."""
    assert loaded_by("import alembic") >= {"alembic"}


def test_importing_opens_no_connection():
    """Importing a library must not talk to anybody."""
    guard = "import sys; sys.addaudithook(lambda event, _: event == 'socket.connect' and sys.exit(event))"
    subprocess.run([sys.executable, "-c", f"{guard}; import txpatterns"], check=True)


def test_entry_points_lead_somewhere():
    """A name that is registered and cannot be loaded fails at the user's start-up, far from its cause."""
    registered = distribution("txpatterns").entry_points
    assert {point.group for point in registered} >= {"console_scripts", "txpatterns.brokers"}
    for point in registered:
        assert callable(point.load()) or point.group == "pytest11"
