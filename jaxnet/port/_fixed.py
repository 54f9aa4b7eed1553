"""What a compiled step reads while it is traced, which has to be the same at every step."""

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._flow import (
    COMPOUND,
    LOOPS,
    backward_calls,
    bound_names,
    bound_names_of_target,
    callee_of,
    calls_in,
    header_of,
    lists,
    names_read,
)
from jaxnet.port._nodes import code, is_name, parts_of
from jaxnet.port._roles import Part
from jaxnet.port._steps import NotUnderstoodError, root_of, stored_into

if TYPE_CHECKING:
    from jaxnet.port._source import Source

_CHANGES = {
    "add", "append", "appendleft", "clear", "extend", "insert", "pop", "popitem", "popleft",
    "remove", "reverse", "setdefault", "sort", "update",
}  # fmt: skip
"""The methods that change a list, a dictionary or a set."""

_ENTRIES = {"forward", "__call__"}


class Fixed:
    """Tells what changes from one training step to another, and refuses what a step cannot see.

    Args:
        source: The file.
        parts: The functions of the file and its program, by name.
        owner: The part that makes the optimizer.

    Attributes:
        prints: The calls of print in a model's `forward`, which print once.
        classes: The classes of the file, by name.
        modules: The names of those that are modules.
        globals: The names that a function declares as global.
    """

    def __init__(self, source: "Source", parts: dict[str, Part], owner: Part) -> None:
        self.source = source
        self.parts = parts
        self.owner = owner
        self.prints: list[Any] = []
        self.classes = {
            one.name.value: one for one in source.whole_tree.body if isinstance(one, cst.ClassDef)
        }
        self.modules: set[str] = set()
        for name, one in self.classes.items():  # a base stands before what inherits from it
            bases = [code(base.value) for base in one.bases]
            if any(base.endswith("Module") or base in self.modules for base in bases):
                self.modules.add(name)
        self.globals = {
            item.name.value
            for part in parts.values()
            for one in part.statements
            for inner in parts_of(one)
            if isinstance(inner, cst.Global)
            for item in inner.names
        }
        self._changing: dict[str, bool] = {}
        self.training = self._grown(
            {n for n, p in parts.items() if n and any(backward_calls(s) for s in p.statements)}
        )

    def _grown(self, names: set[str]) -> set[str]:
        """Functions, and those that call them."""
        found = set(names)
        while True:
            more = {
                name
                for name, part in self.parts.items()
                if name and name not in found and self._calls(part.statements, found)
            }
            if not more:
                return found
            found |= more

    def _calls(self, nodes: Any, names: set[str]) -> bool:
        return any(is_name(call.func, *names) for call in calls_in(*nodes))

    def trains(self, statement: Any) -> bool:
        """Whether a statement makes training steps."""
        return bool(backward_calls(statement)) or self._calls([statement], self.training)

    # what changes

    def bindings(self, part: Part, name: str) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        """The statements of a part that give a name a value, with those that they are in."""
        for place, above in lists(part.statements):
            for one in place:
                names = bound_names(one) if not isinstance(one, COMPOUND) else _target_names(one)
                if name in names:
                    yield one, (*above, one) if isinstance(one, LOOPS) else above

    def is_late(
        self, part: Part, one: Any, above: tuple[Any, ...], seen: frozenset[str] = frozenset()
    ) -> bool:
        """Whether a statement may be run between two training steps."""
        if any(isinstance(a, LOOPS) and self.trains(a) for a in above):
            return True
        path, before, after = [*above, one], False, False
        for place, _ in lists(part.statements):
            for i, other in enumerate(place):
                if any(other is step for step in path):
                    before |= any(self.trains(o) for o in place[:i])
                    after |= any(self.trains(o) for o in place[i + 1 :])
        if before and after:
            return True
        if part is self.owner or part.name in seen:
            return False
        return any(
            self.is_late(caller, site, over, seen | {part.name})
            for caller in self.parts.values()
            for place, over in lists(caller.statements)
            for site in place
            if self._calls(header_of(site), {part.name})
        )

    def changes_inside(self, name: str) -> bool:
        """Whether attributes or elements of a name change between two training steps."""
        if name not in self._changing:
            self._changing[name] = self._is_changed_inside(name)
        return self._changing[name]

    def _is_changed_inside(self, name: str) -> bool:
        given = self._changed_parameters
        for part in self.parts.values():
            for place, above in lists(part.statements):
                for one in place:
                    changed = name in _changed_inside(one) or any(
                        is_name(self.parts[callee].argument(call, parameter), name)
                        for call in calls_in(*header_of(one))
                        if (callee := callee_of(call)) in given
                        for parameter in given[callee]
                    )
                    if changed and self.is_late(part, one, above):
                        return True
        return False

    @functools.cached_property
    def _changed_parameters(self) -> dict[str, set[str]]:
        """By function, the parameters whose attributes or elements it changes."""
        found: dict[str, set[str]] = {}
        while True:
            grown = False
            for name, part in self.parts.items():
                new: set[str] = set()
                for one in part.statements:
                    for inner in _statements(one):
                        new |= _changed_inside(inner)
                    for call in calls_in(one):
                        callee = callee_of(call)
                        for parameter in found.get(callee, ()):
                            new.add(code(self.parts[callee].argument(call, parameter) or _NONE))
                new &= set(part.parameters)
                if name and new - found.get(name, set()):
                    found[name] = found.get(name, set()) | new
                    grown = True
            if not grown:
                return found

    def changes(self, part: Part, name: str) -> bool:
        """Whether a name of a part, or what it stands for, changes between two steps."""
        return (
            name in self.globals
            or any(self.is_late(part, one, above) for one, above in self.bindings(part, name))
            or self.changes_inside(name)
        )

    # what a step calls

    def check(self, node: Any, part: Part, used: list[Any], constants: list[str]) -> None:
        """Refuses what the code that a step calls does only once, when the step is compiled.

        Args:
            node: The statement at which it shows.
            part: The part that the step is in.
            used: The statements of the forward pass, and the loss.
            constants: What the constants of the loss are where the step is made.
        """
        program = self.parts.get("")
        everywhere = [] if program is None else [program]
        waiting: list[tuple[Any, str, list[Part]]] = [
            (one, "step", [part, *everywhere]) for one in used
        ]
        for words in constants:
            waiting.append((cst.parse_expression(words), "step", [self.owner, *everywhere]))
        for name, definition in self.classes.items():
            if name in self.modules or "forward" in _own(definition):
                waiting += _of_class(definition, everywhere)
        seen: set[tuple[int, str]] = set()
        while waiting:
            one, kind, scopes = waiting.pop()
            if (id(one), kind) in seen:
                continue
            seen.add((id(one), kind))
            self._check_random(node, one)
            if kind == "code":
                self._check_code(node, one, scopes)
            inner = "class" if kind == "class" else "code"
            names = {callee_of(call) for call in calls_in(one)} if kind == "class" else {}
            for name in names or names_read(one):
                for found in self._classes_of(name, scopes):
                    waiting += _of_class(found, everywhere)
                if name and name in self.parts:
                    waiting.append((self.parts[name].node, inner, everywhere))
                elif kind != "class":
                    waiting += [(v, "code", s) for v, s in self._functions(name, scopes)]

    def _classes_of(self, name: str, scopes: list[Part]) -> list[cst.ClassDef]:
        """The classes of the file that a name stands for, or of which it may be an object."""
        if name in self.classes:
            return [self.classes[name]]
        scope = next((part for part in scopes if name in part.bound), None)
        if scope is None:
            return []
        return [
            self.classes[callee]
            for one, _ in self.bindings(scope, name)
            for call in calls_in(*header_of(one))
            if (callee := callee_of(call)) in self.classes
        ]

    def _functions(self, name: str, scopes: list[Part]) -> list[tuple[Any, list[Part]]]:
        """The functions without a name, or within a part, that a name stands for."""
        for i, part in enumerate(scopes):
            if name in part.bound or name in part.parameters:
                return [
                    (inner, scopes[i:])
                    for one, _ in self.bindings(part, name)
                    for own in header_of(one)
                    for inner in parts_of(own)
                    if isinstance(inner, cst.Lambda | cst.FunctionDef)
                ]
        return []

    def _check_random(self, node: Any, one: Any) -> None:
        for call in calls_in(one):
            if self.source.imported(call.func).startswith(("random.", "numpy.random.", "time.")):
                raise NotUnderstoodError(
                    node, f"{code(call)}: it would be run once, when the step is compiled"
                )

    def _check_code(self, node: Any, one: Any, scopes: list[Part]) -> None:
        """Refuses a function that reads what changes, or that changes something outside of it."""
        name = one.name.value if isinstance(one, cst.FunctionDef) else "lambda"
        free = names_read(one)
        for part in parts_of(one):
            if isinstance(part, cst.Global | cst.Nonlocal):
                raise NotUnderstoodError(
                    node, f"{code(part)} in {name}: it would be run once, when the step is compiled"
                )
            if isinstance(part, cst.Call) and is_name(part.func, "print"):
                if _is_method(one):
                    self.prints.append(part)
                    continue
                raise NotUnderstoodError(
                    node, f"{code(part)} in {name}: it prints while the loss is computed"
                )
            outer: set[str] = set()
            if isinstance(part, cst.SimpleStatementLine):
                outer = _changed_inside(part)
            if isinstance(part, cst.Expr):
                outer |= {root_of(c.func) for c in calls_in(part) if self._is_effect(c)}
            if outer & set(free):
                raise NotUnderstoodError(
                    node, f"{name} changes {min(outer & set(free))}, which would be done once, "
                    "when the step is compiled"
                )  # fmt: skip
        for word in free:
            scope = next((p for p in scopes if word in p.bound or word in p.parameters), None)
            if scope is not None and word in scope.bound and self.changes(scope, word):
                raise NotUnderstoodError(
                    node, f"{name} reads {word}, which changes, and which a compiled step reads "
                    "once; give it as an argument"
                )  # fmt: skip

    def _is_effect(self, call: cst.Call) -> bool:
        """Whether a statement is a call of a method of an object that may see it."""
        if not isinstance(call.func, cst.Attribute):
            return False
        name = self.source.imported(call.func)
        return not name.startswith(("torch.", "warnings."))


_NONE = cst.Name("None")


def _statements(statement: Any) -> Iterator[Any]:
    """The statements of one line each in a statement."""
    for part in parts_of(statement):
        if isinstance(part, cst.SimpleStatementLine):
            yield part


def _changed_inside(statement: Any) -> set[str]:
    """The names of which a statement that is not compound changes attributes or elements."""
    if isinstance(statement, COMPOUND):
        return set()
    found = stored_into(statement)
    for call in calls_in(statement):
        method = call.func.attr.value if isinstance(call.func, cst.Attribute) else ""
        if method in _CHANGES or method.endswith("_"):
            found.add(root_of(call.func))
    return found - {""}


def _target_names(statement: Any) -> set[str]:
    if isinstance(statement, cst.For):
        return bound_names_of_target(statement.target)
    found: set[str] = set()
    for item in getattr(statement, "items", ()):
        if item.asname is not None:
            found |= bound_names_of_target(item.asname.name)
    return found


def _is_method(function: Any) -> bool:
    params = list(getattr(getattr(function, "params", None), "params", ()))
    return any(is_name(param.name, "self") for param in params[:1])


def _of_class(definition: cst.ClassDef, scopes: list[Part]) -> list[tuple[Any, str, list[Part]]]:
    """What is to be looked at of a class that a step uses."""
    methods: list[tuple[Any, str, list[Part]]] = [
        (method, "code", scopes) for method in _methods(definition)
    ]
    return [(definition, "class", scopes), *methods]


def _own(definition: cst.ClassDef) -> dict[str, cst.FunctionDef]:
    """The methods of a class, by name."""
    return {m.name.value: m for m in definition.body.body if isinstance(m, cst.FunctionDef)}


def _methods(definition: cst.ClassDef) -> list[Any]:
    """The methods of a class that are run while it computes."""
    own = _own(definition)
    waiting = list(_ENTRIES & set(own))
    if not waiting:
        return [m for name, m in own.items() if not name.startswith("__")]
    found: dict[str, Any] = {}
    while waiting:
        name = waiting.pop()
        if name in own and name not in found:
            found[name] = own[name]
            waiting += [
                part.attr.value
                for part in parts_of(own[name])
                if isinstance(part, cst.Attribute) and is_name(part.value, "self")
            ]
    return list(found.values())
