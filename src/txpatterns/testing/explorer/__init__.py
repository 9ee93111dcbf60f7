"""The crash explorer: strikes a flow at each of its calls to the outside, lets it recover, and looks at what is left.

``explore`` takes an application and a flow of yours; ``explore_flow`` takes a ``Flow``, for systems without an App.
"""

from txpatterns.testing.explorer.application import explore
from txpatterns.testing.explorer.cases import Broken, Case, Options, Verdict
from txpatterns.testing.explorer.clock import HurriedClock
from txpatterns.testing.explorer.explore import Report, explore_flow
from txpatterns.testing.explorer.flows import Flow, Surroundings
from txpatterns.testing.explorer.invariants import INVARIANTS, Invariant, State, attempts_at_most
from txpatterns.testing.explorer.outside import Outside, done_at
from txpatterns.testing.explorer.points import Injection, Mode, Point
from txpatterns.testing.explorer.wire import WireBroker, WireLog

__all__ = [
    "INVARIANTS",
    "Broken",
    "Case",
    "Flow",
    "HurriedClock",
    "Injection",
    "Invariant",
    "Mode",
    "Options",
    "Outside",
    "Point",
    "Report",
    "State",
    "Surroundings",
    "Verdict",
    "WireBroker",
    "WireLog",
    "attempts_at_most",
    "done_at",
    "explore",
    "explore_flow",
]
