"""A connection that does not come about."""

import asyncio
import gc
import warnings

import pytest

from txpatterns.brokers.rabbitmq import link
from txpatterns.brokers.rabbitmq.settings import settings_from_url
from txpatterns.errors import BrokerUnavailable

ANSWERS = {"nothing": b"", "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n", "another version": b"AMQP\0\0\x09\1"}


@pytest.mark.parametrize("hangs_up", [True, False])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
async def test_a_server_that_is_none_is_unavailable_and_leaves_no_socket(monkeypatch, answer, hangs_up):
    """H409: told within the time for an answer; no socket of ours is left open, and the event loop hears of no error."""
    monkeypatch.setattr(link, "_ANSWER_WITHIN", 1.0)
    loop_errors, callers = [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: loop_errors.append(context))

    async def serve(_, writer):
        callers.append(writer)
        writer.write(answer)
        if hangs_up:
            writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for _ in range(3):
                with pytest.raises(BrokerUnavailable):
                    await link.Link(settings_from_url(f"amqp://guest:guest@127.0.0.1:{port}/")).open()
            await asyncio.sleep(0)
            gc.collect()
        for writer in callers:
            writer.close()
    assert [str(each.message) for each in found if f"raddr=('127.0.0.1', {port})" in str(each.message)] == []
    assert loop_errors == []
