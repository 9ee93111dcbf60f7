"""Services as processes of their own, called by gRPC: no server but their own, an SQLite file, a broker in memory."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from rig.ports import free_port
from shop.cli import app
from shop.problems import Problem
from shop.rpc.asking import ask
from shop.rpc.services import SERVICES

SHOP = [sys.executable, "-m", "shop"]


@pytest.fixture
def environment(tmp_path):
    return os.environ | {
        "SHOP_DATABASE": f"sqlite+aiosqlite:///{tmp_path}/{{service}}.db",
        "SHOP_BROKER": "memory://",
        "INVENTORY_HTTP_ADDR": f"127.0.0.1:{free_port()}",
        "GRPC_PORT": "0",
    }


def test_one_service_from_its_start_to_its_end(environment, tmp_path):
    """H345, H347, H348: it says where it answers, answers there, tells errors by their status, and ends when asked."""
    command = [*SHOP, "run", "inventory", "--data", str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            kind, address, name = running.stdout.readline().split()
            assert (kind, name) == ("gRPC", "inventory")
            assert httpx.get(f"http://{environment['INVENTORY_HTTP_ADDR']}/ready", timeout=60).status_code == 200
            answer = asyncio.run(ask("inventory", "GetStock", '{"skus": ["PLAY-01"]}', address))
            assert json.loads(answer)["levels"][0]["sku"] == "PLAY-01"
            unknown = CliRunner().invoke(
                app, ["rpc", "inventory", "Confirm", '{"order_id": "none"}', "--address", address]
            )
            assert (unknown.exit_code, unknown.stderr) == (
                1,
                "shop: NOT_FOUND not-found: Nothing was ever set aside for order none.\n",
            )
            taken = ["--grpc-port", address.rpartition(":")[2]]
            again = CliRunner().invoke(app, [*command[3:], *taken], env=environment)
            assert (again.exit_code, again.stderr.count("\n")) == (2, 1)
            assert f"{address} cannot be opened" in again.stderr
        finally:
            running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0


def test_the_whole_shop_by_grpc(process):
    """H348: on demand, at free ports, each shown when it is open; all are closed when the shop has ended."""
    process.env |= {f"{name.upper()}_SERVICE_ADDR": "127.0.0.1:0" for name in SERVICES}
    process.start("--grpc")
    shown = {}
    while len(shown) < len(SERVICES):
        words = process.running.stdout.readline().split()
        if words[0] == "gRPC":
            shown[words[2]] = words[1]
    assert set(shown) == set(SERVICES)
    answer = asyncio.run(ask("catalog", "GetProduct", '{"sku": "PLAY-01"}', shown["catalog"]))
    assert json.loads(answer)["sku"] == "PLAY-01"
    assert process.end() == 0
    for address in shown.values():
        host, _, port = address.rpartition(":")
        with socket.socket() as probe:
            assert probe.connect_ex((host, int(port))) != 0
    assert "Traceback" not in process.log


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("bank", "Charge", "{}"), "choose one of catalog, cart"),
        (("inventory", "Rob", "{}"), "choose one of GetStock, Reserve"),
        (("inventory", "Reserve", '{"colour": "red"}'), "colour"),
        (("inventory", "Reserve", "red"), "does not fit"),
        (("inventory", "GetStock", "{}"), "does not answer"),
    ],
)
async def test_a_call_that_cannot_be_made_is_told_with_what_can(asked, told):
    """H347: no such service, call or field, no JSON, and nobody there."""
    with pytest.raises(Problem, match=told):
        await ask(*asked, f"127.0.0.1:{free_port()}")
