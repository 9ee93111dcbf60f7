"""Those who wait until all is published, without a relay."""

import pytest

from txpatterns.errors import ConfigurationError
from txpatterns.outbox.relay.drains import Drains


async def test_a_look_serves_those_who_asked_before_it():
    """P7: whoever asks while a look is under way may have committed behind it, and waits for the next."""
    drains = Drains()
    assert drains.asked == 0
    early, gone, looked_for = drains.ask(), drains.ask(), drains.asked
    late = drains.ask()
    gone.cancel()
    drains.end(looked_for)
    assert (early.done(), late.done()) == (True, False)
    assert drains.asked > looked_for
    drains.end(drains.asked)
    assert late.done()
    assert drains.asked == 0


async def test_a_stop_tells_everybody_who_waits():
    """P7: nobody waits for ever for a relay that has stopped, and who asks afterwards is not told of it."""
    drains = Drains()
    waiting = [drains.ask(), drains.ask()]
    drains.stopped()
    for drain in waiting:
        with pytest.raises(ConfigurationError):
            await drain
    assert not drains.ask().done()
