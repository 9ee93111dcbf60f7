"""RabbitMQ, by pika's asyncio connection: ``pip install 'txpatterns[rabbitmq]'``."""

from __future__ import annotations

from txpatterns.brokers.rabbitmq.broker import RabbitMQBroker

__all__ = ["RabbitMQBroker"]
