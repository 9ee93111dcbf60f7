"""Ids: 64 bits, unique in the cluster whatever clocks do, made without asking anybody."""

# Making ids
from txpatterns.ids.blocks import DatabaseBlocks
from txpatterns.ids.chain import IdChain, IdSource
from txpatterns.ids.fields import Id, IdType
from txpatterns.ids.generator import SnowflakeGenerator

# What an id is made up of
from txpatterns.ids.layout import EPOCH, IdParts, explain

# Ids for the outside, in tables and in JSON
from txpatterns.ids.obfuscation import Obfuscator

# Codes that are used again
from txpatterns.ids.pools import CodePool
from txpatterns.ids.uuids import Uuid7
from txpatterns.ids.workers import WorkerNumbers

__all__ = [
    "EPOCH",
    "CodePool",
    "DatabaseBlocks",
    "Id",
    "IdChain",
    "IdParts",
    "IdSource",
    "IdType",
    "Obfuscator",
    "SnowflakeGenerator",
    "Uuid7",
    "WorkerNumbers",
    "explain",
]
