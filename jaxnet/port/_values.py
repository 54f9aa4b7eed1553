"""What the expressions of a function show, and what their changes in place reach.

torch changes an array for everyone who shows it: for a second name, a view, a list that holds it,
the caller of a function. What is written for JAX gives one name a new value. A name that should
have seen a change is stale from then on, and a change is lost if a stale name is read.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._gradients import has_gradient, holders
from jaxnet.port._kinds import ARRAYS, NO_ARRAYS, Kinds
from jaxnet.port._nodes import code, dotted_name, is_data, is_self, is_super, read_names
from jaxnet.port._scopes import Scope, Unit
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

if TYPE_CHECKING:
    from jaxnet.port._sharing import Sharing


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
class Change:
    statement: int
    words: str


@dataclasses.dataclass
class State:
    """What the names show at one place of a function.

    Attributes:
        shown: The arrays of each name.
        stale: The changes that a name misses.
        graded: The names of arrays that may have a gradient.
    """

    shown: dict[str, Shown]
    stale: dict[str, frozenset[Change]]
    graded: set[str]

    def copy(self) -> "State":
        return State(dict(self.shown), dict(self.stale), set(self.graded))

    def join(self, other: "State") -> None:
        """Adds what is so on another way to the same place."""
        for key, value in other.shown.items():
            self.shown[key] = self.shown.get(key, frozenset()) | value
        for key, changes in other.stale.items():
            self.stale[key] = self.stale.get(key, frozenset()) | changes
        self.graded |= other.graded


class Values:
    """The expressions of one function, read in the order in which they are run.

    Args:
        sharing: What the functions of the program do.
        unit: The function.
        scope: Its names.
        kinds: What its expressions hold.

    Attributes:
        state: What the names show where the function has come to; None where it cannot come.
        lost: The statements whose changes are lost, with what is said of them.
        changed: The parameters that are changed in place.
        returned: The parameters that the result may show.
        quiet: How many blocks of torch.no_grad() are open.
        unseen: The statements in such blocks that change what has a gradient from outside.
    """

    def __init__(self, sharing: "Sharing", unit: Unit, scope: Scope, kinds: Kinds) -> None:
        self.sharing, self.unit, self.scope, self.kinds = sharing, unit, scope, kinds
        self.state: State | None = None
        self.lost: dict[tuple[int, str], None] = {}
        self.changed: set[str] = set()
        self.returned: set[str] = set()
        self.quiet = 0
        self.unseen: set[int] = set()
        self.fresh = 0
        self.statement = 0
        self.rebound: str | None = None  # what the output gives a new value in this statement
        self.deferred: set[str] = set()  # names that a function in the function reads

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
        elif isinstance(target, cst.Subscript):
            self._place(target, value, shown)
        else:
            key = dotted_name(target)
            if key is not None:
                graded = has_gradient(self, value, shown)
                if not shown and self.kinds(value) not in NO_ARRAYS:
                    self.fresh += 1
                    shown = frozenset({(f"new:{self.fresh}", True)})
                self.state.shown[key] = shown
                self.state.stale.pop(key, None)
                self.state.graded.discard(key)
                self.state.graded |= {key} if graded else set()

    def _add(self, key: str | None, value: Any, shown: Shown) -> None:
        """Puts a value into what a name holds, or adds it to a number."""
        if key is not None and self.state is not None:
            if has_gradient(self, value, shown):
                self.state.graded.add(key)
            self.state.shown[key] = self.state.shown.get(key, frozenset()) | shown

    def _place(self, target: cst.Subscript, value: Any, shown: Shown) -> None:
        """`x[i] = value`: a change of an array, or a new item of a list."""
        if self.kinds(target.value) in ARRAYS:
            self.rebound = base_of(target)
            self._change(self._shown(target.value), target, [value])
            return
        self._value_of_index(target)
        self._add(dotted_name(target.value), value, shown)

    # changes and readings

    def _change(self, shown: Shown, node: Any, values: list[Any] | None = None) -> None:
        """A change in place.

        Args:
            shown: The arrays.
            node: What the source says of them.
            values: The expressions that the new numbers come from; None if nobody knows.
        """
        assert self.state is not None
        base = base_of(node)
        if self.quiet:
            if base not in self.state.shown or base in self.state.graded:
                self.unseen.add(self.statement)
        elif values is None or any(has_gradient(self, v, frozenset()) for v in values):
            self.state.graded |= holders(self.state, shown)
        rebound = self.rebound if self.rebound is not None and self.rebound == base else None
        held = rebound is not None and self._writes(rebound, shown)
        if not held:
            self.changed |= {s[4:] for s, _ in shown if s[:4] == "arg:"}
        change = Change(self.statement, code(node))
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

    def _lose(self, change: Change, name: str, why: str) -> None:
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

    def _join(self, other: State | None) -> None:
        if self.state is None:
            self.state = other
        elif other is not None:
            self.state.join(other)

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
                    found |= self._effect(self.sharing.effect(unit), unit, node, given)
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
            self._change(given[0], node.args[0].value, [arg.value for arg in node.args[1:]])
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
            for arg in node.args:
                self._add(key, arg.value, self._value(arg.value))
            return frozenset()
        if name in SHAPES:
            for arg in node.args:
                self._value(arg.value)
            return frozenset()
        if changes_in_place(self.kinds, node):
            shown = self._value(receiver)
            for arg in node.args:
                self._value(arg.value)
            self._change(shown, receiver, [arg.value for arg in node.args])
            return shown
        named = kind == "module" or (kind is None and dotted_name(function) is not None)
        if named and (self.kinds(function) == "module" or is_self(receiver)):
            return self._layer(node, self._given(node))
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


def rebound_by(node: Any, kinds: Kinds) -> str | None:
    """The name that the output of a statement gives a new value, where the value is a call."""
    if not isinstance(node, cst.Call):
        return None
    if changes_in_place(kinds, node):
        return base_of(node)
    first = node.args[0].value if node.args else None
    changed = torch_changes_first(kinds.outside(node.func) or "", node)
    return first.value if changed and isinstance(first, cst.Name) else None


def base_of(node: Any) -> str | None:
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
