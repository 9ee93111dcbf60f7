"""The tests that make a class a broker: subclass the suite, say how to make a broker, run pytest.

    class TestMyBroker(BrokerSuite):
        def new_broker(self) -> Broker:
            return MyBroker("my://localhost")

Each test is a plain function that runs its scenario in an event loop of its own, so no asyncio plugin is needed.
What a broker does not claim in its ``capabilities``, and what the suite has no hook for, is not asked of it, and shown
as skipped with that reason; a run in which all is skipped fails.
"""

from txpatterns.testing.conformance.members import MembersSuite
from txpatterns.testing.conformance.publishing import PublishingSuite
from txpatterns.testing.conformance.reading import ReadingSuite
from txpatterns.testing.conformance.restarts import RestartsSuite
from txpatterns.testing.scenarios import Publishing, Reader, message, scenario

__all__ = ["BrokerSuite", "Publishing", "Reader", "message", "scenario"]


class BrokerSuite(PublishingSuite, ReadingSuite, MembersSuite, RestartsSuite):
    """What every broker must do. Override `new_broker`, and `new_topic` where topics have to be made first.

    ``closed_topic`` with ``open_topic``, and ``restart``, let the suite try what it cannot bring about by itself.
    """
