"""The how-to's code runs as it stands on the page."""

import subprocess
import sys
from pathlib import Path

SNIPPET = Path(__file__).parents[2] / "docs" / "snippets" / "telemetry.py"

USE = """
import logging
from datetime import timedelta
from txpatterns.deadletters.moments import Dead
from txpatterns.inbox.moments import Handling
from txpatterns.outbox.moments import Published, Publishing
from txpatterns.hooks import HookList
from txpatterns.messages import Message
listeners = HookList([*hooks, DeadLetterPager()])
with trace.get_tracer("test").start_as_current_span("request"), correlated("request-7"):
    message = Message("m1", "orders", "order.placed", b"{}", headers=listeners.headers())
with listeners.within(Publishing([message])):
    listeners.tell(Published([message], timedelta(seconds=1)))
with listeners.within(Handling(message, "packing", 1)):
    logging.getLogger("shop").warning("packing")
listeners.tell(Dead(message, None, "too large"))
tracer_provider.shutdown()
meter_provider.shutdown()
"""


def test_the_page_shows_code_that_works():
    """Run in a process of its own, because providers and logging are the process's."""
    code = f"{SNIPPET.read_text(encoding='utf-8')}\n{USE}"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert '"name": "process orders"' in done.stdout
    assert '"name": "txpatterns.messages.published"' in done.stdout
    assert "dead letter m1 not published" in done.stdout
    assert '"correlation_id": "request-7"' in done.stderr
