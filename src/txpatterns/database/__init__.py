"""The only place that knows engines and dialects."""

from txpatterns.database.database import Database
from txpatterns.database.leases import Held, Leases
from txpatterns.database.schema import attach, metadata, not_ours

__all__ = ["Database", "Held", "Leases", "attach", "metadata", "not_ours"]
