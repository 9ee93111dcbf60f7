"""Messages to and from the form of SNS and SQS. Strict on the way out, tolerant on the way in."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from txpatterns.brokers.sqs.settings import REQUEST_BYTES
from txpatterns.messages import Message
from txpatterns.transport import REPLAY, from_wire, to_wire_headers

ATTRIBUTE = "txp"
"""The one attribute that carries all headers: AWS allows ten, and a queue may lose a message that has more."""

_EMPTY = "="
"""Stands for a body of no bytes, which AWS refuses; no base64 begins like that."""
_PLAIN = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]+")
# A carriage return is allowed, and does not survive XML.
_TEXT = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_LONGEST_ID = 128
_OVERHEAD = len(ATTRIBUTE) + len("String")


@dataclass(frozen=True, slots=True)
class Entry:
    """A message as a request carries it."""

    message: Message
    body: str
    attribute: str
    group: str
    deduplication: str

    @property
    def size(self) -> int:
        """Bytes that count against the limits of AWS."""
        return len(self.body.encode()) + len(self.attribute) + _OVERHEAD

    @property
    def fits(self) -> bool:
        """Whether it can be sent at all."""
        return self.size <= REQUEST_BYTES

    def as_request(self, number: int, *, body: str, ordered: bool) -> dict[str, Any]:
        """Give the parameters of a batch's entry; ``body`` is what the service calls the body."""
        named = {"MessageDeduplicationId": self.deduplication} if ordered else {}
        attribute = {"DataType": "String", "StringValue": self.attribute}
        return {
            "Id": str(number),
            body: self.body,
            "MessageGroupId": self.group,
            "MessageAttributes": {ATTRIBUTE: attribute},
            **named,
        }


def to_entry(message: Message) -> Entry:
    """Make an entry of a message: its body as text where AWS allows every character, otherwise base64.

    The deduplication id is the message's, so that what is published twice within five minutes comes once; an
    operator's replay adds its number, because it has to come again.
    """
    text, plain = _text_of(message.payload)
    attribute = json.dumps([1 if plain else 0, to_wire_headers(message)], separators=(",", ":"))
    replay = message.headers.get(REPLAY)
    deduplication = message.id if replay is None else f"{message.id}#{replay}"
    group = message.id if message.key is None else message.key
    return Entry(message, text, attribute, _plain(group), _plain(deduplication))


def _text_of(payload: bytes) -> tuple[str, bool]:
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = ""
    if _TEXT.fullmatch(text):
        return text, True
    return b64encode(payload).decode() or _EMPTY, False


def _plain(text: str) -> str:
    """Give a text as an id of AWS: itself if it may be one, otherwise its digest."""
    if len(text) <= _LONGEST_ID and _PLAIN.fullmatch(text):
        return text
    return f"txp-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()}"


def to_message(topic: str, native: Mapping[str, Any]) -> Message:
    """Make a message of what SQS gave, whoever sent it.

    Without our attribute its id is the place, its key the message group, and its body the text, or what the envelope
    of SNS has inside.
    """
    body, attributes = str(native.get("Body", "")), native.get("MessageAttributes") or {}
    group = (native.get("Attributes") or {}).get("MessageGroupId")
    place = f"{topic}/{native.get('MessageId', '')}"
    ours = _ours(attributes)
    if ours is None and (envelope := _envelope(body)) is not None:
        body, place = str(envelope["Message"]), f"{topic}/{envelope.get('MessageId', '')}"
        attributes = envelope.get("MessageAttributes") or {}
        ours = _ours(attributes)
    if ours is not None:
        plain, headers = ours
        payload = body.encode() if plain else _bytes_of(body)
        return from_wire(topic, payload, headers, fallback_id=place)
    headers = {str(name): str(_value(value)) for name, value in attributes.items() if _value(value)}
    if group is not None:
        headers.setdefault("ordering-key", str(group))
    return from_wire(topic, body.encode(errors="surrogatepass"), headers, fallback_id=place)


def _ours(attributes: Mapping[str, Any]) -> tuple[bool, dict[str, str]] | None:
    try:
        plain, headers = json.loads(_value(attributes[ATTRIBUTE]))
        return bool(plain), {str(name): str(value) for name, value in headers.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _value(attribute: Mapping[str, Any]) -> Any:
    """Give the value of an attribute, as SQS or as the envelope of SNS has it."""
    return attribute.get("StringValue", attribute.get("Value"))


def _envelope(body: str) -> Mapping[str, Any] | None:
    if '"Notification"' not in body:
        return None
    try:
        found = json.loads(body)
    except ValueError:
        return None
    is_one = isinstance(found, dict) and found.get("Type") == "Notification" and "Message" in found
    return found if is_one and "TopicArn" in found else None


def _bytes_of(body: str) -> bytes:
    try:
        return b"" if body == _EMPTY else b64decode(body, validate=True)
    except (NotBase64, ValueError):
        return body.encode(errors="surrogatepass")
