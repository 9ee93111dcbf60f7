"""User code run once in a transaction of ours, ``async def`` or ``def``: what opens it, what came of it, how long."""

from txpatterns.execution.execution import Execution
from txpatterns.execution.run import Came, Origin, Result, Run
from txpatterns.execution.underway import Underway

__all__ = ["Came", "Execution", "Origin", "Result", "Run", "Underway"]
