"""Rewrites statements: changes in place, and what is not supported."""

from typing import Any

import libcst as cst

from jaxnet.port._calls import CASTS, NO_GRADIENT, with_rngs
from jaxnet.port._rewrite import Expressions
from jaxnet.port._tensors import AUGMENTED, at, at_of_method, in_place_value

_INITS = {
    "normal_": "normal_",
    "uniform_": "uniform_",
    "zero_": "zeros_",
    "fill_": "constant_",
    "trunc_normal_": "trunc_normal_",
}


class Rewriter(Expressions):
    """Rewrites one definition; the arguments are those of `Expressions`."""

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
        self.open.append([])

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> Any:
        new = self._statement(original_node, updated_node)
        wrong = self.open.pop()
        if not wrong or not self.functions or isinstance(new, cst.RemovalSentinel):
            return new
        statements = list(new.nodes) if isinstance(new, cst.FlattenSentinel) else [new]
        return _raising(wrong, statements)

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
            if isinstance(target, cst.Subscript) and self._is_array(target.value):
                value = at(new.targets[0].target, "set", new.value)
                return self._assigned(target, new.targets[0].target.value, value, updated)
            if isinstance(target, cst.Attribute) and target.attr.value == "data":
                place: Any = cst.parse_expression(f"{self._code(new.targets[0].target)}[...]")
                return _with(updated, new.with_changes(targets=[cst.AssignTarget(place)]))
            if isinstance(old.value, cst.Lambda) and isinstance(target, cst.Attribute):
                return self._method(old, new, updated)
            return self._assign(old, new, updated)
        if isinstance(old, cst.AugAssign):
            return self._augmented(old, new, updated)
        return updated

    def _code(self, node: Any) -> str:
        return cst.Module([]).code_for_node(node)

    def _is_array(self, node: Any) -> bool:
        """Whether an expression is a name of an array of the function's own."""
        return (
            self.here is not None
            and isinstance(node, cst.Name)
            and self.here.kinds(node) in ("tensor", "param", "buffer")
        )

    def _assigned(self, original: Any, target: Any, value: Any, line: Any) -> Any:
        if isinstance(value, cst.BinaryOperation) and "\n" in self._code(value) and not value.lpar:
            value = value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        return _with(line, cst.Assign([cst.AssignTarget(target)], value))

    def _import(self, node: Any, updated: Any) -> Any:
        if isinstance(node, cst.Import):
            first = cst.helpers.get_full_name_for_node_or_raise(node.names[0].name)
        else:
            first = self.source.absolute(node)
        ours = first.partition(".")[0] in ("torch", *self.source.project.tops)
        return cst.RemoveFromParent() if ours else updated

    def _expression(self, old: cst.Call, new: Any, updated: Any) -> Any:
        """A statement that is a call: a change in place, or an assertion."""
        here, name = self.here, old.func
        if self._dotted(name) in ("torch._assert",) and len(new.value.args) == 2:
            test, message = (a.value for a in new.value.args)
            return _with(updated, cst.Assert(test, message))
        if here is None or not isinstance(name, cst.Attribute):
            return self._functional_in_place(old, new, updated)
        method = name.attr.value
        receiver = name.value
        if not method.endswith("_") or method.endswith("__") or method == "requires_grad_":
            if method == "requires_grad_":
                self.note(old, f"{self._code(old)}: freezing is up to the optimizer: optim.frozen")
                return cst.RemoveFromParent()
            return self._functional_in_place(old, new, updated)
        if self._dotted(name):
            return self._functional_in_place(old, new, updated)
        target = _without_data(receiver)
        place = _without_data(_rewritten(self, target))
        arguments = list(self._arguments(old, new))
        held = isinstance(target, cst.Name) and target is not receiver  # p.data.normal_()
        if isinstance(target, cst.Attribute) or held:  # an attribute of a module
            init = _INITS.get(method)
            if init is not None and here.making and here.kinds(target) in ("param", "tensor", None):
                call = cst.Call(
                    cst.parse_expression(f"nn.init.{init}"), [cst.Arg(place), *arguments]
                )
                self.need("from jaxnet import nn")
                if here.rngs and method in ("normal_", "uniform_", "trunc_normal_"):
                    call = with_rngs(call, "generator")
                return _with(updated, cst.Expr(call))
            whole = cst.parse_expression(f"{self._code(place)}[...]")
            value = new.value
            if method == "copy_":
                value = arguments[0].value
            else:
                value = in_place_value(method, whole, arguments) or value
            return self._assigned(old, whole, value, updated)
        if isinstance(target, cst.Subscript):
            inner = _without_data(target.value)
            place = place.with_changes(value=_without_data(place.value))
            if isinstance(inner, cst.Name):
                value = at_of_method(method, place, arguments)
                if value is not None:
                    return self._assigned(old, inner, value, updated)
            elif isinstance(inner, cst.Attribute) and method in ("zero_", "fill_", "copy_"):
                value = arguments[0].value if arguments else cst.Integer("0")
                return self._assigned(old, place, value, updated)
            self.problem(old, f"{self._code(old)}: a change in place of a part of an array")
            return updated
        if isinstance(target, cst.Name):
            value = in_place_value(method, target, arguments) or new.value
            given = target.value in self.scope.parameters
            if here.making and given and target.value not in self.scope.assigned:
                # A parameter of a module, as in `def trunc_normal_(tensor): tensor.uniform_()`.
                whole = cst.parse_expression(f"{target.value}[...]")
                return self._assigned(old, whole, value, updated)
            self._check_alias(old, target)
            return self._assigned(old, target, value, updated)
        if isinstance(target, cst.Call) and isinstance(target.func, cst.Attribute):
            base = _without_data(target.func.value)  # x.mul_(a).add_(b)
            if target.func.attr.value.endswith("_") and isinstance(base, cst.Name):
                self._check_alias(old, base)
                return self._assigned(old, base, new.value, updated)
            if target.func.attr.value.endswith("_") and isinstance(base, cst.Attribute):
                whole = cst.parse_expression(f"{self._code(_rewritten(self, base))}[...]")
                return self._assigned(old, whole, new.value, updated)
        self.problem(old, f"{self._code(old)}: a change in place of something without a name")
        return updated

    def _arguments(self, old: cst.Call, new: Any) -> list[Any]:
        """The rewritten arguments of a method that was rewritten as a function."""
        return [
            arg.with_changes(value=_rewritten(self, arg.value))
            for arg in old.args
        ]  # fmt: skip

    def _functional_in_place(self, old: cst.Call, new: Any, updated: Any) -> Any:
        """`F.relu_(x)` and `F.relu(x, inplace=True)` as statements."""
        dotted = self._dotted(old.func) or ""
        first = old.args[0].value if old.args else None
        in_place = any(
            a.keyword is not None and a.keyword.value == "inplace" and self._code(a.value) == "True"
            for a in old.args
        )
        layer = dotted.startswith("torch.") and not dotted.startswith("torch.nn.init")
        if layer and (dotted.endswith("_") or in_place) and isinstance(first, cst.Name):
            self._check_alias(old, first)
            return self._assigned(old, first, new.value, updated)
        return updated

    def _assign(self, old: cst.Assign, new: Any, updated: Any) -> Any:
        """`y = x.add_(1)`, which changes x too."""
        value, target = old.value, old.targets[0].target
        if not (
            self.here and isinstance(value, cst.Call) and isinstance(value.func, cst.Attribute)
        ):
            return updated
        method, receiver = value.func.attr.value, value.func.value
        changes = (
            method.endswith("_") and not method.endswith("__") and not self._dotted(value.func)
        )
        if changes and isinstance(receiver, cst.Name) and self._code(target) != receiver.value:
            if not self._is_array(receiver):
                return updated
            first = self._assigned(old, receiver, new.value, updated)
            second = cst.SimpleStatementLine([new.with_changes(value=receiver)])
            return cst.FlattenSentinel([first, second])
        return updated

    def _method(self, old: cst.Assign, new: Any, updated: Any) -> Any:
        """`self.act = lambda x: ...` as a method: a lambda would hold layers of its own."""
        unit = self.functions[0].unit
        target, known = old.targets[0].target, self.scope.assigned
        if (
            unit is None
            or not isinstance(target, cst.Attribute)
            or self._code(target.value) != "self"
        ):
            return updated
        given = {p.name.value for p in new.value.params.params}
        replaced: dict[str, Any] = {}
        for name in sorted(_names(old.value.body) - given):  # type: ignore[attr-defined]
            if not self.scope.is_local(name) or name == "self":
                continue
            value = known.get(name)
            if not (isinstance(value, cst.Attribute) and self._code(value).startswith("self.")):
                self.problem(old, f"{self._code(target)}: a function of {name}; write a method")
                return updated
            replaced[name] = value
        body = new.value.body.visit(_Renamed(replaced))
        words = ", ".join(["self", *(self._code(p) for p in new.value.params.params)])
        code = f"def {target.attr.value}({words}):\n    return 0\n"
        function: Any = cst.parse_statement(code)
        line = function.body.body[0]
        line = line.with_changes(body=[line.body[0].with_changes(value=body)])
        function = function.with_changes(
            body=function.body.with_changes(body=[line]), leading_lines=[cst.EmptyLine(False)]
        )
        self.methods.setdefault(unit.method, []).append(function)
        return cst.RemoveFromParent()

    def _augmented(self, old: cst.AugAssign, new: Any, updated: Any) -> Any:
        target = old.target
        if isinstance(target, cst.Subscript) and self._is_array(target.value):
            operation = AUGMENTED.get(type(old.operator))
            value = new.value
            if isinstance(old.operator, cst.SubtractAssign):
                operation = "add"
                loose = isinstance(value, cst.BinaryOperation | cst.IfExp) and not value.lpar
                code = self._code(value)
                value = cst.parse_expression(f"-({code})" if loose else f"-{code}")
            if operation is None:
                self.problem(old, f"{self._code(old)}: a change in place of a part of an array")
                return updated
            return self._assigned(
                target, new.target.value, at(new.target, operation, value), updated
            )
        kind = self.here.kinds(target) if self.here is not None else None
        if isinstance(target, cst.Attribute) and kind in ("buffer", "param"):
            place = cst.parse_expression(f"{self._code(new.target)}[...]")
            return _with(updated, new.with_changes(target=place))
        if isinstance(target, cst.Name) and self._is_array(target):
            self._check_alias(old, target)
        return updated

    def _check_alias(self, node: Any, target: cst.Name) -> None:
        """Marks a change in place of an array that another name shows too."""
        assigned = self.scope.assigned
        line = self._line(node)
        assert self.here is not None
        value = assigned.get(target.value)
        whole = value.value if isinstance(value, cst.Subscript) else None
        if self._is_array(whole) and _read_after(self, whole.value, line):  # type: ignore[union-attr]
            self.problem(
                node, f"{target.value} is a part of another array, which torch changes too"
            )
        for name, other in assigned.items():
            same = isinstance(other, cst.Name) and other.value == target.value
            before = same and name != target.value and self._line(other) < line
            if before and _read_after(self, name, line):
                self.problem(node, f"{name} is the same array, which torch changes too")
        if target.value in self.scope.parameters and value is None:
            self.note(node, f"torch changes the argument {target.value} for the caller too")

    def leave_With(self, original_node: cst.With, updated_node: cst.With) -> Any:
        names = [
            self._dotted(item.item.func) if isinstance(item.item, cst.Call) else None
            for item in original_node.items
        ]
        if all(name in (*NO_GRADIENT, *CASTS) for name in names):
            if any(name in NO_GRADIENT for name in names) and self.here and not self.here.making:
                self.note(
                    original_node, "torch takes no gradient here; write jax.lax.stop_gradient"
                )
            if any(name in CASTS for name in names):
                self.note(original_node, "autocast is left out; make_train_step has compute_dtype")
            body: list[Any] = list(updated_node.body.body)
            leading = [*updated_node.leading_lines, *body[0].leading_lines]
            return cst.FlattenSentinel([body[0].with_changes(leading_lines=leading), *body[1:]])
        return updated_node

    def visit_If(self, node: cst.If) -> None:
        self.open.append([])

    def leave_If(self, original_node: cst.If, updated_node: cst.If) -> Any:
        return self._compound(original_node.test, updated_node)

    def visit_While(self, node: cst.While) -> None:
        self.open.append([])

    def leave_While(self, original_node: cst.While, updated_node: cst.While) -> Any:
        return self._compound(original_node.test, updated_node)

    def visit_For(self, node: cst.For) -> None:
        self.open.append([])

    def leave_For(self, original_node: cst.For, updated_node: cst.For) -> Any:
        return self._compound(None, updated_node)

    def _compound(self, test: Any, updated: Any) -> Any:
        wrong = self.open.pop()
        branch = isinstance(test, cst.Comparison | cst.UnaryOperation) and self.here is not None
        if branch and self.here.kinds(test) == "tensor":  # type: ignore[union-attr]
            self.note(test, f"{self._code(test)}: a compiled program cannot branch on values")
        if not wrong or not self.functions:
            return updated
        return _raising(wrong, [updated])


def _with(line: Any, part: Any) -> Any:
    return line.with_changes(body=[part])


def _raising(wrong: list[str], statements: list[Any]) -> Any:
    """Statements after one that raises an error, which says why."""
    text = "; ".join(dict.fromkeys(wrong))
    error = cst.parse_statement(f"raise NotImplementedError({text!r})")
    assert isinstance(error, cst.SimpleStatementLine)
    first = statements[0]
    error = error.with_changes(leading_lines=first.leading_lines)
    return cst.FlattenSentinel([error, first.with_changes(leading_lines=[]), *statements[1:]])


def _without_data(node: Any) -> Any:
    if isinstance(node, cst.Attribute) and node.attr.value == "data":
        return node.value
    return node


def _rewritten(rewriter: Rewriter, node: Any) -> Any:
    """An expression of the source, rewritten."""
    return node.visit(rewriter)


def _read_after(rewriter: Rewriter, name: str, line: int) -> bool:
    """Whether a function reads a name after a line."""
    unit = rewriter.functions[0].unit
    found = False

    class Reads(cst.CSTVisitor):
        def visit_AssignTarget(self, node: cst.AssignTarget) -> bool:
            return not isinstance(node.target, cst.Name)

        def visit_Name(self, node: cst.Name) -> None:
            nonlocal found
            if node.value == name and rewriter.source.lines.get(id(node), 0) > line:
                found = True

    if unit is not None and unit in rewriter.needs.units:
        unit.node.body.visit(Reads())
    return found


class _Renamed(cst.CSTTransformer):
    """Replaces names by expressions."""

    def __init__(self, names: dict[str, Any]) -> None:
        super().__init__()
        self.names = names

    def visit_Attribute_attr(self, node: cst.Attribute) -> None:
        self.inside = node.attr

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        if getattr(self, "inside", None) is original_node:
            return updated_node
        return self.names.get(original_node.value, updated_node)


def _names(node: Any) -> set[str]:
    """The names that an expression reads."""
    found: set[str] = set()

    class Names(cst.CSTVisitor):
        def visit_Attribute(self, node: cst.Attribute) -> bool:
            node.value.visit(self)
            return False

        def visit_Arg(self, node: cst.Arg) -> bool:
            node.value.visit(self)
            return False

        def visit_Name(self, node: cst.Name) -> None:
            found.add(node.value)

    node.visit(Names())
    return found
