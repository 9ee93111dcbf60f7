"""Who is there, who owns what, and how processes wake each other; it knows nothing of messages."""

from txpatterns.coordination.census import Census
from txpatterns.coordination.hearing import Hearing
from txpatterns.coordination.leases import Leases
from txpatterns.coordination.listening import Listener, ListenSettings
from txpatterns.coordination.membership import Membership
from txpatterns.coordination.ownership import Ownership
from txpatterns.coordination.pace import Pace
from txpatterns.coordination.slots import Held
from txpatterns.coordination.tending import Tending
from txpatterns.coordination.wakeup import Notifier, say
from txpatterns.coordination.watching import FileWatch

__all__ = [
    "Census",
    "FileWatch",
    "Hearing",
    "Held",
    "Leases",
    "ListenSettings",
    "Listener",
    "Membership",
    "Notifier",
    "Ownership",
    "Pace",
    "Tending",
    "say",
]
