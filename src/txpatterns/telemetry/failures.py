"""What goes wrong, in Python's own log: for an App without a listener that writes log lines."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from datetime import timedelta

from txpatterns.causes import one_of, place_of
from txpatterns.errors import HandlerSignal
from txpatterns.hooks import Hooks
from txpatterns.messages import Message
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

    def published(self, messages: Sequence[Message], age: timedelta) -> None:
        if self._broker_away:
            self._broker_away = False
            logger.warning("the broker is back")

    def broker_unavailable(self, error: Exception | None) -> None:
        if not self._broker_away:
            self._broker_away = True
            logger.warning("the broker cannot be reached, messages wait: %s", error_line(error))

    def topic_postponed(self, topic: str, error: Exception | None) -> None:
        logger.warning("%s takes no messages now, they wait until it does: %s", one_line(topic), error_line(error))

    def topic_resumed(self, topic: str) -> None:
        logger.warning("%s takes messages again", one_line(topic))

    def publish_failed(self, message: Message, error: Exception | None, attempt: int) -> None:
        logger.warning("%s was refused in attempt %d: %s", _named(message), attempt, error_line(error))

    def handler_failed(self, message: Message, consumer: str, error: BaseException, attempt: int) -> None:
        level = logging.INFO if isinstance(error, HandlerSignal) else logging.WARNING
        line, told = place_of(error).rpartition(" in ")[0], one_of(error) + _traceback(error)
        who = f"{one_line(line)}: {one_line(consumer)}" if line else one_line(consumer)
        logger.log(level, "%s failed at %s in attempt %d: %s", who, _named(message), attempt, told)

    def dead(self, message: Message, consumer: str | None, error: str) -> None:
        who = "nobody could publish it" if consumer is None else f"{one_line(consumer)} gave it up"
        logger.error("%s is a dead letter, %s: %s", _named(message), who, error_line(error))


def _named(message: Message) -> str:
    return f"{one_line(message.type)} {one_line(message.id)} on {one_line(message.topic)}"


def _traceback(error: BaseException) -> str:
    if not logger.isEnabledFor(logging.INFO) or error.__traceback__ is None:
        return ""
    return "\n" + "".join(traceback.format_list(traceback.extract_tb(error.__traceback__))).rstrip()
