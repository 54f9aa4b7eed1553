"""Finds what one training step of a PyTorch loop does, and writes it as a loss function."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import libcst as cst

from jaxnet import losses, nn, ops
from jaxnet.nn import functional
from jaxnet.port._flow import (
    COMPOUND,
    assignment_of,
    bound_names,
    bound_names_of_target,
    call_of,
    first_use,
    has,
    is_backward,
    is_live,
    lists,
    method_of,
    names_read,
)
from jaxnet.port._nodes import code, is_name, parts_of


class NotUnderstoodError(Exception):
    """A loop that is marked as a whole.

    Attributes:
        node: The statement at which it shows.
        text: What it is, and what to write.
    """

    def __init__(self, node: Any, text: str) -> None:
        super().__init__(text)
        self.node = node
        self.text = text


@dataclasses.dataclass
class Step:
    """A training step: the statements of a loop from the model's outputs to the update.

    Attributes:
        before: The statements before it, which do not depend on the model.
        forward: The statements that compute the loss.
        loss: The loss, an expression.
        after: The statements after it; what only looks at the outputs is among them.
        batch: The names that differ from step to step.
        constants: The names of the function that stay the same.
        outputs: The names that are read after the step.
        clip: The call that clips the gradients, or None.
        norm: The name that the norm of the gradients is given, or "".
        comments: The comments of the statements that are left out.
        node: The call of backward.
    """

    before: list[Any]
    forward: list[Any]
    loss: Any
    after: list[Any]
    batch: list[str]
    constants: list[str]
    outputs: list[str]
    clip: Any
    norm: str
    comments: list[Any]
    node: Any


def backward_in(place: Sequence[Any]) -> list[int]:
    """The numbers of the statements `loss.backward()` in a list."""
    return [i for i, one in enumerate(place) if is_backward(call_of(one))]


def step_in(
    place: list[Any],
    above: tuple[Any, ...],
    whole: list[Any],
    model: str,
    optimizer: str,
    name_of: Callable[[Any], str],
    sort: Callable[[str, Sequence[Any]], str],
) -> Step | None:
    """The training step in a list of statements, or None.

    Args:
        place: The list.
        above: The statements that it is in.
        whole: The statements of the function.
        model: The name of the model.
        optimizer: The name of the optimizer.
        name_of: What a name stands for.
        sort: Whether a name that some statements read is "free" of the function, one of its
            "constant"s, or a part of the "batch".

    Raises:
        NotUnderstoodError: It does something else than one step of an optimizer.
    """
    found = backward_in(place)
    if not found:
        return None
    node = place[found[0]]
    if len(found) > 1:
        raise NotUnderstoodError(place[found[1]], "several calls of backward in one step")
    call = call_of(node)
    assert call is not None
    if call.args:
        raise NotUnderstoodError(node, f"{code(call)}: backward with arguments")
    steps = [i for i, one in enumerate(place) if method_of(call_of(one)) == (optimizer, "step")]
    if len(steps) != 1 or steps[0] < found[0]:
        raise NotUnderstoodError(
            node, f"it is not followed by one {optimizer}.step() for each backward"
        )
    step_call = call_of(place[steps[0]])
    if step_call is not None and step_call.args:
        raise NotUnderstoodError(place[steps[0]], f"{code(step_call)}: a step with a closure")
    zero = [
        i
        for i, one in enumerate(place)
        if method_of(call_of(one)) in ((optimizer, "zero_grad"), (model, "zero_grad"))
    ]
    if not zero:
        raise NotUnderstoodError(
            node, "the gradients add up, since no zero_grad() is beside it; optim.accumulate adds"
        )
    if any(found[0] < i < steps[0] for i in zero):
        raise NotUnderstoodError(
            place[zero[0]], "zero_grad() before the step takes the gradients away"
        )
    left_out = {*zero, *found, *steps}
    forward, before, seen = _divided(place, found[0], left_out, model, call.func.value)  # type: ignore[attr-defined]
    for one in seen:
        if optimizer in changed_names(one) or any(
            isinstance(part, cst.For) and optimizer in names_read(part.iter)
            for part in parts_of(one)
        ):
            raise NotUnderstoodError(
                one, f"{code_line(one)}: {optimizer} is changed before its step"
            )
    clip, norm, between = None, "", []
    for one in place[found[0] + 1 : steps[0]]:
        if (clipping := _clipping(one, model, name_of)) is not None:
            if clip is not None:
                raise NotUnderstoodError(one, "the gradients are clipped twice")
            clip, norm = clipping
            left_out.add(next(i for i, other in enumerate(place) if other is one))
            continue
        if model in names_read(one) or optimizer in names_read(one):
            raise NotUnderstoodError(one, f"{code_line(one)}: between backward() and step()")
        between.append(one)
    _only_looks(between, model)
    rest = [one for i, one in enumerate(place) if i > steps[0] and i not in left_out]
    after = [*seen, *between, *rest]
    loss = call.func.value  # type: ignore[attr-defined]
    reads = [n for n in names_read(*forward, loss) if n != model]
    inside, outside = bound_names(*forward), _bound_outside(whole, forward)
    inputs = [
        n
        for n in reads
        if (first_use(forward, n) or "read") == "read" and (n not in inside or n in outside)
    ]
    kinds = {name: sort(name, [*forward, loss]) for name in inputs}
    bound = [n for one in forward for n in sorted(bound_names(one))]
    outputs = [n for n in dict.fromkeys(bound) if is_live(n, [node, *after], 0, above, whole)]
    comments = [
        line
        for i in sorted(left_out)
        for line in getattr(place[i], "leading_lines", ())
        if line.comment is not None
    ]
    return Step(
        before,
        forward,
        loss,
        after,
        [n for n in inputs if kinds[n] == "batch"],
        [n for n in inputs if kinds[n] == "constant"],
        outputs,
        clip,
        norm,
        comments,
        node,
    )


def _bound_outside(whole: list[Any], forward: list[Any]) -> set[str]:
    """The names that a function binds elsewhere than where the loss is computed."""
    found: set[str] = set()
    for place, _ in lists(whole):
        for one in place:
            if any(one is other for other in forward):
                continue
            if isinstance(one, COMPOUND):
                found |= bound_names_of_target(getattr(one, "target", None))
            elif not any(one is part for other in forward for part in parts_of(other)):
                found |= bound_names(one)
    return found


def _divided(
    place: list[Any], end: int, left_out: set[int], model: str, loss: Any
) -> tuple[list[Any], list[Any], list[Any]]:
    """What computes the loss, what is independent of the model, and what looks at its outputs."""
    numbers = [i for i in range(end) if i not in left_out]
    modes = {
        i for i in numbers if method_of(call_of(place[i])) in ((model, "train"), (model, "eval"))
    }
    tainted: set[str] = set()
    dependent: set[int] = set()
    for i in numbers:
        if i in modes:
            continue
        reads, binds = set(names_read(place[i])), changed_names(place[i])
        if model in reads or tainted & reads:
            dependent.add(i)
            tainted |= binds
        else:
            tainted -= binds
    if model not in names_read(loss) and not tainted & set(names_read(loss)):
        raise NotUnderstoodError(place[end], f"{code(loss)} does not come from {model} beside it")
    needed = set(names_read(loss))
    chosen: set[int] = set()
    computed: set[str] = set()
    for i in reversed(numbers):
        binds = changed_names(place[i])
        wanted = binds & needed
        if i in modes or not wanted or (i not in dependent and not wanted & computed):
            continue
        chosen.add(i)
        computed |= binds
        if assignment_of(place[i]) is not None:
            needed -= bound_names(place[i])
        needed |= set(names_read(place[i]))
        _check_forward(place[i], model)
    looks = dependent - chosen
    for i in numbers:
        if i not in chosen and any(j < i and _bars(place[j], place[i]) for j in looks):
            looks.add(i)  # it stays behind what looks, as a print behind another one
    seen = [place[i] for i in numbers if i in looks]
    _only_looks(seen, model)
    before = [place[i] for i in numbers if i not in chosen and i not in looks]
    forward = [place[i] for i in numbers if i in chosen]
    _check_order([place[i] for i in numbers], [*before, *forward, *seen])
    return forward, before, seen


def _check_order(old: list[Any], new: list[Any]) -> None:
    """Refuses statements that come to stand in another order, and depend on theirs."""
    at = {id(one): i for i, one in enumerate(new)}
    for i, one in enumerate(old):
        for other in old[i + 1 :]:
            if at[id(one)] > at[id(other)] and _bars(one, other):
                raise NotUnderstoodError(
                    other,
                    f"{code_line(other)}: it changes what is read before it, or the reverse",
                )


def _bars(one: Any, other: Any) -> bool:
    """Whether a statement cannot be done after another one that it stands before."""
    reads, binds, later = set(names_read(one)), changed_names(one), changed_names(other)
    return bool(binds & (set(names_read(other)) | later) or reads & later)


def changed_names(statement: Any) -> set[str]:
    """The names that a statement binds, or whose contents it changes; printing changes print."""
    found = bound_names(statement) | stored_into(statement)
    for part in parts_of(statement):
        call = part.value if isinstance(part, cst.Expr) else None
        if isinstance(call, cst.Call) and not isinstance(call.func, cst.Name):
            found.add(root_of(call.func))
        if isinstance(part, cst.Call) and is_name(part.func, "print"):
            found.add("print")
    return found - {""}


def stored_into(node: Any) -> set[str]:
    """The names of which a part of a program sets or deletes attributes or elements."""
    found: set[str] = set()
    for part in parts_of(node):
        if isinstance(part, cst.AssignTarget | cst.AugAssign | cst.AnnAssign | cst.Del):
            found |= target_roots(part)
        elif isinstance(part, cst.Call) and is_name(part.func, "setattr", "delattr") and part.args:
            found.add(root_of(part.args[0].value))
    return found - {""}


def target_roots(node: Any) -> set[str]:
    """The names of which an assignment or a deletion changes an attribute or an element."""
    target: Any = node.target
    places = [target]
    found: set[str] = set()
    while places:
        place = places.pop()
        if isinstance(place, cst.Tuple | cst.List):
            places += [element.value for element in place.elements]
        elif isinstance(place, cst.Subscript | cst.Attribute):
            found.add(root_of(place))
    return found - {""}


def root_of(node: Any) -> str:
    """The name that an expression such as `args.sizes[0].append` begins with, or ""."""
    while isinstance(node, cst.Attribute | cst.Subscript | cst.Call):
        node = node.func if isinstance(node, cst.Call) else node.value
    return node.value if isinstance(node, cst.Name) else ""


def _check_forward(statement: Any, model: str) -> None:
    for part in parts_of(statement):
        if isinstance(part, cst.With) and not all(
            isinstance(i.item, cst.Call) and code(i.item.func).endswith("no_grad")
            for i in part.items
        ):
            raise NotUnderstoodError(statement, f"{code_line(statement)} around the model's call")
        if isinstance(part, cst.Return | cst.Continue | cst.Yield | cst.Global | cst.FunctionDef):
            raise NotUnderstoodError(
                statement, f"{code_line(statement)}: between the model and backward()"
            )
        if isinstance(part, cst.Expr) and is_name(getattr(part.value, "func", None), "print"):
            raise NotUnderstoodError(
                statement, f"{code_line(statement)}: it prints while the loss is computed"
            )
        if isinstance(part, cst.While):
            raise NotUnderstoodError(
                statement, f"{code_line(statement)}: a loop on values in a step"
            )
        if isinstance(part, cst.Call):
            _check_call(statement, part, model)


def _check_call(statement: Any, call: cst.Call, model: str) -> None:
    """Refuses calls of the forward pass that a compiled step would make only once."""
    words = f"{code(call)}: it would be run once, when the step is compiled"
    if is_name(call.func, "int", "float", "bool", "input", "open", "next"):
        raise NotUnderstoodError(statement, words)
    if not isinstance(call.func, cst.Attribute):
        return
    receiver: Any = call.func.value
    while isinstance(receiver, cst.Attribute):
        receiver = receiver.value
    if is_name(receiver, model) or call.func.attr.value in _FORWARD:
        return
    raise NotUnderstoodError(statement, words)


_FORWARD = (
    set(ops.__all__) | set(functional.__all__) | set(losses.__all__) | set(nn.__all__)
    | {"view", "size", "dim", "numel", "view_as", "expand_as", "append", "extend", "items",
       "keys", "values", "contiguous", "masked_fill", "type_as", "parameters", "clamp_", "t",
       "named_parameters", "no_grad", "zeros_like", "get", "double", "mul_", "add_", "sqrt"}
) - {"manual_seed"}  # fmt: skip
"""The functions and methods of arrays, whose results depend on nothing but their arguments."""


def _only_looks(statements: list[Any], model: str) -> None:
    """Refuses what cannot be done after the update in place of before it."""
    for one in statements:
        if model in names_read(one):
            raise NotUnderstoodError(
                one, f"{code_line(one)}: {model} is used again before the update"
            )
        if has(one, cst.Continue, cst.Break, cst.Return, cst.Raise, cst.Assert, cst.Yield):
            raise NotUnderstoodError(
                one, f"{code_line(one)}: whether the update is made depends on it"
            )


def code_line(statement: Any) -> str:
    """The first line of a statement."""
    words = cst.Module([statement.with_changes(leading_lines=[])]).code.strip()
    return words.splitlines()[0]


def _clipping(statement: Any, model: str, name_of: Callable[[Any], str]) -> tuple[Any, str] | None:
    """The call that clips the gradients of the model, and the name that it gives their norm."""
    call, norm = call_of(statement), ""
    assign = assignment_of(statement)
    if assign is not None and isinstance(assign.value, cst.Call):
        target = assign.targets[0].target
        call, norm = assign.value, target.value if isinstance(target, cst.Name) else "?"
    if call is None or norm == "?" or not call.args:
        return None
    name = name_of(call.func)
    if name not in ("torch.nn.utils.clip_grad_norm_", "torch.nn.utils.clip_grad_value_"):
        return None
    if code(call.args[0].value) != f"{model}.parameters()":
        return None
    if len(call.args) > 2 or (norm and name.endswith("value_")):
        return None
    return call, norm


def loss_function(step: Step, name: str, model: str, parameters: Sequence[str]) -> Any:
    """The loss of a step as a function of the model and the batch.

    Args:
        step: The step.
        name: The name of the function.
        model: The name of the model.
        parameters: Names that are parameters before the model.
    """
    single = step.batch[0] if len(step.batch) == 1 else "batch"
    words = ", ".join([*parameters, model, single])
    unpacked = f"    {', '.join(step.batch)} = batch\n" if len(step.batch) > 1 else ""
    outputs = [n for n in step.outputs if not is_name(step.loss, n)]
    value = code(step.loss)
    if outputs:
        value += ", {" + ", ".join(f'"{key_of(n)}": {n}' for n in outputs) + "}"
    text = f"def {name}({words}):\n{unpacked}    return {value}\n"
    function: Any = cst.parse_statement(text)
    body = list(function.body.body)
    body[-1:-1] = step.forward
    return function.with_changes(body=function.body.with_changes(body=body))


def key_of(name: str) -> str:
    """The name of an output among the metrics, where "loss" is the loss itself."""
    return name if name not in ("loss", "grad_norm") else f"{name}_"


def calls(step: Step, state: str, function: str, metrics: str) -> list[Any]:
    """The statements that make the step, and give its outputs their names."""
    batch = step.batch[0] if len(step.batch) == 1 else f"({', '.join(step.batch)})"
    lines = [f"{state}, {metrics} = {function}({state}, {batch})"]
    for name in step.outputs:
        key = "loss" if is_name(step.loss, name) else key_of(name)
        lines.append(f'{name} = {metrics}["{key}"]')
    if step.norm:
        lines.append(f'{step.norm} = {metrics}["grad_norm"]')
    made = list(cst.parse_module("\n".join(lines) + "\n").body)
    made[0] = made[0].with_changes(leading_lines=step.comments)
    return made
