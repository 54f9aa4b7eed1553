"""Replaces what reads the model, the optimizer and the scheduler of a program by its state."""

from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._flow import callee_of, names_read
from jaxnet.port._nodes import code, is_name
from jaxnet.port._roles import Part
from jaxnet.port._steps import NotUnderstoodError, target_roots
from jaxnet.port._words import Positioned

if TYPE_CHECKING:
    from jaxnet.port._loops import Loops


class Reads(Positioned):
    """Replaces what reads the model, the optimizer and the scheduler."""

    def __init__(self, loops: "Loops", part: Part, only_calls: bool = False) -> None:
        super().__init__(loops.positions)
        self.loops = loops
        self.training = loops.training
        self.part = part
        self.only_calls = only_calls
        roles = loops.roles.of(part)
        self.model, self.optimizer = roles.get("model"), roles.get("optimizer")
        self.scheduler = roles.get("scheduler")
        self.words: set[int] = set()
        self.in_any_mode: set[int] = set()
        self.quotes: list[str] = []  # those that a text within the open f-strings may have

    def visit_FormattedString(self, node: cst.FormattedString) -> None:
        self.quotes.append("'" if '"' in node.start else '"')

    def leave_FormattedString(self, original_node: Any, updated_node: Any) -> Any:
        self.quotes.pop()
        return updated_node

    def visit_Attribute(self, node: cst.Attribute) -> None:
        self.words.add(id(node.attr))
        if node.attr.value in _IN_ANY_MODE:
            self.in_any_mode.add(id(node.value))

    def visit_Arg(self, node: cst.Arg) -> None:
        self.words.add(id(node.keyword))

    def visit_Call(self, node: cst.Call) -> bool:
        callee = callee_of(node)
        parts = self.loops.parts
        own = bool(callee) and callee in parts and self.loops._has_roles(parts[callee])
        if (
            own
            and callee in self.loops.changing
            and self.loops._is_parameter(parts[callee], "model")
        ):
            raise NotUnderstoodError(
                node, f"{code(node)}: a call that trains, within an expression"
            )
        if own or (self.model is not None and is_name(node.func, self.model)):
            return False
        return not self._rate(node)

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> Any:
        loops = self.loops
        callee = callee_of(original_node)
        if callee and callee in loops.parts and loops._has_roles(loops.parts[callee]):
            if self.only_calls:
                self._refuse_state(original_node, callee)
                return updated_node
            return loops._call(self.part, original_node)
        if self.model is not None and is_name(original_node.func, self.model):
            args = [
                a.with_changes(value=loops._rewritten(self.part, a.value))
                for a in original_node.args
            ]
            if self.only_calls:
                return updated_node.with_changes(args=args)
            return self._called(original_node, args)
        rate = self._rate(original_node)
        return cst.parse_expression(rate) if rate else updated_node

    def _refuse_state(self, node: Any, callee: str) -> None:
        if self.model in names_read(node) and callee in self.loops.changing | self.loops.predicting:
            raise NotUnderstoodError(node, f"{code(node)}: an evaluation that calls another")

    def _called(self, original: cst.Call, args: list[Any]) -> Any:
        training, loops = self.training, self.loops
        if self.part.name in loops.predicting:
            loops.mode = "eval"
        plain = is_plain(original)
        if plain and (loops.mode == "eval" or not training.has_modes):
            training.predicts = True
            training.imports |= {"import jax", "from jaxnet.train import make_predict"}
            first = cst.Arg(cst.Name(training.state))
            return cst.Call(cst.Name(training.predict), [first, *args])
        if loops.mode != "eval" and training.has_modes:
            raise NotUnderstoodError(
                original, f"{code(original)}: the model computes in training mode outside of a step"
            )
        return cst.Call(cst.parse_expression(loops._model(original)), args)

    def _rate(self, node: Any) -> str:
        """Reading the learning rates."""
        words = code(node)
        rates = f"optim.learning_rates({self.training.state}.opt_state)"
        count = self.loops.roles.count
        last = {f"{self.scheduler}.get_last_lr()[{i}]": i % count for i in range(-1, count)}
        group = last.get(words, rate_of(node, self.optimizer, count))
        if group is not None:
            self.training.imports.add("from jaxnet import optim")
            quote = self.quotes[-1] if self.quotes else '"'
            return f"{rates}[{quote}lr{f'_{group}' if group else ''}{quote}]"
        if self.scheduler is not None and words == f"{self.scheduler}.get_last_lr()":
            self.training.imports.add("from jaxnet import optim")
            return f"list({rates}.values())"
        return ""

    def visit_AssignTarget(self, node: cst.AssignTarget) -> None:
        self._refuse_change(node)

    def visit_AugAssign(self, node: cst.AugAssign) -> None:
        self._refuse_change(node)

    def visit_AnnAssign(self, node: cst.AnnAssign) -> None:
        self._refuse_change(node)

    def visit_Del(self, node: cst.Del) -> None:
        self._refuse_change(node)

    def _refuse_change(self, node: Any) -> None:
        """Refuses a change of what the state gives, which nothing would see."""
        roots = target_roots(node)
        if self.optimizer in roots or self.scheduler in roots:
            raise NotUnderstoodError(
                node, f"{code(node.target)}: optim.set_hyperparams sets a learning rate"
            )
        if self.model in roots:
            raise NotUnderstoodError(node, f"{code(node.target)}: a change of the model")

    def visit_Subscript(self, node: cst.Subscript) -> bool:
        return not self._rate(node)

    def leave_Subscript(self, original_node: cst.Subscript, updated_node: cst.Subscript) -> Any:
        rate = self._rate(original_node)
        return cst.parse_expression(rate) if rate else updated_node

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        name = original_node.value
        if id(original_node) in self.words:
            return updated_node
        if name in (self.optimizer, self.scheduler):
            raise NotUnderstoodError(
                original_node, f"{name} is used in another way than by its steps"
            )
        if name == self.model and not self.only_calls:
            if self.part.name in self.loops.predicting:
                return updated_node
            any_mode = id(original_node) in self.in_any_mode
            return cst.parse_expression(self.loops._model(original_node, any_mode))
        return updated_node


_IN_ANY_MODE = {
    "state_dict", "parameters", "named_parameters", "buffers", "named_buffers", "num_parameters",
    "modules", "named_modules", "children", "named_children", "__class__",
}  # fmt: skip
"""What a model says alike in training and in evaluation mode."""


def rate_of(node: Any, optimizer: str | None, count: int) -> int | None:
    """The number of the group of `optimizer.param_groups[0]["lr"]`, or None for something else.

    Args:
        node: The expression.
        optimizer: The name of the optimizer.
        count: The number of its groups.
    """
    rates = {
        f"{optimizer}.param_groups[{i}][{lr}]": i % count
        for i in range(-1, count)
        for lr in ('"lr"', "'lr'")
    }
    return rates.get(code(node))


def is_plain(call: cst.Call) -> bool:
    """Whether a call of the model is one of arrays without names."""
    fixed = cst.Integer | cst.SimpleString | cst.Float
    return bool(call.args) and all(
        a.keyword is None
        and not a.star
        and not isinstance(a.value, fixed)
        and not is_name(a.value, "True", "False", "None")
        for a in call.args
    )
