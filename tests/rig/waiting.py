import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, what: str, within: timedelta = timedelta(seconds=30)) -> T:
    """Ask again and again until the answer is true, and return it.

    Raises:
        TimeoutError: naming `what` was waited for, when `within` has passed.
    """
    deadline = time.monotonic() + within.total_seconds()
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {within.total_seconds():g} s for {what}")
        time.sleep(0.02)
