"""Which names show the same array, and which of them a change in place reaches.

torch changes an array for everyone who shows it: for a second name, a view, a list that holds it,
the caller of a function. What is written for JAX gives one name a new value. So the statements of
a function are followed in their order, and a change is marked if a name that it should have reached
is read afterwards.
"""

import dataclasses
from typing import Any

import libcst as cst

from jaxnet.port._classes import is_module
from jaxnet.port._kinds import ARRAYS, Kinds
from jaxnet.port._nodes import code, dotted_name, is_data, is_self, is_super, read_names
from jaxnet.port._rngs import Needs, Scope, Unit
from jaxnet.port._shares import (
    CONTAINER,
    GIVES,
    HOLDS,
    SHAPES,
    VIEWS,
    Shown,
    changes_in_place,
    index_is_basic,
    is_copied,
    layer_effect,
    torch_changes_first,
)


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a function does with the arrays that it is given, by the names of its parameters.

    Attributes:
        changed: Those that it changes in place.
        shown: Those that its result may show.
    """

    changed: frozenset[str] = frozenset()
    shown: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class _Change:
    statement: int
    words: str


@dataclasses.dataclass
class _State:
    """What the names show at one place of a function; a name is stale if it misses a change."""

    shown: dict[str, Shown]
    stale: dict[str, frozenset[_Change]]

    def copy(self) -> "_State":
        return _State(dict(self.shown), dict(self.stale))

    def join(self, other: "_State") -> None:
        """Adds what is so on another way to the same place."""
        for key, value in other.shown.items():
            self.shown[key] = self.shown.get(key, frozenset()) | value
        for key, changes in other.stale.items():
            self.stale[key] = self.stale.get(key, frozenset()) | changes


class Sharing:
    """The changes in place of a program's functions that would be lost.

    Args:
        needs: The units of the program.

    Attributes:
        effects: What each unit does with what it is given.
        kinds: The kinds of the expressions of each unit.
    """

    def __init__(self, needs: Needs) -> None:
        self.needs = needs
        self.kinds = {
            unit: Kinds(
                scope,
                unit.node,
                unit in needs.computing,
                unit in needs.run or is_module(unit.definition),
            )
            for unit, scope in needs.units.items()
        }
        self.effects = dict.fromkeys(needs.units, Effect())
        for _ in range(4):
            before = dict(self.effects)
            for unit in needs.units:
                self.effects[unit] = self.follow(unit).effect()
            if before == self.effects:
                break

    def follow(self, unit: Unit) -> "Followed":
        """Follows the statements of a unit."""
        return Followed(self, unit, self.needs.units[unit], self.kinds[unit])

    def lost(self, unit: Unit) -> dict[int, list[str]]:
        """What is lost by each statement of a unit, by the statement's id."""
        found: dict[int, list[str]] = {}
        for statement, words in self.follow(unit).lost:
            found.setdefault(statement, []).append(words)
        return found


class Followed:
    """One function, followed from its first statement to its last."""

    def __init__(
        self, sharing: Sharing, unit: Unit, scope: Scope, kinds: Kinds, node: Any = None
    ) -> None:
        self.sharing, self.unit, self.scope, self.kinds = sharing, unit, scope, kinds
        self.lost: dict[tuple[int, str], None] = {}
        self.changed: set[str] = set()
        self.returned: set[str] = set()
        self.fresh = 0
        self.statement = 0
        self.rebound: str | None = None  # what the output gives a new value in this statement
        self.deferred: set[str] = set()  # names that a function in the function reads
        self.leaving: list[list[_State]] = []
        node = unit.node if node is None else node
        params = node.params
        every = [*params.params, *params.kwonly_params]
        every += [p for p in (params.star_arg, params.star_kwarg) if isinstance(p, cst.Param)]
        names = [p.name.value for p in every]
        start = _State({n: frozenset({(f"arg:{n}", True)}) for n in names if n != "self"}, {})
        self.state: _State | None = start
        self._block(node.body)
        self._leave()

    def effect(self) -> Effect:
        return Effect(frozenset(self.changed), frozenset(self.returned))

    # statements

    def _block(self, block: Any) -> None:
        for statement in block.body:
            if self.state is None:
                return
            if isinstance(statement, cst.SimpleStatementLine):
                self.statement = id(statement)
                for part in statement.body:
                    if self.state is not None:
                        self.rebound = None
                        self._simple(part)
            elif isinstance(statement, cst.BaseSmallStatement):
                self._simple(statement)
            else:
                self.statement, self.rebound = id(statement), None
                self._compound(statement)

    def _compound(self, node: Any) -> None:
        assert self.state is not None
        if isinstance(node, cst.If):
            self._value(node.test)
            before = self.state.copy()
            self._block(node.body)
            after, self.state = self.state, before
            if isinstance(node.orelse, cst.If):
                self.statement = id(node.orelse)
                self._compound(node.orelse)
            elif node.orelse is not None:
                self._block(node.orelse.body)
            self._join(after)
        elif isinstance(node, cst.For | cst.While):
            items = self._value(node.iter) if isinstance(node, cst.For) else frozenset()
            before = self.state.copy()
            for _ in range(2):
                self.leaving.append([])
                if isinstance(node, cst.For):
                    self._bind(node.target, node.iter, items)
                else:
                    self._value(node.test)
                self._block(node.body)
                for state in self.leaving.pop():
                    self._join(state)
                self._join(before.copy())
            if node.orelse is not None:
                self._block(node.orelse.body)
        elif isinstance(node, cst.With):
            for item in node.items:
                shown = self._value(item.item)
                if item.asname is not None:
                    self._bind(item.asname.name, item.item, shown)
            self._block(node.body)
        elif isinstance(node, cst.Try):
            before = self.state.copy()
            self._block(node.body)
            if node.orelse is not None and self.state is not None:
                self._block(node.orelse.body)
            after = self.state
            for handler in node.handlers:
                self.state = before.copy()
                if after is not None:
                    self.state.join(after)
                self._block(handler.body)
                self._join(after)
                after = self.state
            if node.finalbody is not None and self.state is not None:
                self._block(node.finalbody.body)
        elif isinstance(node, cst.FunctionDef):
            self.deferred |= read_names(node.body)
            scope = self.scope.inside(node)
            kinds = Kinds(scope, node, self.kinds.computing)
            self.lost |= Followed(self.sharing, self.unit, scope, kinds, node).lost

    def _join(self, other: _State | None) -> None:
        if self.state is None:
            self.state = other
        elif other is not None:
            self.state.join(other)

    def _leave(self) -> None:
        """The end of the function: what outlives it is read by others."""
        if self.state is None:
            return
        for key in list(self.state.stale):
            if "." in key or key in self.deferred:
                self._read(key)
        self.state = None

    def _simple(self, part: Any) -> None:
        assert self.state is not None
        if isinstance(part, cst.Expr):
            self.rebound = _rebound_by(part.value, self.kinds)
            self._value(part.value)
        elif isinstance(part, cst.Assign):
            value = part.value
            if isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
                self.rebound = _rebound_by(value, self.kinds)
            shown = self._value(value)
            for target in part.targets:
                self._bind(target.target, value, shown)
        elif isinstance(part, cst.AnnAssign):
            if part.value is not None:
                self._bind(part.target, part.value, self._value(part.value))
        elif isinstance(part, cst.AugAssign):
            shown = self._value(part.value)
            self._augmented(part.target, shown)
        elif isinstance(part, cst.Return):
            if part.value is not None:
                self.returned |= {s[4:] for s, _ in self._value(part.value) if s[:4] == "arg:"}
            self._leave()
        elif isinstance(part, cst.Raise):
            self.state = None
        elif isinstance(part, cst.Continue | cst.Break):
            if self.leaving:
                self.leaving[-1].append(self.state)
            self.state = None
        elif isinstance(part, cst.Assert):
            self._value(part.test)

    def _bind(self, target: Any, value: Any, shown: Shown) -> None:
        """Gives a target a value that shows some arrays."""
        assert self.state is not None
        if isinstance(target, cst.Tuple | cst.List):
            parts = value.elements if isinstance(value, cst.Tuple | cst.List) else None
            same = parts is not None and len(parts) == len(target.elements)
            for index, element in enumerate(target.elements):
                inner = parts[index].value if same else value  # type: ignore[index]
                own = self._value(inner) if same else shown
                self._bind(element.value, inner, own)
        elif isinstance(target, cst.StarredElement):
            self._bind(target.value, value, shown)
        elif isinstance(target, cst.Subscript):
            self._place(target, shown)
        else:
            key = dotted_name(target)
            if key is not None:
                if not shown:
                    self.fresh += 1
                    shown = frozenset({(f"new:{self.fresh}", True)})
                self.state.shown[key] = shown
                self.state.stale.pop(key, None)

    def _place(self, target: cst.Subscript, shown: Shown) -> None:
        """`x[i] = value`: a change of an array, or a new item of a list."""
        if self.kinds(target.value) in ARRAYS:
            self.rebound = _base(target)
            self._change(self._shown(target.value), target)
            return
        key = dotted_name(target.value)
        self._value_of_index(target)
        if key is not None and self.state is not None:
            self.state.shown[key] = self.state.shown.get(key, frozenset()) | shown

    def _augmented(self, target: Any, shown: Shown) -> None:
        if isinstance(target, cst.Subscript):
            inner = self._value(target.value)
            self._value_of_index(target)
            array = self.kinds(target) in ARRAYS or self.kinds(target.value) in ARRAYS
            if array:
                self.rebound = _base(target)
                self._change(inner, target)
        elif self.kinds(target) in ARRAYS or self._is_result(target):
            self.rebound = dotted_name(target)
            self._change(self._value(target), target)
        else:
            key = dotted_name(target)  # outs += [x]
            if key is not None and self.state is not None:
                self.state.shown[key] = self.state.shown.get(key, frozenset()) | shown

    def _is_result(self, target: Any) -> bool:
        """Whether a name may be a view that a function of the program gave."""
        shown = self._shown(target) if self.kinds(target) is None else ()
        return any(storage[:4] in ("arg:", "new:") for storage, _ in shown) and (
            not self._is_own(target)
        )

    def _is_own(self, target: Any) -> bool:
        """Whether a name was given a new value by its function."""
        assert self.state is not None
        shown = self.state.shown.get(dotted_name(target) or "", frozenset())
        holders = [k for k, other in self.state.shown.items() if shown & other]
        return len(holders) == 1

    # changes and readings

    def _change(self, shown: Shown, node: Any) -> None:
        assert self.state is not None
        base = _base(node)
        rebound = self.rebound if self.rebound is not None and self.rebound == base else None
        held = rebound is not None and self._writes(rebound, shown)
        if not held:
            self.changed |= {s[4:] for s, _ in shown if s[:4] == "arg:"}
        change = _Change(self.statement, code(node))
        mine = {s for s, _ in shown}
        for key, other in self.state.shown.items():
            common = [exact for storage, exact in other if storage in mine]
            if key != rebound and common and not (held and all(common)):
                self.state.stale[key] = self.state.stale.get(key, frozenset()) | {change}
        if rebound is not None and not held:
            self.state.stale.pop(rebound, None)
        for storage in () if held else sorted(mine):
            if storage[:4] not in ("arg:", "new:") and storage != rebound:
                self._lose(change, storage, "belongs to an object")

    def _writes(self, key: str, shown: Shown) -> bool:
        """Whether a change of a name is written into a parameter or a buffer, which all see."""
        first, _, rest = key.partition(".")
        if rest:
            return self.kinds.fields.get(rest) != "tensor" or first != "self"
        made = self.unit in self.sharing.needs.making and key not in self.scope.assigned
        if made and key in self.scope.parameters:
            return True
        return self.kinds.names.get(key) in ("param", "buffer") and all(e for _, e in shown)

    def _lose(self, change: _Change, name: str, why: str) -> None:
        words = (
            f"{change.words} is changed in place, and {name}, which {why}, shows the same array: "
            "torch changes both, JAX one; "
            f"give {name} the new value, or change a clone"
        )
        self.lost[(change.statement, words)] = None

    def _read(self, key: str) -> None:
        if self.state is not None:
            for change in self.state.stale.get(key, ()):
                self._lose(change, key, "is read later")

    def _shown(self, node: Any) -> Shown:
        """What an expression shows, without reading its values."""
        kept, self.state = self.state, None if self.state is None else self.state.copy()
        if self.state is not None:
            self.state.stale = {}
        found = self._value(node)
        self.state = kept
        return found

    def _value_of_index(self, node: cst.Subscript) -> None:
        for element in node.slice:
            for part in element.slice.children:
                if isinstance(part, cst.BaseExpression):
                    self._value(part)

    def _value(self, node: Any) -> Shown:
        """Reads an expression; returns which arrays its value shows."""
        none: Shown = frozenset()
        if self.state is None or node is None:
            return none
        if isinstance(node, cst.Name):
            self._read(node.value)
            return self.state.shown.get(node.value, none)
        if isinstance(node, cst.Attribute):
            return self._attribute(node)
        if isinstance(node, cst.Subscript):
            whole = self._value(node.value)
            self._value_of_index(node)
            if is_copied(self.kinds, self.scope, node):
                return none
            basic = self.kinds(node.value) not in ARRAYS or index_is_basic(self.kinds, node)
            return frozenset((s, exact and not basic) for s, exact in whole)
        if isinstance(node, cst.Call):
            return self._call(node)
        if isinstance(node, cst.NamedExpr):
            shown = self._value(node.value)
            self._bind(node.target, node.value, shown)
            return shown
        if isinstance(node, cst.IfExp):
            self._value(node.test)
            before = self.state.copy()
            shown = self._value(node.body)
            after, self.state = self.state, before
            shown |= self._value(node.orelse)
            self._join(after)
            return shown
        if isinstance(node, cst.Lambda):
            self.deferred |= read_names(node.body)
            return none
        if isinstance(node, cst.ListComp | cst.GeneratorExp | cst.SetComp | cst.DictComp):
            return self._comprehension(node)
        inner = _expressions(node)
        parts = [self._value(c) for c in inner]
        self._again(inner)
        keeps = isinstance(node, HOLDS)
        return frozenset().union(*parts) if keeps else none

    def _again(self, nodes: list[Any]) -> None:
        """Reads names that a later part of the same expression may have changed."""
        for node in nodes[:-1]:
            key = dotted_name(node)
            if key is not None:
                self._read(key)

    def _comprehension(self, node: Any) -> Shown:
        loop: Any = node.for_in
        while loop is not None:
            self._bind(loop.target, loop.iter, self._value(loop.iter))
            for test in loop.ifs:
                self._value(test.test)
            loop = loop.inner_for_in
        if isinstance(node, cst.DictComp):
            self._value(node.key)
            return self._value(node.value)
        return self._value(node.elt)

    def _attribute(self, node: cst.Attribute) -> Shown:
        assert self.state is not None
        name = node.attr.value
        if name in SHAPES:
            return frozenset()
        key = dotted_name(node)
        if name in VIEWS or name == "data":
            return frozenset((s, exact and name == "data") for s, exact in self._value(node.value))
        if key is None:
            return self._value(node.value)
        own = key.startswith("self.") or self.kinds(node) in ("param", "buffer")
        self._read(key)
        if own or key in self.state.shown:
            return self.state.shown.setdefault(key, frozenset({(key, True)}))
        return (
            self._value(node.value) if self.scope.is_local(key.partition(".")[0]) else frozenset()
        )

    # calls

    def _given(self, node: cst.Call) -> list[Shown]:
        arguments = [arg.value for arg in node.args]
        given = [self._value(value) for value in arguments]
        self._again(arguments)
        return given

    def _call(self, node: cst.Call) -> Shown:
        function = node.func
        dotted = self.kinds.outside(function)
        if dotted is not None and dotted.startswith("torch."):
            return self._torch(node, dotted)
        if isinstance(function, cst.Attribute):
            targets = self.sharing.needs.targets(node, self.scope)
            if not targets and dotted is None:
                return self._method(node, function)
        else:
            targets = self.sharing.needs.targets(node, self.scope)
        given = self._given(node)
        if targets:
            found: Shown = frozenset()
            for unit in targets:
                if unit.method != "__init__" or is_super(getattr(function, "value", None)):
                    found |= self._effect(self.sharing.effects.get(unit), unit, node, given)
            return found
        name = function.value if isinstance(function, cst.Name) else ""
        if name in GIVES and not self.scope.is_local(name):
            return frozenset().union(*given)
        return self._layer(node, given)

    def _effect(
        self, effect: Effect | None, unit: Unit, node: cst.Call, given: list[Shown]
    ) -> Shown:
        if effect is None:
            return frozenset()
        params = [p.name.value for p in unit.node.params.params if p.name.value != "self"]
        found: Shown = frozenset()
        for index, (arg, shown) in enumerate(zip(node.args, given, strict=True)):
            name = arg.keyword.value if arg.keyword is not None else ""
            name = name or (params[index] if index < len(params) else "")
            if name in effect.changed and shown:
                self._change(shown, arg.value)
            if name in effect.shown:
                found |= shown
        return found

    def _torch(self, node: cst.Call, dotted: str) -> Shown:
        last = dotted.rpartition(".")[2]
        given = self._given(node)
        if not given:
            return frozenset()
        if torch_changes_first(dotted, node):
            self._change(given[0], node.args[0].value)
            return given[0]
        if dotted.startswith("torch.nn.") and last[:1].isupper():
            return frozenset()
        if last in VIEWS:
            several = given if last == "broadcast_tensors" else given[:1]
            return frozenset((s, False) for shown in several for s, _ in shown)
        return frozenset()

    def _method(self, node: cst.Call, function: cst.Attribute) -> Shown:
        assert self.state is not None
        name, receiver = function.attr.value, function.value
        kind = self.kinds(receiver)
        if kind not in ARRAYS and name in CONTAINER:
            key = dotted_name(receiver)
            put = frozenset().union(*(self._value(arg.value) for arg in node.args))
            if key is not None and put:
                self.state.shown[key] = self.state.shown.get(key, frozenset()) | put
            return frozenset()
        if name in SHAPES:
            for arg in node.args:
                self._value(arg.value)
            return frozenset()
        if changes_in_place(self.kinds, node):
            shown = self._value(receiver)
            for arg in node.args:
                self._value(arg.value)
            self._change(shown, receiver)
            return shown
        if kind == "module" or (kind is None and dotted_name(function) is not None):
            given = [self._value(arg.value) for arg in node.args]
            if self.kinds(function) == "module" or is_self(receiver):
                return self._layer(node, given)
        shown = self._value(receiver)
        for arg in node.args:
            self._value(arg.value)
        if name in VIEWS or (kind not in ARRAYS and name in ("pop", "get", "values", "items")):
            return frozenset((s, False) for s, _ in shown)
        return frozenset()

    def _layer(self, node: cst.Call, given: list[Shown]) -> Shown:
        """A call of a layer, which may be one that changes what it is given."""
        held = self._shown(node.func)
        paths = {s for s, _ in held} | {dotted_name(node.func) or ""}
        changes, shows = layer_effect(self.sharing, self.scope, self.unit, node.func, paths)
        if given and changes and given[0]:
            self._change(given[0], node.args[0].value)
        return given[0] if given and (shows or changes) else frozenset()


def _rebound_by(node: Any, kinds: Kinds) -> str | None:
    """The name that the output of a statement gives a new value, where the value is a call."""
    if not isinstance(node, cst.Call):
        return None
    if changes_in_place(kinds, node):
        return _base(node)
    first = node.args[0].value if node.args else None
    changed = torch_changes_first(kinds.outside(node.func) or "", node)
    return first.value if changed and isinstance(first, cst.Name) else None


def _base(node: Any) -> str | None:
    """The name `x` of `x`, `x.data`, `x[0]` and `x[0][1]`."""
    while True:
        if isinstance(node, cst.Subscript) or is_data(node):
            node = node.value
        elif isinstance(node, cst.Call) and isinstance(node.func, cst.Attribute):
            if not node.func.attr.value.endswith("_"):
                return None
            node = node.func.value
        else:
            own = isinstance(node, cst.Attribute)  # self.layers[0].bias
            return dotted_name(node) or (code(node) if own else None)


def _expressions(node: Any) -> list[Any]:
    """The expressions in an expression, or in the parts that it is made of."""
    found: list[Any] = []
    for child in node.children:
        if isinstance(child, cst.BaseExpression):
            found.append(child)
        elif not isinstance(child, cst.BaseParenthesizableWhitespace):
            found += _expressions(child)
    return found
