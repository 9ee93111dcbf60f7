"""What goes wrong, in Python's own log: for an App without a listener that writes log lines."""

from __future__ import annotations

import logging
import traceback

from txpatterns.causes import one_of, place_of
from txpatterns.deadletters.moments import Dead
from txpatterns.errors import HandlerSignal, NotBegun
from txpatterns.hooks import Hooks, on
from txpatterns.inbox.moments import HandlerFailed
from txpatterns.messages import Message
from txpatterns.outbox.moments import Published, PublishFailed, TopicPostponed, TopicResumed
from txpatterns.resilience.moments import CircuitClosed, CircuitOpened
from txpatterns.runtime.moments import BrokerAway
from txpatterns.sagas.moments import SagaNeedsAttention, StepRaised
from txpatterns.tcc.moments import BranchRaised, TccNeedsAttention
from txpatterns.text import error_line, one_line

logger = logging.getLogger("txpatterns")


class FailureLog(Hooks):
    """Writes a line for each failed attempt and each dead letter, and one for each outage of the broker or a topic.

    Of an error its type and the first line of its text, and before all else the file and line of your own code that
    it came from; all of its traceback, when the logger's level is INFO or lower.
    """

    logs = True

    def __init__(self) -> None:
        self._broker_away = False

    @on(Published)
    def published(self, _: Published) -> None:
        if self._broker_away:
            self._broker_away = False
            logger.warning("the broker is back")

    @on(BrokerAway)
    def broker_away(self, moment: BrokerAway) -> None:
        if not self._broker_away:
            self._broker_away = True
            logger.warning("the broker cannot be reached, messages wait: %s", error_line(moment.error))

    @on(TopicPostponed)
    def topic_postponed(self, moment: TopicPostponed) -> None:
        topic, error = one_line(moment.topic), error_line(moment.error)
        logger.warning("%s takes no messages now, they wait until it does: %s", topic, error)

    @on(TopicResumed)
    def topic_resumed(self, moment: TopicResumed) -> None:
        logger.warning("%s takes messages again", one_line(moment.topic))

    @on(CircuitOpened)
    def circuit_opened(self, moment: CircuitOpened) -> None:
        why = "a person or another process says so" if moment.error is None else error_line(moment.error)
        logger.warning("%s is taken to be away, calls wait for %s: %s", one_line(moment.breaker), moment.open_for, why)

    @on(CircuitClosed)
    def circuit_closed(self, moment: CircuitClosed) -> None:
        logger.warning("%s answers again", one_line(moment.breaker))

    @on(PublishFailed)
    def publish_failed(self, moment: PublishFailed) -> None:
        named, error = _named(moment.message), error_line(moment.error)
        logger.warning("%s was refused in attempt %d: %s", named, moment.attempt, error)

    @on(HandlerFailed)
    def handler_failed(self, moment: HandlerFailed) -> None:
        error, consumer = moment.error, one_line(moment.consumer)
        level = logging.INFO if isinstance(error, (HandlerSignal, NotBegun)) else logging.WARNING
        line, told = place_of(error).rpartition(" in ")[0], one_of(error) + _traceback(error)
        who = f"{one_line(line)}: {consumer}" if line else consumer
        logger.log(level, "%s failed at %s in attempt %d: %s", who, _named(moment.message), moment.attempt, told)

    @on(Dead)
    def dead(self, moment: Dead) -> None:
        who = "nobody could publish it" if moment.consumer is None else f"{one_line(moment.consumer)} gave it up"
        logger.error("%s is a dead letter, %s: %s", _named(moment.message), who, error_line(moment.error))

    @on(StepRaised)
    def step_raised(self, moment: StepRaised) -> None:
        error, step = moment.error, f"{one_line(moment.type)}: {one_line(moment.step)}"
        level = logging.INFO if moment.expected or isinstance(error, (HandlerSignal, NotBegun)) else logging.WARNING
        line, told = place_of(error).rpartition(" in ")[0], one_of(error) + _traceback(error)
        who = f"{one_line(line)}: {step}" if line else step
        what = "could not be undone" if moment.undoing else "failed"
        logger.log(level, "%s %s for %s in attempt %d: %s", who, what, one_line(moment.saga_id), moment.attempt, told)

    @on(SagaNeedsAttention)
    def saga_needs_attention(self, moment: SagaNeedsAttention) -> None:
        logger.error(
            "%s %s needs a person: %s", one_line(moment.type), one_line(moment.saga_id), one_line(moment.reason)
        )

    @on(BranchRaised)
    def branch_raised(self, moment: BranchRaised) -> None:
        error, told = moment.error, one_of(moment.error) + _traceback(moment.error)
        who = f"{one_line(moment.participant)} ({moment.operation})"
        level = logging.INFO if isinstance(error, HandlerSignal) else logging.WARNING
        line, named = place_of(error).rpartition(" in ")[0], one_line(moment.transaction_id)
        who = f"{one_line(line)}: {who}" if line else who
        logger.log(level, "%s failed for TCC %s in attempt %d: %s", who, named, moment.attempt, told)

    @on(TccNeedsAttention)
    def tcc_needs_attention(self, moment: TccNeedsAttention) -> None:
        logger.error("TCC %s needs a person: %s", one_line(moment.transaction_id), one_line(moment.reason))


def _named(message: Message) -> str:
    return f"{one_line(message.type)} {one_line(message.id)} on {one_line(message.topic)}"


def _traceback(error: BaseException) -> str:
    if not logger.isEnabledFor(logging.INFO) or error.__traceback__ is None:
        return ""
    return "\n" + "".join(traceback.format_list(traceback.extract_tb(error.__traceback__))).rstrip()
