"""The explorer itself: what it takes from its caller, and what it says of its cases."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
from confluent_kafka import Consumer

from crash import chain
from crash.outbox_flows import OUTBOX_FLOWS
from txpatterns import App
from txpatterns.errors import ConfigurationError
from txpatterns.testing.explorer import Case, Flow, Options, explore, explore_flow

ENQUEUE: Flow = OUTBOX_FLOWS[0]
FEW = Options(most=2)


@contextmanager
def uncollected() -> Iterator[None]:
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def forget_a_consumer() -> None:
    """Leave garbage that only its own process can clear away, because only there its threads are."""
    consumer = Consumer({"bootstrap.servers": "127.0.0.1:1", "group.id": "nobody", "log_level": 0})
    circle = [consumer]
    circle.append(circle)


def test_what_its_caller_has_forgotten_does_not_reach_the_explored_processes():
    """I14: forked from the caller, they crashed in their first collection, or waited for librdkafka's threads."""
    with uncollected():
        forget_a_consumer()
        report = explore_flow(ENQUEUE, ["sqlite"], FEW)
    assert (report.total, report.failures) == (2, [])


def test_a_flow_with_a_function_of_a_function_is_refused_with_the_way_out():
    """A fresh process could not find it."""

    async def act(bank):
        await ENQUEUE.act(bank)

    with pytest.raises(ConfigurationError, match=r"cannot be told to another process.*top of a module"):
        explore_flow(replace(ENQUEUE, act=act), ["sqlite"], FEW)


async def test_an_app_of_no_module_is_refused_with_the_way_out():
    """The same for an App, which is found by the module that has it."""
    with pytest.raises(ConfigurationError, match=r"No module has this App.*top of a module"):
        await explore(App("nowhere", database="sqlite+aiosqlite:///nowhere.db", broker="memory://"), ENQUEUE.act)


async def test_it_looks_again_after_the_last_handler_has_emitted():
    """I15, H232: each hop is stored, published and handled before it calls the story ended."""
    invariants = [chain.everybody_has_handled_it]
    report = await explore(chain.app, chain.begin, invariants=invariants, options=Options(most=4))
    assert (report.total, report.failures) == (4, [])


async def test_what_is_prepared_is_there_in_every_case():
    """Undisturbed, before the story: also where that is struck at its first point."""
    invariants = [chain.what_was_before_is_there, chain.everybody_has_handled_it]
    report = await explore(
        chain.app, chain.begin, prepare=chain.begin_before, invariants=invariants, options=Options(most=4)
    )
    assert (report.total, report.failures) == (4, [])


def test_a_module_is_found_that_only_the_caller_knows_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """pytest's `importlib` mode gives test files names that no import path leads to."""
    file = tmp_path / "stories.py"
    file.write_text(
        "from crash.outbox_flows import place_one as place\n\nasync def act(bank):\n    await place(bank)\n"
    )
    spec = spec_from_file_location("some_project.stories", file)
    stories = module_from_spec(spec)
    for name, module in (("some_project", type(sys)("some_project")), ("some_project.stories", stories)):
        monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(stories)
    report = explore_flow(replace(ENQUEUE, act=stories.act), ["sqlite"], FEW)
    assert (report.total, report.failures) == (2, [])


def test_a_case_is_run_again_by_its_name_also_one_that_strikes_twice():
    """P7: a recovery is struck as well; each case has a name by which it comes again."""
    report = explore_flow(ENQUEUE, ["sqlite"], Options(most=3, again=1))
    assert not report.failures, report
    assert sum(times for kind, times in report.executed.items() if kind.startswith("then ")) >= 1
    commit = "commit after outbox.writer.write_rows: insert txp_outbox#1/kill-after"
    publish = "broker: publish#1/kill-after"
    name = f"enqueue one: {commit} then {publish}"
    assert str(Case.parse(name)) == name
    again = explore_flow(ENQUEUE, ["sqlite"], Options(only=name))
    assert (dict(again.executed), again.failures, again.unfired) == ({"then kill-after": 1}, [], [])
