"""Mermaid's text of a flowchart: boxes, and arrows between them."""

from __future__ import annotations

from enum import Enum

_ENTITIES = str.maketrans(
    {'"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;", "#": "#35;", "\\": "#92;", "`": "#96;", "\n": " "}
)


class Shape(Enum):
    """What a box looks like: the brackets around its text."""

    END = '(["', '"])'
    STEP = '["', '"]'
    CALL = '[["', '"]]'
    WAIT = '{{"', '"}}'
    MARK = '[/"', '"/]'
    CHOICE = '{"', '"}'


class Flowchart:
    """A flowchart that is being made."""

    def __init__(self) -> None:
        self._boxes: list[str] = []
        self._arrows: list[str] = []

    def box(self, shape: Shape, text: str) -> str:
        """Add a box; gives its name for arrows."""
        name = f"n{len(self._boxes)}"
        before, behind = shape.value
        self._boxes.append(f"    {name}{before}{text.translate(_ENTITIES)}{behind}")
        return name

    def arrow(self, begin: str, end: str, text: str = "", *, dotted: bool = False) -> None:
        """Add an arrow between two boxes."""
        line = "-.->" if dotted else "-->"
        told = f'|"{text.translate(_ENTITIES)}"|' if text else ""
        self._arrows.append(f"    {begin} {line}{told} {end}")

    def __str__(self) -> str:
        return "\n".join(["flowchart TD", *self._boxes, *self._arrows])
