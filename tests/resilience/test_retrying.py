"""Making a call again: what is worth it, how often, and that tests do not wait."""

from datetime import timedelta

import pytest
import stamina

from txpatterns import App
from txpatterns.errors import ConfigurationError, Reject
from txpatterns.resilience.breaker import CircuitBreaker, State
from txpatterns.resilience.retrying import Retrying
from txpatterns.testing import waits


@pytest.fixture(autouse=True)
def _at_once():
    with waits.switched_off():
        yield


@pytest.fixture
def txp_app(tmp_path):
    return App("orders", f"sqlite+aiosqlite:///{tmp_path}/orders.db")


class Calls:
    """Raises what it is told, one after the other, and then answers."""

    def __init__(self, *errors):
        self.errors, self.made = list(errors), 0

    def __call__(self):
        self.made += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answered"


def by_decorator(retrying, calls):
    return retrying(calls)()


def by_block(retrying, calls):
    for attempt in retrying:
        with attempt:
            return calls()
    raise AssertionError


async def by_awaited_decorator(retrying, calls):
    @retrying
    async def call():
        return calls()

    return await call()


async def by_awaited_block(retrying, calls):
    async for attempt in retrying:
        with attempt:
            return calls()
    raise AssertionError


FORMS = [by_decorator, by_block, by_awaited_decorator, by_awaited_block]


async def result_of(form, retrying, calls):
    given = form(retrying, calls)
    return await given if hasattr(given, "__await__") else given


@pytest.mark.parametrize("form", FORMS)
async def test_a_call_is_made_again_in_every_form(form):
    """P4, H176: in plain code and in coroutines, as a decorator and as a block."""
    calls = Calls(ConnectionError(), TimeoutError())
    assert await result_of(form, Retrying(), calls) == "answered"
    assert calls.made == 3


@pytest.mark.parametrize("form", FORMS)
async def test_the_last_error_is_raised_as_it_is(form):
    """P4, H176: after so many attempts."""
    calls = Calls(*(ConnectionError(number) for number in range(9)))
    with pytest.raises(ConnectionError, match="3"):
        await result_of(form, Retrying(attempts=4), calls)
    assert calls.made == 4


@pytest.mark.parametrize("error", [Reject("no"), ValueError()], ids=repr)
def test_an_answer_is_not_asked_for_again(error):
    """P4, H176."""
    calls = Calls(error)
    with pytest.raises(type(error)):
        by_decorator(Retrying(), calls)
    assert calls.made == 1


def test_what_was_not_begun_is_not_tried_again():
    """P4, H176: behind a breaker that opens meanwhile, whatever ``on`` says; its own error is raised."""
    breaker, calls = CircuitBreaker("bank", failures=2), Calls(*[ConnectionError()] * 9)
    with pytest.raises(Exception, match="taken to be away"):
        Retrying(on=lambda error: True, attempts=5)(breaker(calls))()
    assert (calls.made, breaker.state) == (2, State.OPEN)


async def test_the_arguments_of_a_call_are_in_no_log(caplog, capsys):
    """I17, H176: stamina's own decorator writes them there."""
    calls = Calls(ConnectionError(), ConnectionError())

    @Retrying()
    def charge(card):
        return calls()

    @Retrying()
    async def refund(card):
        return calls()

    assert (charge("4000-1234"), await refund("4000-1234")) == ("answered", "answered")
    assert "4000-1234" not in caplog.text + "".join(capsys.readouterr())


def test_in_a_test_nobody_waits(txp):
    """H341: the fixture switches the waits off, and only them."""
    assert stamina.is_testing()
    calls = Calls(ConnectionError(), ConnectionError())
    slow = Retrying(first_wait=timedelta(hours=1), longest_wait=timedelta(hours=1), within=timedelta(days=1))
    assert by_decorator(slow, calls) == "answered"


def test_numbers_that_mean_nothing_are_refused():
    """H176."""
    with pytest.raises(ConfigurationError):
        Retrying(attempts=0)
