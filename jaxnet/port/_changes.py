"""Rewrites changes in place: arrays of JAX get new values, parameters and buffers new contents."""

from typing import Any

import libcst as cst

from jaxnet.port._calls import with_rngs
from jaxnet.port._kinds import ARRAYS
from jaxnet.port._nodes import code, is_data
from jaxnet.port._rewrite import Expressions
from jaxnet.port._shares import (
    changes_in_place,
    index_is_basic,
    is_copied,
    is_mask,
    torch_changes_first,
)
from jaxnet.port._tensors import AUGMENTED, OPERATIONS, at, at_of_method, in_place_value

_INITS = {
    "normal_": "normal_",
    "uniform_": "uniform_",
    "zero_": "zeros_",
    "fill_": "constant_",
    "trunc_normal_": "trunc_normal_",
}
_VARIABLES = ("param", "buffer")


class Changes(Expressions):
    """Rewrites the changes in place of one definition; the arguments are those of `Expressions`."""

    def computes(self) -> bool:
        """Whether what is open is a part of what is differentiated, and builds no model."""
        here = self.here
        return here is not None and here.kinds.computing and not here.making

    def is_array(self, node: Any) -> bool:
        """Whether an expression is an array as far as the source says."""
        return self.here is not None and node is not None and self.here.kinds(node) in ARRAYS

    def assigned(self, target: Any, value: Any, line: Any) -> Any:
        """A statement that gives a target a value."""
        if isinstance(value, cst.BinaryOperation) and "\n" in code(value) and not value.lpar:
            value = value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        return with_part(line, cst.Assign([cst.AssignTarget(target)], value))

    def rewritten(self, node: Any) -> Any:
        """An expression of the source, rewritten."""
        return node.visit(self)

    # methods

    def changed_by_method(self, old: cst.Call, new: Any, updated: Any) -> Any:
        """A statement such as `x.add_(1)`."""
        here, name = self.here, old.func
        assert here is not None
        assert isinstance(name, cst.Attribute)
        method, receiver = name.attr.value, name.value
        target = without_data(receiver)
        arguments = [arg.with_changes(value=self.rewritten(arg.value)) for arg in old.args]
        through = target is not receiver  # p.data.normal_()
        if isinstance(target, cst.Subscript):
            return self._part_by_method(old, target, new, arguments, updated)
        if isinstance(target, cst.Attribute) or (through and isinstance(target, cst.Name)):
            if through and self.computes() and here.kinds(target) == "tensor":
                self.problem(old, f"{code(old)}: {UNSEEN}")
                return updated
            return self._contents(old, target, method, new, arguments, updated)
        if isinstance(target, cst.Name):
            place = self.rewritten(target)
            value = in_place_value(method, place, arguments) or new.value
            if self._is_variable(target):
                self.no_parameter(old, target)
                return self.assigned(cst.parse_expression(f"{target.value}[...]"), value, updated)
            self._seen_outside(old, target)
            return self.assigned(place, value, updated)
        if isinstance(target, cst.Call) and changes_in_place(here.kinds, target):
            assert isinstance(target.func, cst.Attribute)
            base = without_data(target.func.value)  # x.mul_(a).add_(b)
            if isinstance(base, cst.Name) and not self._is_variable(base):
                self._seen_outside(old, base)
                return self.assigned(base, new.value, updated)
            if isinstance(base, cst.Name | cst.Attribute):
                self.no_parameter(old, base)
                whole = cst.parse_expression(f"{code(self.rewritten(base))}[...]")
                return self.assigned(whole, new.value, updated)
        self.problem(old, f"{code(old)}: a change in place of something without a name")
        return updated

    def _is_variable(self, name: cst.Name) -> bool:
        """Whether a name is a parameter or a buffer of a module.

        What a function changes that makes layers or draws their weights is one of them, as in
        `def trunc_normal_(tensor): tensor.uniform_()`.
        """
        here = self.here
        assert here is not None
        given = name.value in self.scope.parameters and name.value not in self.scope.assigned
        return (here.making and given) or here.kinds(name) in _VARIABLES

    def _contents(
        self, old: cst.Call, target: Any, method: str, new: Any, arguments: list[Any], updated: Any
    ) -> Any:
        """A change of a parameter or a buffer of a module, by `self.x.add_(1)`."""
        here = self.here
        assert here is not None
        place = self.rewritten(target)
        init = _INITS.get(method)
        if init is not None and here.making and here.kinds(target) in ("param", "tensor", None):
            call = cst.Call(cst.parse_expression(f"nn.init.{init}"), [cst.Arg(place), *arguments])
            self.need("from jaxnet import nn")
            if here.rngs and method in ("normal_", "uniform_", "trunc_normal_"):
                call = with_rngs(call, "generator")
            return with_part(updated, cst.Expr(call))
        self.no_parameter(old, target)
        whole = cst.parse_expression(f"{code(place)}[...]")
        value = new.value
        if method == "copy_":
            value = arguments[0].value
        else:
            value = in_place_value(method, whole, arguments) or value
        if self.computes() and isinstance(old.func, cst.Attribute) and is_data(old.func.value):
            value = self.detached(value)
        return self.assigned(whole, value, updated)

    def no_parameter(self, old: Any, target: Any) -> None:
        """Marks a change of a parameter that is trained, in what is differentiated."""
        if self.computes() and self.here.kinds(target) == "param":  # type: ignore[union-attr]
            self.problem(
                old,
                f"{code(old)}: a parameter is changed while the model computes, which a step of "
                "JAX does not keep; change it between the steps, or compute with the new value",
            )

    def _seen_outside(self, old: Any, target: cst.Name) -> None:
        """What a change in place of an array of the function means for those outside."""
        if self.quiet and self.computes() and self.line in self.unseen:
            self.problem(old, f"{code(old)}: {UNSEEN}")
        if target.value in self.scope.parameters and target.value not in self.scope.assigned:
            self.note(old, f"torch changes the argument {target.value} for the caller too")

    # parts of arrays

    def _part_by_method(
        self, old: cst.Call, target: cst.Subscript, new: Any, arguments: list[Any], updated: Any
    ) -> Any:
        """`x[i].add_(1)`."""
        here = self.here
        assert here is not None
        assert isinstance(old.func, cst.Attribute)
        method = old.func.attr.value
        target = stripped(target)
        place = self.rewritten(target)
        if not self.is_array(target.value):
            if self.here.kinds(target.value) == "tensors":  # type: ignore[union-attr]
                value = in_place_value(method, place, arguments) or new.value
                return self.assigned(place, value, updated)  # a list of arrays
            self.problem(old, f"{code(old)}: of an array or of a list of arrays?")
            return updated
        if not index_is_basic(here.kinds, target):
            if is_copied(here.kinds, self.scope, target) and _is_sure(self, target):
                self.note(old, f"{code(old)}: torch changes a copy, which nobody sees: left out")
                return with_part(updated, cst.Pass())
            self.problem(
                old,
                f"{code(old)}: torch changes a part if it is taken by a number, and a copy if it "
                "is taken by an array; write x[i] = ...",
            )
            return updated
        plain = in_place_value(method, place, arguments) or new.value
        if method in ("zero_", "fill_", "copy_"):
            plain = arguments[0].value if arguments else cst.Integer("0")
        short = at_of_method(method, place, arguments)
        return self.part(old, target, place, short or at(place, "set", plain), plain, updated)

    def part(
        self, node: Any, old: cst.Subscript, new: Any, value: Any, plain: Any, updated: Any
    ) -> Any:
        """A statement that gives a part of an array a new value.

        Args:
            node: What is said to be not supported.
            old: The part, such as `x[0]`.
            new: The part, rewritten.
            value: The new value of what it is a part of, such as `x.at[0].set(1)`.
            plain: The new value of the part.
            updated: The statement.
        """
        here = self.here
        assert here is not None
        whole = old.value
        if isinstance(whole, cst.Name) and here.kinds(whole) == "tensor":
            self._seen_outside(node, whole)
            return self.assigned(new.value, value, updated)
        if isinstance(whole, cst.Name | cst.Attribute):
            self.no_parameter(node, whole)
            return self.assigned(new, plain, updated)
        if isinstance(whole, cst.Subscript):
            if not self.is_array(whole.value):
                return self.assigned(new.value, value, updated)  # a list of arrays
            if index_is_basic(here.kinds, whole):
                outer = at(new.value, "set", value)
                return self.part(node, whole, new.value, outer, value, updated)
            words = "a part that is taken by an array is a copy in torch, whose change is lost"
            self.problem(node, f"{code(old)}: {words}; take it by numbers, or write x[i, j] = ...")
            return updated
        self.problem(node, f"{code(old)}: a change in place of a part of something without a name")
        return updated

    def set_part(self, old: cst.Assign, new: Any, updated: Any) -> Any:
        """`x[i] = value`."""
        target: Any = stripped(old.targets[0].target)
        place = self.rewritten(target)
        value = at(place, "set", new.value)
        return self.part(target, target, place, value, new.value, updated)

    def augmented(self, old: cst.AugAssign, new: Any, updated: Any) -> Any:
        """`x += y` and `x[i] += y`."""
        here, target = self.here, without_data(old.target)
        if here is None:
            return updated
        if isinstance(target, cst.Subscript) and self.is_array(stripped(target).value):
            return self._part_augmented(old, stripped(target), new, updated)
        kind = here.kinds(target)
        if kind in _VARIABLES and isinstance(target, cst.Attribute | cst.Name):
            self.no_parameter(old, target)
            place = cst.parse_expression(f"{code(self.rewritten(target))}[...]")
            return with_part(updated, new.with_changes(target=place))
        if isinstance(target, cst.Name) and self.is_array(target):
            self._seen_outside(old, target)
        return updated

    def _part_augmented(
        self, old: cst.AugAssign, target: cst.Subscript, new: Any, updated: Any
    ) -> Any:
        here = self.here
        assert here is not None
        place, value = self.rewritten(target), new.value
        loose = isinstance(value, cst.BinaryOperation | cst.IfExp | cst.Comparison)
        closed = value
        if loose and not value.lpar:
            closed = value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        operator = OPERATIONS.get(type(old.operator))
        if operator is None:
            self.problem(old, f"{code(old)}: a change in place of a part of an array")
            return updated
        plain = cst.BinaryOperation(place, operator(), closed)
        operation = AUGMENTED.get(type(old.operator))
        # An index that is there twice counts once in torch, but twice in x.at[i].add.
        once = index_is_basic(here.kinds, target) or all(
            isinstance(part, cst.Slice) or is_mask(self.scope, part.value)
            for part in indices(target)
        )
        if isinstance(old.operator, cst.SubtractAssign):
            operation = "add"
            value = cst.parse_expression(f"-{code(closed)}")
        if operation is None or not once:
            operation, value = "set", plain
        return self.part(target, target, place, at(place, operation, value), plain, updated)

    # functions

    def changed_by_function(self, old: cst.Call, new: Any, updated: Any) -> Any:
        """`F.relu_(x)` and `F.relu(x, inplace=True)` as statements."""
        if self.here is None or not torch_changes_first(self._dotted(old.func) or "", old):
            return updated
        first = old.args[0].value if old.args else None
        if isinstance(first, cst.Name) and not self._is_variable(first):
            self._seen_outside(old, first)
            return self.assigned(first, new.value, updated)
        if isinstance(first, cst.Name) or self.here.kinds(first) in _VARIABLES:
            self.no_parameter(old, first)
            whole = cst.parse_expression(f"{code(self.rewritten(first))}[...]")
            return self.assigned(whole, new.value, updated)
        self.problem(old, f"{code(old)}: a change in place of something without a name")
        return updated

    def changed_and_named(self, old: cst.Assign, new: Any, updated: Any) -> Any:
        """`y = x.add_(1)`, which changes x too."""
        value, target = old.value, old.targets[0].target
        if self.here is None or not isinstance(value, cst.Call):
            return updated
        receiver: Any = None
        if changes_in_place(self.here.kinds, value) and isinstance(value.func, cst.Attribute):
            receiver = value.func.value
        elif torch_changes_first(self._dotted(value.func) or "", value) and value.args:
            receiver = value.args[0].value
        while isinstance(receiver, cst.Call) and changes_in_place(self.here.kinds, receiver):
            receiver = receiver.func.value  # type: ignore[attr-defined]
        if receiver is None or code(target) == code(receiver):
            return updated
        if isinstance(receiver, cst.Name) and self.is_array(receiver):
            place: Any = receiver
            if self._is_variable(receiver):
                self.no_parameter(old, receiver)
                place = cst.parse_expression(f"{receiver.value}[...]")
            else:
                self._seen_outside(old, receiver)
            first = self.assigned(place, new.value, updated)
            second = cst.SimpleStatementLine([new.with_changes(value=receiver)])
            return cst.FlattenSentinel([first, second])
        if isinstance(receiver, cst.Attribute | cst.Subscript) and self.is_array(receiver):
            copied = isinstance(receiver, cst.Subscript) and is_copied(
                self.here.kinds, self.scope, receiver
            )
            if not copied:
                self.problem(old, f"{code(old)}: write the change as a statement of its own")
        return updated

    def detached(self, value: Any) -> Any:
        """A value without its gradient."""
        if code(value).startswith(("ops.detach(", "jax.lax.stop_gradient(")):
            return value
        self.need("from jaxnet import ops")
        return cst.Call(cst.parse_expression("ops.detach"), [cst.Arg(bare(value))])


UNSEEN = (
    "torch changes the numbers and leaves the gradient as it was; "
    "write x = x + jax.lax.stop_gradient(new - x)"
)


def bare(value: Any) -> Any:
    """An expression on one line without the brackets around it."""
    tuples = isinstance(value, cst.Tuple | cst.GeneratorExp | cst.NamedExpr)
    if tuples or "\n" in code(value) or len(getattr(value, "lpar", ())) != 1:
        return value
    return value.with_changes(lpar=[], rpar=[])


def with_part(line: Any, part: Any) -> Any:
    """A line with another statement."""
    return line.with_changes(body=[part])


def without_data(node: Any) -> Any:
    """The expression `x` for `x.data`."""
    return node.value if is_data(node) else node


def stripped(node: Any) -> Any:
    """The expression `x[0][1]` for `x.data[0][1]`."""
    if isinstance(node, cst.Subscript):
        inner = stripped(node.value)
        return node if inner is node.value else node.with_changes(value=inner)
    return without_data(node)


def indices(node: cst.Subscript) -> list[Any]:
    """The numbers, arrays and slices in the brackets of `x[...]`."""
    return [element.slice for element in node.slice]


def _is_sure(rewriter: Changes, node: cst.Subscript) -> bool:
    """Whether an index is a mask or a list, and no array that may hold a single number."""
    return any(
        not isinstance(part, cst.Slice)
        and (isinstance(part.value, cst.List) or is_mask(rewriter.scope, part.value))
        for part in indices(node)
    )
