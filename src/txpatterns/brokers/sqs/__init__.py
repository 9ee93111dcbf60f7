"""Amazon SNS and SQS, by boto3 in threads: ``pip install 'txpatterns[sqs]'``."""

from __future__ import annotations

from txpatterns.brokers.sqs.broker import SqsBroker

__all__ = ["SqsBroker"]
