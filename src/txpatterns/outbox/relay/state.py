"""What a relay is made with, and what of it outlives a stretch of its work."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random

from txpatterns.coordination import Leases, Ownership, Pace, say
from txpatterns.coordination.wakeup import MEMBERS
from txpatterns.database.database import Database
from txpatterns.hooks import HookList
from txpatterns.messages import BUCKETS
from txpatterns.outbox.relay.doubts import Doubts
from txpatterns.outbox.relay.drains import Drains
from txpatterns.outbox.relay.due import Due
from txpatterns.outbox.relay.rows import Row
from txpatterns.outbox.relay.settings import RelaySettings
from txpatterns.outbox.schema import SCOPE
from txpatterns.retries import FailurePolicies, check_kind
from txpatterns.runtime.outages import Outages
from txpatterns.transport import Publisher


class RelayState:
    """Belongs to the relay, which hands it to whatever works for it. The rest is made anew after every outage."""

    def __init__(
        self,
        database: Database,
        broker: Publisher,
        settings: RelaySettings,
        policies: FailurePolicies,
        hooks: HookList,
        random: Random,
    ) -> None:
        self.database = database
        self.broker = broker
        self.settings = settings
        check_kind(FailurePolicies, policies)
        self.policies = policies
        self.hooks = hooks
        self.random = random
        self.clock = database.clock
        self.confirmed: list[Row] = []
        """Rows that the broker has confirmed and the database does not know of yet; kept through an outage."""
        self.confirmed_again: list[Due] = []
        """The same of messages that had failed before."""
        self.doubts = Doubts(settings.read_ahead)
        self.postponed: dict[str, str] = {}
        """The topics that take nothing now, each with the broker's reason; told once, whatever comes between."""
        self.drains = Drains()
        self.changed = asyncio.Event()
        """Something has happened: the coordinator looks what there is to do."""
        self.stop = asyncio.Event()
        self.outages = Outages(database.clock, "the relay", self.stop)
        announce = partial(say, word=MEMBERS)
        leases = Leases(database, SCOPE, slots=BUCKETS, ttl=settings.lease, announce=announce)
        self.ownership = Ownership(leases)
        self.pace = Pace(self.clock)
        """How often it looks at the tables unasked."""

    @property
    def stopping(self) -> bool:
        """Whether the relay is asked to stop."""
        return self.stop.is_set()
