"""Which names show the same array, and which of them a change in place reaches.

torch changes an array for everyone who shows it: for a second name, a view, a list that holds it,
the caller of a function. What is written for JAX gives one name a new value. So the statements of
a function are followed in their order, and a change is marked if a name that it should have reached
is read afterwards.
"""

from typing import Any

import libcst as cst

from jaxnet.port._calls import no_gradient
from jaxnet.port._classes import is_module
from jaxnet.port._kinds import ARRAYS, Kinds
from jaxnet.port._nodes import dotted_name, read_names
from jaxnet.port._rngs import Needs
from jaxnet.port._scopes import Scope, Unit
from jaxnet.port._shares import Shown
from jaxnet.port._values import Effect, State, Values, base_of, rebound_by


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
        self.kinds = self._kinds({})
        for _ in range(2 if needs.hosts else 0):  # what the functions of a program are given
            self.kinds = self._kinds(self._given())
        self.effects = dict.fromkeys(needs.units, Effect())
        self._asked: dict[Unit, Effect | None] = {}
        self._known: dict[Unit, tuple[Followed, dict[Unit, Effect | None]]] = {}
        for _ in range(4):
            before = dict(self.effects)
            for unit in needs.units:
                self.effects[unit] = self.follow(unit).effect()
            if before == self.effects:
                break

    def _kinds(self, given: dict[Unit, dict[str, str]]) -> dict[Unit, Kinds]:
        needs = self.needs
        return {
            unit: Kinds(
                scope,
                unit.node,
                unit in needs.computing,
                unit in needs.run or is_module(unit.definition),
                given.get(unit),
            )
            for unit, scope in needs.units.items()
        }

    def _given(self) -> dict[Unit, dict[str, str]]:
        """The parameters that are arrays or batches in all calls of functions of a program."""
        found: dict[Unit, dict[str, set[str | None]]] = {}
        for unit, kinds in self.kinds.items():
            for call in self.needs.calls[unit]:
                for target in self.needs.targets(call, self.needs.units[unit]):
                    if target.method or target not in self.needs.units:
                        continue
                    names = [p.name.value for p in target.node.params.params]
                    for index, arg in enumerate(call.args):
                        name = names[index] if index < len(names) else ""
                        name = name if arg.keyword is None else arg.keyword.value
                        known = found.setdefault(target, {}).setdefault(name, set())
                        known.add(kinds(arg.value))
        return {
            unit: {
                n: kind for n, k in names.items() for kind in ("tensor", "batches") if k == {kind}
            }
            for unit, names in found.items()
        }

    def follow(self, unit: Unit) -> "Followed":
        """Follows the statements of a unit, again only where what it calls has other effects."""
        known, asked = self._known.get(unit, (None, {}))
        if known is None or any(self.effects.get(one) != effect for one, effect in asked.items()):
            self._asked = {}
            known = Followed(self, unit, self.needs.units[unit], self.kinds[unit])
            self._known[unit] = known, self._asked
        return known

    def effect(self, unit: Unit) -> Effect | None:
        """What a unit does, as far as is known; None for what is no unit of the program."""
        self._asked[unit] = self.effects.get(unit)
        return self._asked[unit]

    def lost(self, unit: Unit) -> tuple[dict[int, list[str]], set[int]]:
        """What is lost by each statement of a unit, and which change a gradient's array without it.

        Both are by the ids of the statements.
        """
        found: dict[int, list[str]] = {}
        followed = self.follow(unit)
        for statement, words in followed.lost:
            found.setdefault(statement, []).append(words)
        return found, followed.unseen


class Followed(Values):
    """One function, followed from its first statement to its last."""

    def __init__(
        self,
        sharing: Sharing,
        unit: Unit,
        scope: Scope,
        kinds: Kinds,
        node: Any = None,
        quiet: int = 0,
    ) -> None:
        super().__init__(sharing, unit, scope, kinds)
        self.quiet = quiet
        self.leaving: list[list[State]] = []
        node = unit.node if node is None else node
        params = node.params
        every = [*params.params, *params.kwonly_params]
        every += [p for p in (params.star_arg, params.star_kwarg) if isinstance(p, cst.Param)]
        names = [p.name.value for p in every]
        shown = {n: frozenset({(f"arg:{n}", True)}) for n in names if n != "self"}
        self.state = State(shown, {}, set(shown))
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
            quiet = any(self._is_quiet(item.item) for item in node.items)
            self.quiet += quiet
            self._block(node.body)
            self.quiet -= quiet
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
            inner = Followed(self.sharing, self.unit, scope, kinds, node, self.quiet)
            self.lost |= inner.lost
            self.unseen |= inner.unseen

    def _is_quiet(self, opens: Any) -> bool:
        """Whether what a block opens is torch.no_grad()."""
        called = isinstance(opens, cst.Call) and self.kinds.outside(opens.func)
        return bool(called and no_gradient(called, opens))

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
            self.rebound = rebound_by(part.value, self.kinds)
            self._value(part.value)
        elif isinstance(part, cst.Assign):
            value = part.value
            if isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute):
                self.rebound = rebound_by(value, self.kinds)
            shown = self._value(value)
            for target in part.targets:
                self._bind(target.target, value, shown)
        elif isinstance(part, cst.AnnAssign):
            if part.value is not None:
                self._bind(part.target, part.value, self._value(part.value))
        elif isinstance(part, cst.AugAssign):
            shown = self._value(part.value)
            self._augmented(part, shown)
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

    def _augmented(self, part: cst.AugAssign, shown: Shown) -> None:
        target, value = part.target, part.value
        extends = isinstance(part.operator, cst.AddAssign | cst.BitOrAssign)  # outs += [x]
        if isinstance(target, cst.Subscript):
            inner = self._value(target.value)
            self._value_of_index(target)
            array = self.kinds(target) in ARRAYS or self.kinds(target.value) in ARRAYS
            if array:
                self.rebound = base_of(target)
                self._change(inner, target, [value])
        elif self.kinds(target) in ARRAYS or self._is_result(target):
            self.rebound = dotted_name(target)
            self._change(self._value(target), target, [value])
        else:
            self._add(dotted_name(target), value, shown if extends else frozenset())

    def _is_result(self, target: Any) -> bool:
        """Whether a name may be a view that a function of the program gave."""
        unknown = self.kinds(target) is None and self.kinds.computing
        shown = self._shown(target) if unknown else ()
        return any(storage[:4] in ("arg:", "new:") for storage, _ in shown) and (
            not self._is_own(target)
        )

    def _is_own(self, target: Any) -> bool:
        """Whether a name was given a new value by its function."""
        assert self.state is not None
        shown = self.state.shown.get(dotted_name(target) or "", frozenset())
        holders = [k for k, other in self.state.shown.items() if shown & other]
        return len(holders) == 1
