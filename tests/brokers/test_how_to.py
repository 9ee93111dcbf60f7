import importlib.util
import sys
from pathlib import Path

import pytest

from txpatterns.testing.conformance import BrokerSuite, Publishing, Reader, message

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "how-to" / "write-a-broker-adapter.md"
SNIPPET = Path(__file__).resolve().parent.parent.parent / "docs" / "snippets" / "file_broker.py"


def load():
    spec = importlib.util.spec_from_file_location("file_broker", SNIPPET)
    module = importlib.util.module_from_spec(spec)
    sys.modules["file_broker"] = module
    spec.loader.exec_module(module)
    return module


file_broker = load()


class TestFileBroker(BrokerSuite):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.url = f"file://{tmp_path / 'broker'}"

    def new_broker(self):
        return file_broker.FileBroker.from_url(self.url)


async def test_a_torn_line_is_no_message(tmp_path):
    """P1: what a killed writer left half-written was never confirmed, and does not spoil what follows."""
    sent = [message("t", "k"), message("t", "k")]
    async with file_broker.FileBroker(tmp_path) as broker, broker.subscribe(["t"], group="g") as batches:
        await Publishing(broker, sent[:1]).confirmed()
        with (tmp_path / "t.log").open("ab") as log:
            log.write(b'[{"message-id": "ha')
        await Publishing(broker, sent[1:]).confirmed()
        assert [d.message for d in await Reader(batches).take(2, ack=True)] == sent


def test_the_page_promises_no_more_than_the_file():
    """The page includes the file, and the file is as short as the page says."""
    assert "file_broker.py" in PAGE.read_text(encoding="utf-8")
    assert len(SNIPPET.read_text(encoding="utf-8").splitlines()) <= 150
