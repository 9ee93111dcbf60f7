"""The only place that knows engines and dialects."""

from txpatterns.database.database import Database
from txpatterns.database.schema import attach, metadata, not_ours

__all__ = ["Database", "attach", "metadata", "not_ours"]
