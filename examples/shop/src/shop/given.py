"""Values out of the environment, one at a time. What makes no sense is a ``SettingsError`` that names it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

HIGHEST_PORT = 65_535
A_DAY = 86_400
MOST_CALLS = 1_000_000


class SettingsError(Exception):
    """A setting is missing or makes no sense; the message says which and how to give it."""


def one_of(env: Mapping[str, str], *names: str) -> tuple[str, str]:
    """Give the name that is set, out of several for one thing, and its value, which is empty where none is."""
    found = [(name, env[name]) for name in names if env.get(name)]
    if len({value for _, value in found}) > 1:
        said = " and ".join(f"{name}={value}" for name, value in found)
        raise SettingsError(f"{said} are two names for one thing, and disagree: set one of them.")
    return found[0] if found else ("", "")


def read_port(name: str, given: str) -> int:
    """Give a port; 0 is any that is free."""
    if not is_port(given):
        raise SettingsError(f"{name} must be a port, from 0 (any that is free) to {HIGHEST_PORT}; it is {given!r}.")
    return int(given)


def is_port(text: str) -> bool:
    """Whether a text is the number of a port."""
    return text.isdecimal() and len(text) <= len(str(HIGHEST_PORT)) and int(text) <= HIGHEST_PORT


def read_seconds(name: str, env: Mapping[str, str], usual: float) -> timedelta:
    """Give a time that is set in seconds, up to a day."""
    given = env.get(name) or str(usual)
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= A_DAY:
        raise SettingsError(f"{name} must be a number of seconds, from 0 to {A_DAY} (a day); it is {given!r}.")
    return timedelta(seconds=seconds)


def read_calls(name: str, env: Mapping[str, str], usual: int) -> int:
    """Give how many calls a minute are set; 0 is no limit."""
    given = env.get(name) or str(usual)
    if not (given.isascii() and given.isdecimal() and len(given) <= len(str(MOST_CALLS)) and int(given) <= MOST_CALLS):
        raise SettingsError(
            f"{name} must be so many calls a minute, from 0 (as often as one likes) to {MOST_CALLS}; it is {given!r}."
        )
    return int(given)


def read_switch(name: str, env: Mapping[str, str], usual: bool) -> bool:
    """Give whether something is set to be on."""
    first, second = ("on", "off") if usual else ("off", "on")
    return one_of_two(name, env, first, second) == "on"


def one_of_two(name: str, env: Mapping[str, str], usual: str, other: str) -> str:
    """Give which of two words is set; the first is taken where none is."""
    given = env.get(name) or usual
    if given not in (usual, other):
        raise SettingsError(f"{name} must be {' or '.join(sorted((usual, other), reverse=True))}; it is {given!r}.")
    return given
