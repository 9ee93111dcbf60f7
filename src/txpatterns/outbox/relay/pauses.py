"""When to send again, and which topics meanwhile do not flow with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from txpatterns.outbox.moments import TopicPostponed, TopicResumed
from txpatterns.outbox.relay.backlog import Backlog
from txpatterns.outbox.relay.state import RelayState
from txpatterns.outbox.relay.topics import Topics
from txpatterns.runtime.moments import RELAY, BrokerAway
from txpatterns.text import error_line


class Pauses:
    """The pauses of one stretch of a relay's work: of the broker as a whole, and of topics in trouble."""

    def __init__(self, state: RelayState, backlog: Backlog, read_all_again: Callable[[], None]) -> None:
        self.state = state
        self.backlog = backlog
        self.topics = Topics(state.random)
        self.until = 0.0
        """Nothing is sent before."""
        self.in_a_row = 0
        """How often something was not answered for since the last confirmation."""
        self._read_all_again = read_all_again

    def lasts(self, now: float) -> bool:
        """Whether nothing may be sent at all."""
        return now < self.until

    def back_off(self, error: Exception) -> None:
        """Pause before sending anything again, a little longer each time in a row."""
        if self.in_a_row == 0:
            self.state.hooks.tell(BrokerAway(RELAY, error))
        if self.lasts(self.state.clock.monotonic()):
            return  # the same trouble, told of another message of the batch
        seconds = min(0.05 * 2 ** min(self.in_a_row, 12), 15.0) * (0.5 + self.state.random.random() / 2)
        self.in_a_row += 1
        self.until = self.state.clock.monotonic() + seconds

    def pause(self, topic: str) -> None:
        """Nothing of a topic was answered for: wait a little, and publish it apart until it is."""
        self.in_a_row += 1
        self.backlog.turns.set_apart(topic)
        self.topics.pause(topic, self.state.clock.monotonic())

    def postpone(self, topic: str, error: Exception | None) -> float:
        """A topic takes nothing now: leave it out of reading; gives the seconds until it is tried again."""
        if topic not in self.state.postponed:
            self.state.hooks.tell(TopicPostponed(topic, error))
        self.state.postponed[topic] = error_line(error)
        self.backlog.shut(topic, 1)
        return self.topics.postpone(topic, self.state.clock.monotonic())

    def lag(self, topic: str) -> None:
        """A topic gives no answer for now: publish it apart."""
        self.topics.lags(topic)
        self.backlog.turns.set_apart(topic)

    def flow(self, topics: Iterable[str]) -> None:
        """Let topics that took a message flow with the others again."""
        for topic in topics:
            if self.state.postponed.pop(topic, None) is not None:
                self.state.hooks.tell(TopicResumed(topic))
            trouble = self.topics.flows(topic)
            if trouble is None:
                continue
            was_shut = topic in self.backlog.shut_topics
            self.backlog.rejoin(topic)
            if was_shut:
                self._read_all_again()

    def read_again(self, topic: str) -> None:
        """Read a topic that was shut again: of what was kept of it nothing is left. It is still published apart."""
        self.backlog.rejoin(topic)
        self.backlog.turns.set_apart(topic)
        self._read_all_again()
