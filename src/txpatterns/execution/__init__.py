"""User code run once in a transaction of ours, ``async def`` or ``def``, and members that claim rows to run it for."""

from txpatterns.execution.claimant import Claimant
from txpatterns.execution.execution import Execution
from txpatterns.execution.run import Came, Origin, Result, Run
from txpatterns.execution.underway import Underway

__all__ = ["Came", "Claimant", "Execution", "Origin", "Result", "Run", "Underway"]
