"""The shop's stock as a process of its own, and somebody who sets things aside over gRPC."""

import asyncio
import os
import sys
import tempfile
from asyncio.subprocess import PIPE
from datetime import UTC, datetime, timedelta

from shop.ports import StockNeed
from shop.problems import Problem
from shop.rpc.client import Channels


async def set_aside(address: str) -> None:
    async with Channels() as channels:
        inventory = channels.caller("inventory", address)
        until = datetime.now(UTC) + timedelta(minutes=1)
        for _ in range(2):  # the second time changes nothing
            held = await inventory.reserve("order-1", [StockNeed(sku="PLAY-01", quantity=2)], until)
            print(held.state, await inventory.levels(["PLAY-01"]))
        try:
            await inventory.reserve("order-2", [StockNeed(sku="PLAY-01", quantity=2)], until)
        except Problem as problem:
            print(problem.kind.slug, problem.extra)
        print((await inventory.release("order-1")).state)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        servers = {"SHOP_DATABASE": f"sqlite+aiosqlite:///{folder}/{{service}}.db", "SHOP_BROKER": "memory://"}
        free = {"INVENTORY_HTTP_ADDR": "127.0.0.1:0"}
        command = (sys.executable, "-m", "shop", "run", "inventory", "--grpc-port", "0", "--data", folder)
        stock = await asyncio.create_subprocess_exec(*command, env=os.environ | servers | free, stdout=PIPE)
        told = (await stock.stdout.readline()).decode()  # gRPC       127.0.0.1:41234 inventory
        await set_aside(told.split()[1])
        stock.terminate()
        print("ended with", await stock.wait())


asyncio.run(main())
