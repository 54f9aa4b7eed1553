"""Rewrites statements: blocks without gradients, functions as attributes, and what is marked."""

from typing import Any

import libcst as cst

from jaxnet.port._calls import CASTS, FROZEN, NO_GRADIENT, no_gradient
from jaxnet.port._changes import UNSEEN, Changes, bare, stripped, with_part, without_data
from jaxnet.port._classes import is_module, layer_takes_rngs, lineage, methods, torch_layer
from jaxnet.port._kinds import ARRAYS, NO_ARRAYS
from jaxnet.port._nodes import Variables, code, dotted_name, is_self, read_names
from jaxnet.port._shares import assigned_to, changes_in_place
from jaxnet.port._tensors import OPERATIONS


class Rewriter(Changes):
    """Rewrites one definition; the arguments are those of `Expressions`."""

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
        self.open.append([])
        self._begin(node)
        self.line = id(node)
        self._losses(node)
        for part in node.body:
            targets: list[Any] = []
            if isinstance(part, cst.Assign):
                targets = [t.target for t in part.targets]
            elif isinstance(part, cst.AugAssign | cst.AnnAssign):
                targets = [part.target]
            for target in targets:
                while isinstance(target, cst.Attribute | cst.Subscript):
                    self.places.add(id(target))
                    target = target.value

    def _losses(self, node: Any) -> None:
        """Marks the changes in place of a statement which another name should see."""
        for words in self.lost.get(id(node), ()):
            self.problem(node, words)

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> Any:
        new = self._statement(original_node, updated_node)
        if not isinstance(new, cst.RemovalSentinel):
            new = self._without_gradient(original_node, new)
        self._end(original_node)
        wrong = self.open.pop()
        if not wrong or not self.functions:
            return new
        if isinstance(new, cst.RemovalSentinel):
            return raising(wrong, [with_part(updated_node, cst.Pass())])
        statements = list(new.nodes) if isinstance(new, cst.FlattenSentinel) else [new]
        return raising(wrong, statements)

    def _statement(
        self, original: cst.SimpleStatementLine, updated: cst.SimpleStatementLine
    ) -> Any:
        if len(original.body) != 1:
            return updated
        old: Any = original.body[0]
        new: Any = updated.body[0]
        if isinstance(old, cst.Import | cst.ImportFrom):
            return self._import(old, updated)
        if isinstance(old, cst.Expr) and isinstance(old.value, cst.Call):
            return self._expression(old.value, new, updated)
        if isinstance(old, cst.Assign) and len(old.targets) == 1:
            target = old.targets[0].target
            if isinstance(target, cst.Subscript) and self.is_array(stripped(target).value):
                return self.set_part(old, new, updated)
            if isinstance(target, cst.Attribute) and target.attr.value == "data":
                return self._data(old, target, new, updated)
            if isinstance(target, cst.Attribute) and target.attr.value == "requires_grad":
                self.note(old, f"{code(old)}: {FROZEN}")
                return cst.RemoveFromParent()
            if self._is_of_self(target) and self._holds_functions(old.value):
                if isinstance(old.value, cst.Lambda) and self._is_single(original, target):
                    return self._method(old, new, updated)
                self._held(old, old.value)
                return updated
            return self.changed_and_named(old, new, updated)
        if isinstance(old, cst.AugAssign):
            return self.augmented(old, new, updated)
        return updated

    def _data(self, old: cst.Assign, target: cst.Attribute, new: Any, updated: Any) -> Any:
        """`x.data = value`."""
        if self.computes() and self.here.kinds(target.value) == "tensor":  # type: ignore[union-attr]
            self.problem(old, f"{code(old)}: {UNSEEN}")
            return updated
        self.no_parameter(old, target.value)
        value = self.detached(new.value) if self.computes() else new.value
        place: Any = cst.parse_expression(f"{code(without_data(target))}[...]")
        new = new.with_changes(targets=[cst.AssignTarget(place)], value=value)
        return with_part(updated, new)

    def _import(self, node: Any, updated: Any) -> Any:
        if isinstance(node, cst.Import):
            first = cst.helpers.get_full_name_for_node_or_raise(node.names[0].name)
        else:
            first = self.source.absolute(node)
        ours = first.partition(".")[0] in ("torch", *self.source.project.tops)
        return cst.RemoveFromParent() if ours else updated

    def _expression(self, old: cst.Call, new: Any, updated: Any) -> Any:
        """A statement that is a call: a change in place, an assertion, or of no use in jaxnet."""
        here, name = self.here, old.func
        dotted = self._dotted(name) or ""
        if dotted == "torch._assert" and len(new.value.args) == 2:
            test, message = (a.value for a in new.value.args)
            return with_part(updated, cst.Assert(test, message))
        if dotted in NO_GRADIENT:
            if self.computes():
                self.problem(old, f"{code(old)}: {_NO_SWITCH}")
            return cst.RemoveFromParent()
        if here is not None and isinstance(name, cst.Attribute):
            if name.attr.value == "requires_grad_":
                self.note(old, f"{code(old)}: {FROZEN}")
                return cst.RemoveFromParent()
            if changes_in_place(here.kinds, old):
                return self.changed_by_method(old, new, updated)
        at_once = dotted_name(name) in _AT_ONCE or (
            isinstance(name, cst.Attribute) and name.attr.value in _AT_ONCE
        )
        if here is not None and here.making and not at_once:
            for arg in old.args:
                for function in _lambdas(arg.value):
                    if "self" in read_names(function.body):
                        self._held(old, function)
        if self.quiet and self.computes() and not dotted.startswith("torch."):
            self._called_without_gradient(old)
        return self.changed_by_function(old, new, updated)

    # functions that are attributes

    def _is_of_self(self, target: Any) -> bool:
        name = dotted_name(target) or ""
        return self.here is not None and self.here.making and name.startswith("self.")

    def _holds_functions(self, value: Any) -> bool:
        """Whether a value is a lambda or a function of the function, or holds some."""
        local = isinstance(value, cst.Name) and isinstance(
            self.scope.assigned.get(value.value), cst.FunctionDef
        )
        return local or bool(_lambdas(value))

    def _is_single(self, statement: Any, target: Any) -> bool:
        """Whether an attribute is given its value once, and whatever the arguments are."""
        unit, owner = self.functions[0].unit, self.scope.owner
        if unit is None or owner is None or len(self.functions) > 1:
            return False
        name = target.attr.value
        values = [
            value
            for one in lineage(owner)
            for function in methods(one).values()
            for value in assigned_to(function, name)
        ]
        return len(values) == 1 and any(part is statement for part in unit.node.body.body)

    def _held(self, node: Any, value: Any) -> None:
        """Marks functions that hold layers, which would not be those of the model after a step."""
        functions: list[Any] = _lambdas(value)
        if isinstance(value, cst.Name):
            functions = [self.scope.assigned[value.value]]
        for function in functions:
            params = {p.name.value for p in function.params.params}
            for name in sorted(read_names(function.body) - params):
                kind = None if self.here is None else self.here.kinds.names.get(name)
                if self.scope.is_local(name) and kind not in ("number", "text", "dtype"):
                    self.problem(
                        node,
                        f"{code(node)}: a function of {name}, whose layers and arrays would not "
                        "be those of the model after a step; write a method",
                    )

    def _method(self, old: cst.Assign, new: Any, updated: Any) -> Any:
        """`self.act = lambda x: ...` as a method: a lambda would hold layers of its own."""
        unit = self.functions[0].unit
        target, known = old.targets[0].target, self.scope.assigned
        if unit is None or not isinstance(target, cst.Attribute) or code(target.value) != "self":
            return updated
        given = {p.name.value for p in new.value.params.params}
        replaced: dict[str, Any] = {}
        for name in sorted(read_names(old.value.body) - given):  # type: ignore[attr-defined]
            if not self.scope.is_local(name) or name == "self":
                continue
            value = known.get(name)
            if not (isinstance(value, cst.Attribute) and code(value).startswith("self.")):
                self.problem(old, f"{code(target)}: a function of {name}; write a method")
                return updated
            replaced[name] = value
        body = new.value.body.visit(_Renamed(replaced))
        words = ", ".join(["self", *(code(p) for p in new.value.params.params)])
        function: Any = cst.parse_statement(f"def {target.attr.value}({words}):\n    return 0\n")
        line = function.body.body[0]
        line = line.with_changes(body=[line.body[0].with_changes(value=body)])
        function = function.with_changes(
            body=function.body.with_changes(body=[line]), leading_lines=[cst.EmptyLine(False)]
        )
        self.methods.setdefault(unit.method, []).append(function)
        return cst.RemoveFromParent()

    # without gradients

    # what is marked as a whole

    def _begin(self, node: Any) -> None:
        """Marks a statement of which nothing is ported, and what is in it no more."""
        program = self.source.program
        words = None if program is None else program.whole_at(self._line(node), node)
        if words is not None and not self.whole:
            self.problem(node, words)
        self.whole += words is not None

    def _end(self, node: Any) -> None:
        program = self.source.program
        if program is not None:
            self.whole -= program.whole_at(self._line(node), node) is not None

    def visit_With(self, node: cst.With) -> None:
        for item in node.items:
            function = item.item.func if isinstance(item.item, cst.Call) else None
            self.allowed.add(id(function))
        self.open.append([])
        self._begin(node)
        self.quiet += self._is_quiet(node)

    def _is_quiet(self, node: cst.With) -> bool:
        return any(no_gradient(self._called(item.item), item.item) for item in node.items)

    def _called(self, node: Any) -> str:
        return (self._dotted(node.func) if isinstance(node, cst.Call) else None) or ""

    def leave_With(self, original_node: cst.With, updated_node: cst.With) -> Any:
        self._end(original_node)
        wrong = self.open.pop()
        self.quiet -= self._is_quiet(original_node)
        kept = []
        for old, new in zip(original_node.items, updated_node.items, strict=True):
            name = self._called(old.item)
            if name in CASTS:
                self.note(original_node, "autocast is left out; make_train_step has compute_dtype")
            elif name not in NO_GRADIENT:
                kept.append(new)
                continue
            elif no_gradient(name, old.item) is None and self.computes():
                self.problem(original_node, f"{code(old.item)}: {_NO_SWITCH}")
                wrong.append(f"{code(old.item)}: {_NO_SWITCH}")
        if kept:
            kept[-1] = kept[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
            statements: list[Any] = [updated_node.with_changes(items=kept)]
        else:
            statements = list(updated_node.body.body)
            if isinstance(updated_node.body, cst.SimpleStatementSuite):  # on one line
                statements = [cst.SimpleStatementLine(updated_node.body.body)]
            leading = [*updated_node.leading_lines, *statements[0].leading_lines]
            statements[0] = statements[0].with_changes(leading_lines=leading)
        if wrong and self.functions:
            return raising(wrong, statements)
        return cst.FlattenSentinel(statements)

    def _without_gradient(self, old: cst.SimpleStatementLine, new: Any) -> Any:
        """Statements under torch.no_grad(), whose values have no gradient."""
        decorated = self.here is not None and self.here.quiet
        if not self.computes() or not (decorated or self.quiet):
            return new
        lines = list(new.nodes) if isinstance(new, cst.FlattenSentinel) else [new]
        done = []
        for line in lines:
            part: Any = line.body[0] if isinstance(line, cst.SimpleStatementLine) else None
            before: Any = old.body[0]
            if isinstance(part, cst.Return):
                value = self._stopped(before.value, part.value)
                line = with_part(line, part.with_changes(value=value))
            elif isinstance(part, cst.Assign | cst.AugAssign):
                target = part.target if isinstance(part, cst.AugAssign) else part.targets[0].target
                # In a decorated function the results and what it writes are all that is seen.
                if isinstance(target, cst.Attribute | cst.Subscript) or not decorated:
                    line = self._stopped_assignment(before, part, line)
            done.append(line)
        return cst.FlattenSentinel(done)

    def _stopped_assignment(self, before: Any, part: Any, line: Any) -> Any:
        if isinstance(part, cst.AugAssign):
            if not self.is_array(before.target) and not self.is_array(before.value):
                return line
            operator = OPERATIONS.get(type(part.operator))
            if operator is None:
                self.problem(before, f"{code(before)}: {_NO_SWITCH}")
                return line
            value = part.value
            if isinstance(value, cst.BinaryOperation | cst.IfExp | cst.Comparison):
                value = value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
            whole = cst.BinaryOperation(part.target, operator(), value)
            return self.assigned(part.target, self.detached(whole), line)
        old = before.value if isinstance(before, cst.Assign) else None
        value = self.detached(part.value) if old is None else self._stopped(old, part.value)
        return with_part(line, part.with_changes(value=value))

    def _stopped(self, old: Any, new: Any) -> Any:
        """A value without its gradient, where it may have one."""
        assert self.here is not None
        kind = None if old is None else self.here.kinds(old)
        literal = isinstance(old, cst.List | cst.Dict | cst.Tuple) and not old.elements
        if old is None or literal or kind in _NO_NUMBERS or isinstance(old, cst.Comparison):
            return new
        if kind in ARRAYS:
            return self.detached(new)
        if code(new).startswith("ops.detach("):
            return new
        self.need("import jax")
        value: Any = new
        if isinstance(value, cst.Tuple) and not value.lpar:
            value = value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        return cst.Call(cst.parse_expression("jax.lax.stop_gradient"), [cst.Arg(bare(value))])

    def _called_without_gradient(self, old: cst.Call) -> None:
        """Marks the call of a function that changes something which has a gradient then."""
        targets = self.needs.targets(old, self.scope)
        unknown = not targets and isinstance(old.func, cst.Attribute)
        unknown = unknown and dotted_name(getattr(old.func, "value", None)) == "self"
        for unit in targets:
            quiet = any(self._is_quiet_decorator(d.decorator) for d in unit.node.decorators)
            unknown |= not quiet and _writes(unit.node)
        if unknown:
            self.problem(
                old,
                f"{code(old)}: torch takes no gradient of what this writes; decorate the function "
                "with torch.no_grad(), which is ported",
            )

    def visit_If(self, node: cst.If) -> None:
        self.open.append([])
        self._begin(node)
        self._losses(node)
        if not self.functions:
            self._under_condition(node)

    def visit_Try(self, node: cst.Try) -> None:
        if not self.functions:
            self._under_condition(node)

    def _under_condition(self, node: Any) -> None:
        """Marks what makes layers and is defined one way or the other, at the top of a file."""
        rewriter = self

        class Makers(cst.CSTVisitor):
            def visit_ClassDef(self, inner: cst.ClassDef) -> bool:
                bases = [base.value for base in inner.bases]
                source = rewriter.source
                if any(torch_layer(source.qualified(b)) or is_module(source.definition(b))
                       for b in bases):  # fmt: skip
                    rewriter.problem(inner, f"class {inner.name.value}: {_CONDITION}")
                return False

            def visit_Call(self, call: cst.Call) -> None:
                layer = torch_layer(rewriter.source.qualified(call.func))
                if layer is not None and layer_takes_rngs(layer):
                    rewriter.problem(call, f"{code(call)}: {_CONDITION}")

        node.visit(Makers())

    def leave_If(self, original_node: cst.If, updated_node: cst.If) -> Any:
        return self._compound(original_node, original_node.test, updated_node)

    def visit_While(self, node: cst.While) -> None:
        self.open.append([])
        self._begin(node)
        self._losses(node)

    def leave_While(self, original_node: cst.While, updated_node: cst.While) -> Any:
        return self._compound(original_node, original_node.test, updated_node)

    def visit_For(self, node: cst.For) -> None:
        self.open.append([])
        self._begin(node)
        self._losses(node)

    def leave_For(self, original_node: cst.For, updated_node: cst.For) -> Any:
        return self._compound(original_node, None, updated_node)

    def _compound(self, node: Any, test: Any, updated: Any) -> Any:
        self._end(node)
        wrong = self.open.pop()
        branch = isinstance(test, cst.Comparison | cst.UnaryOperation) and self.here is not None
        branch = branch and not self.scope.host
        if branch and self.here.kinds(test) == "tensor":  # type: ignore[union-attr]
            self.note(test, f"{code(test)}: a compiled program cannot branch on values")
        if not wrong or not self.functions:
            return updated
        return raising(wrong, [updated])


def raising(wrong: list[str], statements: list[Any]) -> Any:
    """Statements after one that raises an error, which says why."""
    text = "; ".join(dict.fromkeys(wrong))
    error = cst.parse_statement(f"raise NotImplementedError({text!r})")
    assert isinstance(error, cst.SimpleStatementLine)
    first = statements[0]
    error = error.with_changes(leading_lines=first.leading_lines)
    return cst.FlattenSentinel([error, first.with_changes(leading_lines=[]), *statements[1:]])


class _Renamed(Variables):
    """Replaces variables by expressions."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__()
        self.names = names

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        if id(original_node) in self.words:
            return updated_node
        return self.names.get(original_node.value, updated_node)


_AT_ONCE = {"apply", "named_apply", "map", "filter", "sort", "sorted", "_apply"}
"""Functions that call what they are given, and do not keep it."""

_CONDITION = "layers that are made under a condition at the top of a file get no rngs; ask within"
_NO_SWITCH = "gradients are values; write jax.lax.stop_gradient where torch takes none"
_NO_NUMBERS = NO_ARRAYS | {"module", "modules"}


def _lambdas(value: Any) -> list[cst.Lambda]:
    """The lambdas in an expression."""
    found: list[cst.Lambda] = []

    class Lambdas(cst.CSTVisitor):
        def visit_Lambda(self, node: cst.Lambda) -> bool:
            found.append(node)
            return False

    value.visit(Lambdas())
    return found


def _writes(function: cst.FunctionDef) -> bool:
    """Whether a function may change something that outlives it."""
    found = False

    class Changes(cst.CSTVisitor):
        def visit_AssignTarget(self, node: cst.AssignTarget) -> None:
            nonlocal found
            found |= isinstance(node.target, cst.Attribute | cst.Subscript)

        def visit_AugAssign(self, node: cst.AugAssign) -> None:
            nonlocal found
            found |= isinstance(node.target, cst.Attribute | cst.Subscript)

        def visit_Attribute(self, node: cst.Attribute) -> None:
            nonlocal found
            found |= node.attr.value.endswith("_") or _is_self_call(node)

    function.body.visit(Changes())
    return found


def _is_self_call(node: cst.Attribute) -> bool:
    return is_self(node.value) and node.attr.value.startswith("_")
