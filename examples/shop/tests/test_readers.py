"""Every process of the shop knows who reads what, so that no order misses a service that starts later."""

import httpx
import pytest

from shop.building import PORTS, READERS, TABLES, Builder
from shop.settings import read_settings
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.messages import describe
from txpatterns.transport import Capabilities

TOPICS = {group: {describe(event).topic for event in read} for group, read in READERS.items()}


class Elsewhere(MemoryBroker):
    """A broker that others read, too; it only notes what it is told of them."""

    def __init__(self):
        super().__init__()
        self.capabilities = Capabilities(retains=False)
        self.groups = {}

    def declare(self, group, topics):
        self.groups.setdefault(group, set()).update(topics)


@pytest.fixture
def built(tmp_path):
    """Makes a builder of these services, by their names, on a broker."""

    def build(broker, local):
        settings = read_settings(tmp_path, 8080, 42, True, {})
        return Builder(settings, broker, httpx.AsyncClient(), None, frozenset(local))

    return build


async def test_what_every_service_reads_is_known(built):
    """P1, H428: the list of readers is what the services' handlers and sagas need, no more and no less."""
    builder = built(MemoryBroker(), PORTS)
    builder.gateway()
    assert {unit.name for unit in builder.units} == set(TABLES)
    read = {unit.name: set(unit.app.consumer.handlers.topics) for unit in builder.units}
    assert {name: topics for name, topics in read.items() if topics} == TOPICS


@pytest.mark.parametrize("service", PORTS)
async def test_each_process_declares_every_reader(built, service):
    """P1, H428: whichever service publishes first, the broker knows of all that are going to read."""
    broker = Elsewhere()
    built(broker, [service]).api(service)
    assert broker.groups == TOPICS
