"""Ids: 64 bits, unique in the cluster whatever clocks do, made without asking anybody."""

from txpatterns.ids.generator import SnowflakeGenerator
from txpatterns.ids.layout import EPOCH, IdParts, explain
from txpatterns.ids.workers import WorkerNumbers

__all__ = ["EPOCH", "IdParts", "SnowflakeGenerator", "WorkerNumbers", "explain"]
