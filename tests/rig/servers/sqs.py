"""What the two servers that speak the protocols of SQS have in common."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore.config import Config

REGION = "eu-central-1"
LOGIN = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@contextmanager
def logged_in() -> Iterator[None]:
    """Credentials in the environment, where boto3 looks for them: any are good enough for these servers."""
    before = {name: os.environ.get(name) for name in LOGIN}
    os.environ.update(LOGIN)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def client(service: str, endpoint: str, **options: Any) -> Any:
    """A client of boto3 that gives up soon."""
    config = Config(connect_timeout=2, read_timeout=25, retries={"total_max_attempts": 1})
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=config,
        **options,
    )
