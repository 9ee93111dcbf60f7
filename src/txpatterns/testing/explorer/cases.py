"""Which faults there are at which points, and running one of them: strike, recover, look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from mmap import mmap
from random import Random
from typing import Any

from txpatterns.database.engines import make_engine
from txpatterns.testing.explorer.clock import CommonTime
from txpatterns.testing.explorer.flows import Flow
from txpatterns.testing.explorer.invariants import State
from txpatterns.testing.explorer.life import LAST, PREPARING, live
from txpatterns.testing.explorer.points import KILLS, Injection, Mode, Point, Points
from txpatterns.testing.explorer.process import Child, Ending, load
from txpatterns.testing.explorer.world import World

_TAKEOVER = 300
"""Points after which a successor goes round in circles, because the paused process has locked what it looks for."""
ENDLESS = 100_000
"""Points after which a process goes round in circles, as long as it is not known how many the story has."""
_CIRCLES, _SHORT = 50, 200

# What has no effect cannot lose its reply, or be followed by a kill that differs from one before the next point.
_WITHOUT_EFFECT = tuple(mode for mode in Mode if mode not in (Mode.KILL_AFTER, Mode.REPLY_LOST))
_ONLY = {
    "connect": _WITHOUT_EFFECT,
    "broker: deliver": _WITHOUT_EFFECT,
    "outside: look up": _WITHOUT_EFFECT,
    # It is itself the reply.
    "broker: confirm": tuple(mode for mode in Mode if mode is not Mode.REPLY_LOST),
}


@dataclass(frozen=True, slots=True)
class Case:
    """A flow that is struck once, or a second time in its recovery."""

    flow: str
    injection: Injection
    second: Injection | None = None

    def __str__(self) -> str:
        return f"{self.flow}: {self.injection}" + (f" then {self.second}" if self.second else "")

    @classmethod
    def parse(cls, text: str) -> Case:
        """Read what ``str`` wrote."""
        flow, _, strikes = text.partition(": ")
        first, _, second = strikes.partition(" then ")
        return cls(flow, Injection.parse(first), Injection.parse(second) if second else None)

    @property
    def strikes(self) -> list[str]:
        """The faults, in their order."""
        return [str(injection) for injection in (self.injection, self.second) if injection is not None]

    @property
    def kind(self) -> str:
        """What strikes, wherever it does."""
        return self.injection.mode if self.second is None else f"then {self.second.mode}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a case: nothing wrong, or what."""

    case: Case
    fired: bool
    wrong: str = ""
    output: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What to explore.

    ``most`` bounds the cases of a flow, chosen by the ``seed``; with ``every_effect`` the kills around every COMMIT
    and every call of the broker come on top. After each case its recovery is struck too, ``again`` so many times, at
    points and by faults chosen by the seed. ``only`` is one case, by its name.
    """

    modes: Sequence[Mode] = tuple(Mode)
    most: int | None = None
    every_effect: bool = False
    again: int = 0
    seed: int = 1
    only: str | None = None
    at: str = ""
    """Explore only points whose name has this in it."""
    stop_at_first: bool = False


class Broken(AssertionError):
    """A flow does not work even when nothing strikes it."""


def modes_at(point: Point, wanted: Sequence[Mode]) -> list[Mode]:
    """Say which of the faults make sense at a point."""
    possible = _WITHOUT_EFFECT if _only_reads(point.name) else _ONLY.get(point.name, tuple(Mode))
    return [mode for mode in possible if mode in wanted]


class Runner:
    """Runs the cases of one flow in one world."""

    def __init__(self, flow: Flow[Any], world: World, seed: int, endless: int = ENDLESS) -> None:
        self.flow = flow
        self.world = world
        self.seed = seed
        self.endless = endless
        self._output = ""
        self._began = datetime.now(UTC)
        self._time = CommonTime(self._began)

    def prepare(self) -> None:
        """Make the tables and what the story begins with, and remember that."""
        make_engine(self.world.url)  # loads the driver
        self.world.begin()
        self._journal_clear()
        self._undisturbed(_nothing)
        self.world.keep()
        if self.flow.prepare is not None:
            self.world.restore()
            self._undisturbed(self.flow.prepare)
            self.world.keep()
        self._began = self._time.now

    def points(self) -> list[Point]:
        """Run the story once without a fault, and give its points. Raises Broken when it fails even so."""
        self._restore()
        ending = self._life(0, self.flow.act)
        if ending.code != 0 or any("ended" in record for record in self._journal()):
            raise Broken(f"{self.flow.name} fails without a fault: {self._journal()}\n{ending.output}")
        points = next(record["points"] for record in self._journal() if "points" in record)
        self._recover()
        wrong = self._check()
        if wrong:
            raise Broken(f"{self.flow.name} breaks an invariant without a fault: {wrong}\n{self._output}")
        return [Point.parse(text) for text in points]

    def run(self, case: Case) -> Verdict:
        """Strike, recover, look."""
        self._restore()
        if case.injection.mode is Mode.PAUSE:
            self._pause(case.injection)
        else:
            self._life(0, self.flow.act, case.injection)
        if case.second is not None:
            self._life(1, self.flow.recover, case.second)
        self._recover()
        fired = [record["fired"] for record in self._journal() if "fired" in record] == case.strikes
        wrong = self._check()
        return Verdict(case, fired, wrong, self._output if wrong else "")

    def again(self, case: Case, times: int) -> list[Case]:
        """Choose further strikes for the recovery of the case that was just run."""
        points = [record["points"] for record in self._journal() if "points" in record and record["life"] == LAST]
        names = [Point.parse(text) for text in chain.from_iterable(points)]
        # Nobody takes over from a recovery: one that is paused only ends later.
        modes = [mode for mode in Mode if mode is not Mode.PAUSE]
        every = [Injection(point, mode) for point in names for mode in modes_at(point, modes)]
        chosen = Random(f"{self.seed} {case}").sample(every, min(times, len(every)))
        return [replace(case, second=injection) for injection in chosen]

    def _pause(self, injection: Injection) -> None:
        paused = self._child(0, self.flow.act, injection)
        if paused.ended_or(lambda: False) is not None:
            return
        locked = self.world.locked()
        other = self._child(1, self.flow.recover)
        ending = other.ended_or(lambda: locked and self._waits(other))
        paused.proceed()
        self._told(1, ending or other.wait())
        self._told(0, paused.wait())

    def _waits(self, successor: Child) -> bool:
        return successor.beats > _TAKEOVER or (successor.beats > 0 and self.world.waits())

    def _recover(self) -> None:
        self._life(LAST, self.flow.recover)

    def _check(self) -> str:
        wrong = []
        with self.world.connection() as connection:
            state = State(connection, self.world.log, self._journal())
            for invariant in self.flow.invariants:
                try:
                    invariant(state)
                except AssertionError as error:
                    wrong.append(str(error) or f"{invariant} does not hold")
        return "; ".join(wrong)

    def _undisturbed(self, story: Any) -> None:
        ending = self._life(PREPARING, story)
        if ending.code != 0 or any("ended" in record for record in self._journal()):
            raise Broken(f"{self.flow.name} cannot be prepared: {self._journal()}\n{ending.output}")
        load(name for record in self._journal() for name in record.get("imported", ()))

    def _life(self, life: int, story: Any, injection: Injection | None = None) -> Ending:
        return self._told(life, self._child(life, story, injection).wait(), injection)

    def _told(self, life: int, ending: Ending, injection: Injection | None = None) -> Ending:
        self._output += f"--- life {life}\n{ending.output}"
        killed = injection is not None and injection.mode in KILLS and ending.was_killed
        if ending.code != 0 and not killed:
            self._note({"ended": f"exit code {ending.code}: {ending.output[-2000:]}", "life": max(life, 1)})
        return ending

    def _child(self, life: int, story: Any, injection: Injection | None = None) -> Child:
        heart = mmap(-1, 4)
        points = Points(self.world.folder / "journal", heart, injection)
        work = partial(live, self.flow, self.world, story, life=life, seed=self.seed, points=points, time=self._time)
        return Child(work, self.world.folder / f"output-{life}", heart, self.endless)

    def _restore(self) -> None:
        self.world.restore()
        self._journal_clear()
        self._output = ""
        self._time = CommonTime(self._began)

    def _journal_clear(self) -> None:
        (self.world.folder / "journal").write_bytes(b"")

    def _journal(self) -> list[dict[str, Any]]:
        lines = (self.world.folder / "journal").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _note(self, record: object) -> None:
        with (self.world.folder / "journal").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def endless(points: int) -> int:
    """Say with how many points a process goes round in circles, if the undisturbed story has so many."""
    return _CIRCLES * max(points, _SHORT)


def cases_of(flow: str, points: Sequence[Point], options: Options) -> list[Case]:
    """Choose what the options allow of every fault at every point, always the same for a seed, in order."""
    if options.only is not None:
        only = Case.parse(options.only)
        return [only] if only.flow == flow else []
    wanted = [point for point in points if options.at in point.name]
    cases = [Case(flow, Injection(point, mode)) for point in wanted for mode in modes_at(point, options.modes)]
    if options.most is None:
        return cases
    kept = {number for number, case in enumerate(cases) if options.every_effect and is_at_an_effect(case)}
    rest = [number for number in range(len(cases)) if number not in kept]
    kept |= set(Random(options.seed).sample(rest, min(options.most, len(rest))))
    return [cases[number] for number in sorted(kept)]


def is_at_an_effect(case: Case) -> bool:
    """Whether a case kills before or after something that others can see: a COMMIT that writes, or a broker's call.

    A kill at any other point leaves the same behind as one of these.
    """
    name = case.injection.point.name
    seen = name.startswith(("broker: ", "outside: ")) or (name.startswith("commit after") and not _only_reads(name))
    return seen and case.injection.mode in KILLS


def _only_reads(name: str) -> bool:
    return name.rsplit(": ", maxsplit=1)[-1].removeprefix("commit after ").startswith(("begin", "select", "pragma"))


async def _nothing(_system: object) -> None:
    """Only make the system, and with it the tables."""
