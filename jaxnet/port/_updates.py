"""Gives a loop that updates the parameters by hand the optimizer that does the same."""

import re
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._flow import LOOPS, assignment_of, bound_names, lists, names_read
from jaxnet.port._nodes import code, parts_of
from jaxnet.port._steps import backward_in
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
    changing = {n for one in statements if isinstance(one, LOOPS) for n in bound_names(one)}
    if not made or model in changing or set(names) & changing:
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
    p, words = statement.target.value, code(body[0].body[0])
    for form in (
        rf"{p}(?:\.data)? -= (.+?) \* {p}\.grad(?:\.data)?",
        rf"{p}(?:\.data)?\.add_\({p}\.grad(?:\.data)?, alpha=-([\w.]+)\)",
        rf"{p}(?:\.data)?\.sub_\((.+?) \* {p}\.grad(?:\.data)?\)",
        rf"{p}(?:\.data)?\.sub_\({p}\.grad(?:\.data)? \* (.+?)\)",
    ):
        if match := re.fullmatch(form, words):
            rate = cst.parse_expression(match[1])
            simple = all(not isinstance(n, cst.Call) for n in parts_of(rate))
            return (over[1], match[1]) if simple and p not in names_read(rate) else None
    return None
