"""The database as the broker, on each database."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from txpatterns.brokers.database import DatabaseBroker
from txpatterns.database import Database
from txpatterns.database.setup import create_missing
from txpatterns.testing.conformance import BrokerSuite
from txpatterns.transport import declare


class TestDatabaseBroker(BrokerSuite):
    @pytest.fixture(autouse=True)
    def server(self, any_database):
        self.url = any_database

    def new_broker(self):
        return Closing(Database(self.url), poll=timedelta(milliseconds=50))

    def new_topic(self):
        self.open_topic(topic := super().new_topic(), "another")
        return topic

    def closed_topic(self):
        return super().new_topic()

    def open_topic(self, topic, group="suite"):
        async def declare_it():
            broker = self.new_broker()
            declare(broker, group, [topic])
            async with broker:
                pass

        with ThreadPoolExecutor() as elsewhere:
            elsewhere.submit(asyncio.run, declare_it()).result()


class Closing(DatabaseBroker):
    """Has a database of its own."""

    async def __aenter__(self):
        await self.database.locate()
        await self.database.transact(create_missing)
        return await super().__aenter__()

    async def __aexit__(self, *exception):
        await super().__aexit__(*exception)
        await self.database.close()
