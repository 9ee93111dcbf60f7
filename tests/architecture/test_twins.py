"""Awaiting twins: the few methods that exist for `Session` and, with an `a` before the name, for `AsyncSession`."""

import ast

MOST_TWINS = 8


def siblings(tree):
    """Yield the functions that stand side by side, by name: those of the module, and those of each class."""
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]:
        yield {node.name: node for node in scope.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def twins(modules):
    """Yield every pair of an awaiting function and the plain one beside it."""
    for path, tree in modules.items():
        for group in siblings(tree):
            for name, node in group.items():
                plain = group.get(name[1:]) if name.startswith("a") else None
                if isinstance(node, ast.AsyncFunctionDef) and isinstance(plain, ast.FunctionDef):
                    yield f"{path}:{node.lineno} {name}", node, plain


def parameters(node):
    """Names, kinds and defaults; the session's type is what differs between twins."""
    given = node.args
    return (
        [argument.arg for argument in given.posonlyargs],
        [argument.arg for argument in given.args],
        [argument.arg for argument in given.kwonlyargs],
        given.vararg and given.vararg.arg,
        given.kwarg and given.kwarg.arg,
        [default and ast.dump(default) for default in [*given.defaults, *given.kw_defaults]],
    )


def test_twins_take_the_same_parameters(modules):
    """Whoever knows one knows the other."""
    assert [place for place, awaiting, plain in twins(modules) if parameters(awaiting) != parameters(plain)] == []


def test_twins_are_few(modules):
    """Each pair is written twice for ever; most things need no answer from the database and so no twin."""
    assert len(list(twins(modules))) <= MOST_TWINS


def test_run_sync_stands_only_in_a_twin_of_a_plain_method(modules):
    """A public method that hands its work to `session.run_sync(self.X, ...)` is called aX and stands beside X."""
    wrong = [
        f"{path}:{node.lineno} {name}"
        for path, tree in modules.items()
        for group in siblings(tree)
        for name, node in group.items()
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "run_sync"
        and call.args
        and isinstance(called := call.args[0], ast.Attribute)
        and isinstance(called.value, ast.Name)
        and called.value.id == "self"
        and not name.startswith("_")
        and (name != f"a{called.attr}" or called.attr not in group)
    ]
    assert wrong == []
