"""Apache Kafka, by confluent-kafka's plain producer and consumer: ``pip install 'txpatterns[kafka]'``."""

from __future__ import annotations

from txpatterns.brokers.kafka.broker import KafkaBroker

__all__ = ["KafkaBroker"]
