"""Gives a loop that updates the parameters by hand the optimizer that does the same."""

import re
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._flow import (
    LOOPS,
    assignment_of,
    bound_names,
    callee_of,
    calls_in,
    lists,
    names_read,
)
from jaxnet.port._nodes import code, is_name, parts_of
from jaxnet.port._steps import backward_in, changed_names
from jaxnet.port._words import Positioned

if TYPE_CHECKING:
    from jaxnet.port._source import Source


def with_optimizer(source: "Source", statements: list[Any], positions: dict[Any, Any]) -> list[Any]:
    """Statements in which `p -= lr * p.grad` for all parameters is a step of SGD.

    Args:
        source: The file.
        statements: The statements of a function, or of a program.
        positions: The places of the nodes, to which those of new nodes are added.
    """
    if source.imports.get("torch") != "torch":
        return statements
    found = [
        (place, above, one, update)
        for place, above in lists(statements)
        if backward_in(place)
        for one in place
        if (update := _update(one)) is not None
    ]
    if len(found) != 1 or not found[0][1]:
        return statements
    _, above, statement, (model, rate) = found[0]
    made = [
        one
        for one in statements
        if (a := assignment_of(one)) is not None and code(a.targets[0].target) == model
    ]
    names = names_read(cst.parse_expression(rate))
    loops = [o for place, _ in lists(statements) for o in place if isinstance(o, LOOPS)]
    changing = {n for one in [*loops, above[0]] for n in changed_names(one)}
    own = [part for part in parts_of(source.whole_tree) if isinstance(part, cst.FunctionDef)]
    for function in own:
        changing |= changed_names(function) - {"self"}
        for part in parts_of(function):
            if isinstance(part, cst.Global | cst.Nonlocal):
                changing |= {item.name.value for item in part.names}
    changers = {
        function.name.value
        for function in own
        if changed_names(function) & {param.name.value for param in function.params.params}
    }
    for call in calls_in(*loops, above[0]):
        if callee_of(call) in changers:
            changing |= {name for arg in call.args for name in names_read(arg.value)}
    bound = bound_names(*loops, above[0])
    if not made or model in bound or set(names) & changing:
        return statements
    name = "optimizer" if not re.search(r"\boptimizer\b", source.text) else "sgd"
    step: Any = cst.parse_statement(f"{name}.step()")
    step = step.with_changes(leading_lines=statement.leading_lines)
    positions[step] = positions[statement]

    class Replaced(Positioned):
        def on_visit(self, node: Any) -> bool:
            return node is not statement and bool(super().on_visit(node))

        def on_leave(self, original_node: Any, updated_node: Any) -> Any:
            if original_node is statement:
                return step
            return super().on_leave(original_node, updated_node)

    first = next(i for i, one in enumerate(statements) if one is above[0])
    if not all(any(one is m for one in statements[:first]) for m in made):
        return statements
    line: Any = cst.parse_statement(f"{name} = torch.optim.SGD({model}.parameters(), lr={rate})")
    for part in parts_of(line):
        positions[part] = positions[statement]
    new = above[0].visit(Replaced(positions))
    return [*statements[:first], line, new, *statements[first + 1 :]]


def _update(statement: Any) -> tuple[str, str] | None:
    """The model and the learning rate of an update of all parameters by hand, or None."""
    if isinstance(statement, cst.With):
        quiet = len(statement.items) == 1 and code(statement.items[0].item).endswith("no_grad()")
        body = statement.body.body
        return _update(body[0]) if quiet and len(body) == 1 else None
    if not isinstance(statement, cst.For) or not isinstance(statement.target, cst.Name):
        return None
    over = re.fullmatch(r"(\w+)\.parameters\(\)", code(statement.iter))
    body = list(getattr(statement.body, "body", ()))
    if over is None or len(body) != 1 or not isinstance(body[0], cst.SimpleStatementLine):
        return None
    if len(body[0].body) != 1:
        return None
    p = statement.target.value
    rate = _rate(body[0].body[0], p)
    if rate is None or any(isinstance(n, cst.Call) for n in parts_of(rate)):
        return None
    return None if p in names_read(rate) else (over[1], code(rate))


def _rate(update: Any, p: str) -> Any:
    """What the gradient of a parameter is multiplied with in an update of it, or None."""
    if isinstance(update, cst.AugAssign):
        fits = isinstance(update.operator, cst.SubtractAssign) and _is(update.target, p)
        return _factor(update.value, p) if fits else None
    call = update.value if isinstance(update, cst.Expr) else None
    if not isinstance(call, cst.Call) or not isinstance(call.func, cst.Attribute):
        return None
    args = call.args
    if not _is(call.func.value, p) or not args or any(a.star for a in args):
        return None
    if call.func.attr.value == "sub_" and len(args) == 1 and args[0].keyword is None:
        return _factor(args[0].value, p)
    if call.func.attr.value != "add_" or len(args) != 2 or not _is(args[0].value, f"{p}.grad"):
        return None
    alpha = args[1].value
    named = args[0].keyword is None and is_name(args[1].keyword, "alpha")
    minus = isinstance(alpha, cst.UnaryOperation) and isinstance(alpha.operator, cst.Minus)
    return alpha.expression if named and minus else None  # type: ignore[attr-defined]


def _factor(value: Any, p: str) -> Any:
    """The other factor of a product with the gradient of a parameter, or None."""
    if not isinstance(value, cst.BinaryOperation) or not isinstance(value.operator, cst.Multiply):
        return None
    if _is(value.right, f"{p}.grad"):
        return value.left
    return value.right if _is(value.left, f"{p}.grad") else None


def _is(node: Any, words: str) -> bool:
    """Whether an expression is a name with attributes, or the `.data` of it."""
    return code(node) in (words, f"{words}.data")
