"""Probes of every service, alone: with its database and without."""

import os
from contextlib import AsyncExitStack

import httpx
import pytest

from rig.servers.postgres import Postgres
from rig.started import started
from shop import building, wiring
from shop.problems import MEDIA_TYPE
from shop.settings import read_settings


@pytest.fixture
def postgres():
    """A server of this test's own, which it may stop."""
    with started(Postgres) as server:
        if not server.ours:
            pytest.skip("the server that the environment names is not ours to stop")
        yield server


async def probe(client, path):
    answer = await client.get(path)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == MEDIA_TYPE
    return answer.status_code


@pytest.mark.server
async def test_a_service_without_its_database_is_there_and_not_ready(postgres, tmp_path):
    """H385: each of them, the gateway too: /health and /live stay 200, /ready is 503 until the database is back."""
    base = postgres.url.rpartition("/")[0].replace("postgresql://", "postgresql+asyncpg://")
    env = {"SHOP_DATABASE": f"{base}/probe_{os.getpid()}_{{service}}", "SHOP_BROKER": "memory://"}
    env |= {f"{name.upper()}_SERVICE_ADDR": "127.0.0.1:0" for name in building.PORTS}
    settings = read_settings(tmp_path, 0, 42, False, env)
    async with AsyncExitStack() as stack:
        clients = {}
        for name in [*building.PORTS, "gateway"]:
            web = wiring.gateway(settings)[0] if name == "gateway" else wiring.service(settings, name, print)
            await stack.enter_async_context(web.router.lifespan_context(web))
            transport = httpx.ASGITransport(web, raise_app_exceptions=False)
            client = httpx.AsyncClient(transport=transport, base_url="http://shop.test", timeout=60)
            clients[name] = await stack.enter_async_context(client)
        for name, client in clients.items():
            found = [await probe(client, path) for path in ("/health", "/live", "/ready", "/metrics")]
            assert found == [200] * 4, name
        postgres.stop()
        try:
            for name, client in clients.items():
                found = [await probe(client, path) for path in ("/health", "/live", "/ready", "/metrics")]
                assert found == [200, 200, 503, 200], name
        finally:
            postgres.start()
        for name, client in clients.items():
            assert await probe(client, "/ready") == 200, name
