"""TCC: participants reserve, and then all are confirmed or all are cancelled, whatever dies meanwhile."""

from txpatterns.tcc.coordinator import TccCoordinator
from txpatterns.tcc.participants import Participant
from txpatterns.tcc.schema import Status
from txpatterns.tcc.settings import TccSettings
from txpatterns.tcc.tcc import Tcc
from txpatterns.tcc.transaction import TccTransaction
from txpatterns.tcc.transactions import BranchCall, BranchTransaction, SyncBranchTransaction

__all__ = [
    "BranchCall",
    "BranchTransaction",
    "Participant",
    "Status",
    "SyncBranchTransaction",
    "Tcc",
    "TccCoordinator",
    "TccSettings",
    "TccTransaction",
]
