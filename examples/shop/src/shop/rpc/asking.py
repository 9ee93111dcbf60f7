"""One call, written and answered as JSON: for people, and for scripts that have no client of their own."""

from __future__ import annotations

from google.protobuf.json_format import MessageToJson, Parse, ParseError

from shop.problems import Problem
from shop.rpc.client import Channels
from shop.rpc.services import SERVICES


async def ask(service: str, call: str, request: str, address: str) -> str:
    """Make a call and give its answer.

    Args:
        service: The service's name in this shop.
        call: The call's name, as its ``.proto`` file has it.
        request: The request's fields.
        address: Host and port.

    Raises:
        Problem: there is no such service, call or field, or what the other side says.
    """
    if service not in SERVICES:
        raise Problem("not-found", f"There is no service {service}: choose one of {', '.join(SERVICES)}.")
    calls = {rpc.path.rpartition("/")[2]: rpc for rpc in SERVICES[service].rpcs}
    if call not in calls:
        raise Problem("not-found", f"{service} has no call {call}: choose one of {', '.join(calls)}.")
    rpc = calls[call]
    try:
        body = Parse(request, rpc.request())
    except ParseError as error:
        raise Problem("bad-request", f"The request does not fit {call}: {error}") from error
    async with Channels() as channels:
        answer = await channels.send(rpc, body, address)
    return MessageToJson(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
