"""Python's garbage collector, in a process that is ours alone."""

from __future__ import annotations

import gc


def spare_what_is_loaded() -> None:
    """Let the collector leave alone what there is by now: modules and classes live as long as the process.

    Else it looks through all of them again and again while messages flow, and nothing else runs meanwhile. Only for a
    process that does not belong to an application: what is garbage later of what there is now is never collected.
    """
    gc.collect()
    gc.freeze()
