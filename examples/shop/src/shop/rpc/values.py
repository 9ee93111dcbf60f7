"""From arguments and results to messages and back, by way of JSON: fields have the names of the values' own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

from shop.problems import Problem
from shop.rpc.services import Rpc


def to_request(rpc: Rpc, arguments: Mapping[str, Any]) -> Message:
    """Write arguments into a request.

    Raises:
        Problem: ``invalid`` for a value that the request's field cannot hold.
    """
    plain = {name: json.loads(rpc.method.arguments[name].dump_json(value)) for name, value in arguments.items()}
    return _filled(rpc.request, plain)


def of_request(rpc: Rpc, request: Message) -> dict[str, Any]:
    """Read the arguments of a request.

    Raises:
        ValidationError: an argument is missing or out of range.
    """
    given = _plain(request)
    return {name: adapter.validate_json(json.dumps(given[name])) for name, adapter in rpc.method.arguments.items()}


def to_answer(rpc: Rpc, result: Any) -> Message:
    """Write a method's result into an answer.

    Raises:
        Problem: ``not-found`` for None, where the method may find something.
    """
    if result is None and rpc.may_find_nothing:
        raise Problem("not-found", "There is none.")
    plain = json.loads(rpc.method.result.dump_json(result))
    if rpc.field is not None:
        plain = {rpc.field: plain}
    return _filled(rpc.answer, plain or {})


def of_answer(rpc: Rpc, answer: Message) -> Any:
    """Read a method's result from an answer."""
    given = _plain(answer)
    found = given[rpc.field] if rpc.field is not None else given or None
    return rpc.method.result.validate_json(json.dumps(found))


def _filled(kind: type[Message], plain: dict[str, Any]) -> Message:
    try:
        return ParseDict(plain, kind())
    except ParseError as error:
        raise Problem("invalid", f"This does not fit into a call: {error}") from error


def _plain(message: Message) -> dict[str, Any]:
    """Give the fields of a message as JSON values: what has its usual value is there, and what is absent is None."""
    given = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    _add_absent(message, given)
    return given


def _add_absent(message: Message, given: dict[str, Any]) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.name not in given:
            given[field.name] = None
        elif isinstance(given[field.name], dict) and not _is_map(field.message_type):
            _add_absent(getattr(message, field.name), given[field.name])
        elif field.message_type is not None and isinstance(given[field.name], list):
            for each, told in zip(getattr(message, field.name), given[field.name], strict=True):
                _add_absent(each, told)


def _is_map(kind: Any) -> bool:
    return bool(kind.GetOptions().map_entry)
