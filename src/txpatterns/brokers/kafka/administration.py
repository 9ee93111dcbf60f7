"""The client by which the adapter asks Kafka about topics and groups. It blocks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from txpatterns.brokers.kafka.failures import REFUSED_CLIENT
from txpatterns.brokers.kafka.settings import Config, KafkaSettings


@contextmanager
def administration(settings: KafkaSettings) -> Iterator[AdminClient]:
    """Open a client that makes no topic, whatever the broker would do, and says why it is not let in.

    Raises:
        KafkaException: nobody answered, or this client is refused.
    """
    said: list[KafkaError] = []
    quiet = {"allow.auto.create.topics": False, "log_level": 0, "error_cb": said.append}
    config: Config = {**settings.common_config(), **quiet}
    admin = AdminClient(config)
    try:
        yield admin
    except KafkaException as raised:
        admin.poll(0)  # tells why: by itself, a password that is not accepted is just a time-out
        refused = next((error for error in said if error.code() in REFUSED_CLIENT), None)
        raise raised if refused is None else KafkaException(refused) from raised
