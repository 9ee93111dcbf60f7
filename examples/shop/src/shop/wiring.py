"""Putting the shop together: in which shape its services run, in one process or in many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from shop.bank.app import Post
from shop.bank.post import http_post
from shop.building import ASKED, PORTS, RESERVING, Builder
from shop.calls import serve
from shop.checkout.others import CheckoutOthers
from shop.checkout.reserving import remote_participants
from shop.databases import make_database
from shop.gateway.app import create_app
from shop.gateway.live import Bell
from shop.health import check
from shop.participating import participants_of
from shop.pruning import prune_forever, prune_once
from shop.rpc.server import serving
from shop.server import on_loopback
from shop.settings import Settings
from shop.units import together
from txpatterns.brokers.memory import MemoryBroker
from txpatterns.database.setup import create_missing

SHORT_LEASE = timedelta(seconds=5)
"""How soon the one process of the embedded shop takes up the work of its killed predecessor."""
STOP_WITHIN = timedelta(seconds=5)
"""How long the embedded shop finishes what is under way when it is closed; the rest waits in its folder."""


@asynccontextmanager
async def running(builder: Builder) -> AsyncIterator[None]:
    """Make missing tables, fill empty shelves, and run relays, consumers and timers for as long as the block lasts."""
    async with AsyncExitStack() as stack:
        stack.callback(builder.telemetry.close)
        await stack.enter_async_context(builder.client)
        await stack.enter_async_context(builder.channels)
        for end in builder.endings:
            stack.callback(end)
        for each in builder.aside:
            await stack.enter_async_context(each)
        for unit in builder.units:
            # Closed when all have stopped: until then one may call another, which opens a connection again.
            stack.push_async_callback(unit.app.close)
        await _make_databases(builder)
        if builder.others is not None:
            await stack.enter_async_context(_asking(builder, builder.others))
        if builder.redis_shelf is not None:
            await stack.enter_async_context(builder.redis_shelf)
        await stack.enter_async_context(together(builder.units))
        for fill in builder.fills:
            await fill()
        for unit in builder.units:
            await prune_once(unit.app, unit.prunes, datetime.now(UTC))
        aside = [notes.tell(unit.app) for unit in builder.units for notes in unit.notes]
        aside += [prune_forever(unit.app, unit.prunes) for unit in builder.units]
        if builder.redis_shelf is not None:
            aside.append(builder.redis_shelf.sweep_forever(builder.app_of("inventory")))
        tasks = [asyncio.create_task(work) for work in aside]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _make_databases(builder: Builder) -> None:
    """Make what is missing on a server; on SQLite the Apps make it themselves."""
    on_server = [unit for unit in builder.units if not unit.app.database.is_sqlite]
    for unit in on_server:
        await make_database(builder.settings.database_of(unit.name))
        await unit.app.database.transact(partial(create_missing, target=unit.app.metadata))
    if on_server and builder.redis_shelf is not None:
        await make_database(builder.settings.database_of("stock"))


@asynccontextmanager
async def _asking(builder: Builder, others: CheckoutOthers) -> AsyncIterator[None]:
    """Let the checkout ask the others, as from another process also where they are in this one: at loopback's ports."""
    async with AsyncExitStack() as stack:
        urls = {name: f"http://{builder.settings.http_addresses[name]}/tcc" for name in RESERVING}
        if others.over_loopback:
            await stack.enter_async_context(_calls_on_loopback(builder, others))
            secret = builder.settings.tcc_secret
            doors = [Mount(f"/{name}", participants_of(builder.app_of(name), secret)) for name in RESERVING]
            address = await stack.enter_async_context(on_loopback(Starlette(routes=doors)))
            urls = {name: f"http://{address}/{name}/tcc" for name in RESERVING}
        others.reserving = remote_participants(builder.app_of("checkout"), urls, builder.settings.tcc_secret)
        yield


@asynccontextmanager
async def _calls_on_loopback(builder: Builder, others: CheckoutOthers) -> AsyncIterator[None]:
    doors = [replace(door, address="127.0.0.1:0") for door in builder.doors() if door.name in ASKED]
    async with serving(doors) as addresses:
        app = builder.app_of("checkout")
        inventory, payment = (builder.led(name, app, builder.channels.caller(name, addresses[name])) for name in ASKED)
        others.inventory, others.payments = inventory, payment
        yield


Told = Callable[[Mapping[str, str]], None]
"""Hears at which addresses the services answer by gRPC, by their names."""


@asynccontextmanager
async def answering(builder: Builder, told: Told | None) -> AsyncIterator[None]:
    """Run, and answer by gRPC too where somebody wants to know at which addresses."""
    async with running(builder), serving(builder.doors() if told else []) as addresses:
        if told:
            told(addresses)
        yield


def embedded(settings: Settings, post: Post | None = None, told: Told | None = None) -> tuple[FastAPI, Bell]:
    """Build the whole shop in one process, on one in-memory broker."""
    client = httpx.AsyncClient()
    everybody = frozenset(PORTS)
    builder = Builder(settings, MemoryBroker(), client, post or http_post(client, settings.webhook_url), everybody)
    # Nobody else works on these files, so after a crash there is nobody to wait for.
    usual = builder.app_settings
    builder.app_settings = replace(
        usual,
        relay=replace(usual.relay, lease=SHORT_LEASE),
        consumer=replace(usual.consumer, lease_ttl=SHORT_LEASE, stop_within=STOP_WITHIN),
        # No grace: the checkout asks the bank by itself before it takes silence for an answer.
        sagas=replace(usual.sagas, lease_ttl=SHORT_LEASE, stop_within=STOP_WITHIN, timeout_grace=timedelta(0)),
        stop_within=STOP_WITHIN,
    )
    return _web(builder, told)


def gateway(settings: Settings) -> tuple[FastAPI, Bell]:
    """Build the gateway alone; the services are other processes."""
    client = httpx.AsyncClient()
    return _web(Builder(settings, settings.broker, client, http_post(client, settings.webhook_url), frozenset()))


def service(settings: Settings, name: str, told: Told) -> Starlette:
    """Build one service alone; the others are other processes."""
    client = httpx.AsyncClient()
    post = http_post(client, settings.webhook_url)
    builder = Builder(settings, settings.broker, client, post, frozenset({name}))
    api, app = builder.api(name), builder.app_of(name)
    reserving = participants_of(app, settings.tcc_secret) if name in RESERVING else None
    return serve(
        PORTS[name], api, lambda _: answering(builder, told), partial(check, app), builder.telemetry, reserving
    )


def _web(builder: Builder, told: Told | None = None) -> tuple[FastAPI, Bell]:
    context = builder.gateway()
    web = create_app(context, builder.settings.cookie_secret, lambda _: answering(builder, told))
    return web, context.timeline.bell
