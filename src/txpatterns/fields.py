"""Which fields an event can have: those that come back from JSON. Found out once, where the class is written.

What is judged is pydantic's own plan of the class, its core schema. A field with a serializer of its own is left to
whoever wrote it, and a kind that is not known here passes: ``outbox.add`` reads every event back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from txpatterns.errors import EventDefinitionError

Node = Mapping[str, Any]

_NEVER = {
    "callable": "a function has no JSON form",
    "generator": "an iterator is empty once it was written: use list",
    "is-instance": "nothing says how it is written and read: give it a serializer and a validator",
    "is-subclass": "a class has no JSON form",
}
_DECIDED_BY_CODE = ("function-before", "function-wrap", "function-plain")
_WITH_FIELDS = ("model-fields", "typed-dict", "dataclass-args")
_SECRET = "a secret is written as asterisks: send what the receiver may know as text, or give it a serializer"  # noqa: S105
_IMPORT = "the message would choose what is imported: use text, and look it up in a table of your own"


@dataclass(frozen=True, slots=True)
class Form:
    """How the events of a class are written and read."""

    by_alias: bool
    """Whether an alias is the field's name on the wire: it is, unless the class says ``serialize_by_alias=False``.

    The wire has no other name for the field, in neither direction."""
    round_trip: bool
    """Whether pydantic's ``round_trip`` is needed: without it, what is written of the class cannot be read."""


def form_of(event: type[BaseModel]) -> Form:
    """Say how a class is written.

    Raises:
        EventDefinitionError: it has a field of which no value could be read back.
    """
    walk = _Walk(by_alias=event.model_config.get("serialize_by_alias") is not False)
    for path, why in walk.faults(event.__pydantic_core_schema__):
        raise EventDefinitionError(
            f"{event.__name__}: what is in {path} could not be read back: {why}.",
            fix="Give the field a type that JSON can carry both ways.",
        )
    return Form(walk.by_alias, walk.round_trip)


class _Walk:
    """One walk over the schema of a class, on the way that JSON takes through it."""

    def __init__(self, *, by_alias: bool) -> None:
        self.by_alias = by_alias
        self.round_trip = False
        self._definitions: dict[str, Node] = {}

    def faults(self, node: Node) -> Iterator[tuple[str, str]]:
        """Give the fields that no value of comes back, as a path, with the reason."""
        kind, has_serializer = node["type"], "serialization" in node
        why = _special(node) or (None if has_serializer else _NEVER.get(kind))
        if why is not None:
            yield "", why
        elif has_serializer or (kind in _DECIDED_BY_CODE and _within(node)["type"] not in _WITH_FIELDS):
            return  # code of the user's decides
        elif kind == "json":
            self.round_trip = True
        elif kind == "union":
            yield from self._of_union(node["choices"])
        elif kind in _WITH_FIELDS:
            yield from self._of_fields(node["fields"])
        elif kind == "dict" and _is_structure(node.get("keys_schema")):
            yield "", "JSON's names are text: a list of pairs can have such keys"
        else:
            self._note(node)
            for part in self._parts(node):
                yield from self.faults(part)

    def _parts(self, node: Node) -> Iterable[Node]:
        match node["type"]:
            case "definition-ref":
                # Taken out, so that a model that contains itself is looked at once.
                found = self._definitions.pop(node["schema_ref"], None)
                return () if found is None else (found,)
            case "lax-or-strict":
                return (node["lax_schema"],)
            case "json-or-python":
                return (node["json_schema"],)
            case "tagged-union":
                return tuple(each for each in node["choices"].values() if isinstance(each, Mapping))
            case "chain":
                return (node["steps"][0],)
            case "call":  # a named tuple
                return tuple(each["schema"] for each in node["arguments_schema"].get("arguments_schema", ()))
        items = node.get("items_schema", ())
        inner = (node[name] for name in ("schema", "values_schema") if name in node)
        return (*((items,) if isinstance(items, Mapping) else items), *inner)

    def _of_fields(self, fields: Mapping[str, Node] | Iterable[Node]) -> Iterator[tuple[str, str]]:
        named = fields.items() if isinstance(fields, Mapping) else ((each["name"], each) for each in fields)
        for name, field in named:
            schema = field["schema"]
            written, read = name, [name]
            if self.by_alias:
                written, read = field.get("serialization_alias", name), [*_aliases(field.get("validation_alias", name))]
            if field.get("serialization_exclude") and field.get("required", schema["type"] != "default"):
                yield name, "it is required, and exclude=True leaves it out"
            elif written not in read:
                yield name, f"it is written as {written!r}, and not read by that name: use alias=, which is for both"
            else:
                for path, why in self.faults(schema):
                    yield f"{name}.{path}".rstrip("."), why

    def _of_union(self, choices: Iterable[Node | tuple[Node, str]]) -> Iterator[tuple[str, str]]:
        """A union is as good as its best choice; but None alone is not what a field is for."""
        nodes = [each[0] if isinstance(each, tuple) else each for each in choices]
        faults = [next(self.faults(node), None) for node in nodes if node["type"] != "none"]
        yield from (faults[:1] if None not in faults else ())  # type: ignore[misc]

    def _note(self, node: Node) -> None:
        """Note a model that writes computed fields, and would refuse them or keep them as extra ones on reading."""
        self._definitions |= {each["ref"]: each for each in node.get("definitions", ())}
        inner = _within(node)
        behaviour = inner.get("extra_behavior", node.get("config", {}).get("extra_fields_behavior"))
        self.round_trip |= behaviour in ("allow", "forbid") and bool(inner.get("computed_fields"))


def _aliases(given: Any) -> Iterator[str]:
    """Give the names among pydantic's ways to say where a field is found: a name, a path, or several paths."""
    if isinstance(given, str):
        yield given
    else:
        paths = given if isinstance(given[0], list) else [given]
        yield from (path[0] for path in paths if len(path) == 1)


def _within(node: Node) -> Node:
    """Give what the validators of a model are around."""
    while node["type"] not in _WITH_FIELDS and "schema" in node:
        node = node["schema"]
    return node


def _is_structure(key: Node | None) -> bool:
    kinds = ("call", "dataclass", "dict", "frozenset", "list", "model", "set", "tuple", "typed-dict")
    return key is not None and key["type"] in kinds and "serialization" not in key


def _special(node: Node) -> str | None:
    """Know pydantic's own types that have a serializer and still do not come back, by the functions they name."""
    if _name_of(node.get("serialization", {}).get("function")).startswith("_serialize_secret"):
        return _SECRET
    function = node.get("function")
    if isinstance(function, Mapping) and _name_of(function.get("function")) == "import_string":
        return _IMPORT
    return None


def _name_of(function: object) -> str:
    ours = str(getattr(function, "__module__", "")).startswith("pydantic.")
    return str(getattr(function, "__name__", "")) if ours else ""
