"""Modules that know each other in a circle cannot be read, or tested, one at a time."""

import grimp

CIRCLES = []
"""The circles that there are still, each as the list of its modules. Take one out when it is gone; add none."""


def circles(edges):
    """Return the groups of modules that reach each other, given what each knows directly."""
    found = []
    reached = {module: reachable(module, edges) for module in edges}
    for module in sorted(edges):
        group = sorted(other for other in reached[module] if module in reached[other])
        if len(group) > 1 and group not in found:
            found.append(group)
    return found


def reachable(start, edges):
    """Return what a module knows directly and by others, and itself where a way leads back."""
    seen, todo = set(), [start]
    while todo:
        new = edges[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def test_no_modules_know_each_other_in_a_circle():
    """An import for type checkers alone counts as well: it hides the circle from Python, and not from the reader."""
    graph = grimp.build_graph("txpatterns", exclude_type_checking_imports=False, cache_dir=None)
    edges = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(edges) > 100
    assert circles(edges) == CIRCLES


def test_a_circle_is_found():
    """The test above can fail: two circles are told apart, and what only leads to one is no part of it."""
    edges = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": {"e"}, "e": {"f"}, "f": {"d"}, "g": set()}
    assert circles(edges) == [["b", "c"], ["d", "e", "f"]]
