"""Calls of torch's functions and layers, and of the program's own, as jaxnet takes them."""

from typing import Any

import libcst as cst

from jaxnet.port._kinds import ARRAYS, Kinds
from jaxnet.port._names import LEFT_OUT, jaxnet_name, tensor_type, unknown_argument
from jaxnet.port._nodes import code
from jaxnet.port._parameters import says_device
from jaxnet.port._rngs import Needs
from jaxnet.port._scopes import Scope
from jaxnet.port._tensors import argument

NO_GRADIENT = ("torch.no_grad", "torch.inference_mode", "torch.set_grad_enabled")
CASTS = ("torch.autocast", "torch.amp.autocast", "torch.cuda.amp.autocast")
REMOVED = {"torch.jit.annotate": 1, "torch.jit.script": 0, "torch.jit.script_if_tracing": 0,
           "torch.compile": 0, "torch.autograd.Variable": 0, "torch.fx.wrap": 0}  # fmt: skip
"""Functions that give back one of their arguments, and which."""

FROZEN = "freezing is up to the optimizer: optim.frozen"
_SIZED = {"empty", "zeros", "ones", "rand", "randn"}
VALUES = {"torch.get_default_dtype": "ops.float32"}
"""Functions of torch that give one value in jaxnet, and which."""

OF_SHAPES = {"torch.nn.init._calculate_fan_in_and_fan_out": "nn.init.fan_in_and_out"}
"""Functions of an array that in jaxnet are functions of its shape, and which."""

HANDLED = {*REMOVED, *VALUES, *OF_SHAPES, "torch._assert", *NO_GRADIENT, *CASTS}
"""Functions whose calls become something else than a call of the same name."""


def no_gradient(name: str, node: Any) -> bool | None:
    """Whether torch takes no gradients in a block, by what opens it; None if nobody knows."""
    if name not in NO_GRADIENT:
        return False
    if not name.endswith(("set_grad_enabled", "inference_mode")) or not node.args:
        return True
    value = code(node.args[0].value)
    enabled = name.endswith("set_grad_enabled")
    return {"True": not enabled, "False": enabled}.get(value)


def with_rngs(updated: cst.Call, keyword: str) -> cst.Call:
    """A call that hands `rngs` on."""
    args = list(updated.args)
    if any(a.keyword is not None and a.keyword.value == keyword for a in args):
        return updated
    cut = next((i for i, a in enumerate(args) if a.star == "**"), len(args))
    new = argument(keyword, "rngs")
    comma = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    if cut == len(args) and args:
        last = args[-1]
        new = new.with_changes(comma=last.comma, whitespace_after_arg=last.whitespace_after_arg)
        bare = cst.SimpleWhitespace("")
        args[-1] = last.with_changes(comma=comma, whitespace_after_arg=bare)
    elif cut < len(args):
        new = new.with_changes(comma=comma)
    args.insert(cut, new)
    return updated.with_changes(args=args)


def torch_call(
    kinds: Kinds | None, original: cst.Call, updated: cst.Call, dotted: str
) -> tuple[Any, str, str]:
    """A call of a function or a layer of torch.

    Args:
        kinds: The kinds of the expressions of the function, if the call is in one.
        original: The call in the source.
        updated: The call with its parts rewritten.
        dotted: What is called.

    Returns:
        The expression; why it is not supported, or ""; and a note for the reader, or "".
    """
    if dotted in REMOVED:
        return updated.args[REMOVED[dotted]].value, "", ""
    if dotted in VALUES:
        return cst.parse_expression(VALUES[dotted]), "", ""
    if dotted in OF_SHAPES:
        shape = cst.Attribute(updated.args[0].value, cst.Name("shape"))
        return cst.Call(cst.parse_expression(OF_SHAPES[dotted]), [cst.Arg(shape)]), "", ""
    if tensor_type(dotted) is not None:
        return *_of_type(kinds, original, updated, tensor_type(dotted) or ""), ""
    if dotted in HANDLED:
        return updated, "", ""
    args, note = [], ""
    for old, arg in zip(original.args, updated.args, strict=True):
        keyword = arg.keyword.value if arg.keyword is not None else ""
        if keyword == "requires_grad" and dotted.endswith(".Parameter"):
            if isinstance(old.value, cst.Name) and old.value.value == "False":
                updated = updated.with_changes(func=cst.parse_expression("nn.Buffer"))
                note = "Parameter(requires_grad=False) is a Buffer, which is not trained"
            elif code(old.value) != "True":
                note = f"requires_grad={code(old.value)}: {FROZEN}"
            continue
        if keyword in LEFT_OUT:
            continue
        if keyword == "dtype" and isinstance(old.value, cst.Name) and old.value.value == "None":
            continue
        if keyword == "size" and dotted.rpartition(".")[2] in _SIZED:
            arg = arg.with_changes(keyword=None, equal=cst.MaybeSentinel.DEFAULT)
        args.append(arg)
    if len(args) < len(updated.args) and args:
        last = updated.args[-1]
        args[-1] = args[-1].with_changes(comma=last.comma)
    updated = updated.with_changes(args=args)
    spelled = cst.helpers.get_full_name_for_node(original.func) or ""
    found = jaxnet_name(dotted, spelled)
    if found.problem:
        return updated, f"{dotted}: {found.problem}", note
    positional = sum(a.keyword is None and a.star == "" for a in args)
    keywords = [a.keyword.value for a in args if a.keyword is not None]
    wrong = unknown_argument(found.value, positional, keywords)
    return updated, f"{dotted}: {wrong}" if wrong else "", note


def _of_type(
    kinds: Kinds | None, original: cst.Call, updated: cst.Call, dtype: str
) -> tuple[Any, str]:
    """torch.Tensor(2, 3) has a shape, torch.Tensor([2, 3]) has values, of the class's dtype."""
    plain = dtype == "float32"  # what arrays have if nothing is said
    typed = [] if plain else [argument("dtype", f"ops.{dtype}")]
    if not updated.args:
        return cst.parse_expression("ops.empty(0)").with_changes(  # type: ignore[attr-defined]
            args=[cst.Arg(cst.Integer("0")), *typed]
        ), ""
    args = list(updated.args)
    args[-1] = args[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
    empty = cst.Call(cst.parse_expression("ops.empty"), [*args, *typed])
    first = original.args[0]
    if len(args) > 1 or first.star:
        return empty, ""
    kind = None if kinds is None else kinds(first.value)
    values = cst.Call(
        cst.parse_expression("ops.tensor"), [args[0], argument("dtype", f"ops.{dtype}")]
    )
    listed = cst.List | cst.ListComp | cst.Tuple | cst.GeneratorExp
    given = (
        isinstance(first.value, cst.Name)
        and kinds is not None
        and (
            first.value.value in kinds.scope.parameters  # which may be a number as well
        )
    )
    known = kind in (*ARRAYS, "tensors", "list", "ndarray") and not given
    if isinstance(first.value, listed) or known:
        return values, ""
    if kind in ("number", "shape") or isinstance(first.value, cst.BinaryOperation | cst.Integer):
        return empty, ""
    if isinstance(first.value, cst.Name | cst.Attribute):
        text = code(args[0].value)
        return cst.IfExp(
            cst.parse_expression(f"isinstance({text}, int)"), empty, values,
            lpar=[cst.LeftParen()], rpar=[cst.RightParen()],
        ), ""  # fmt: skip
    text = code(original)
    return values, f"{text}: a shape or values? write torch.empty or torch.tensor"


def own_call(
    scope: Scope, original: cst.Call, updated: cst.Call, needs: Needs
) -> tuple[cst.Call, str]:
    """A call of the program's own function, without the arguments that it no longer has.

    Returns:
        The call, and which argument would be lost, or "".
    """
    definition = scope.source.definition(original.func)
    gone: dict[int, str] = {}
    if definition is not None:
        gone = dict(definition.source.removed.get(definition.name, ()))
    else:
        for unit in needs.targets(original, scope):
            owner = unit.definition.name
            key = owner if unit.method == "__init__" else f"{owner}.{unit.method}"
            gone |= dict(unit.definition.source.removed.get(key, ()))
    if not gone or any(a.star == "*" for a in original.args):
        return updated, ""
    names = set(gone.values())
    kept, wrong = [], ""
    for index, (old, arg) in enumerate(zip(original.args, updated.args, strict=True)):
        keyword = arg.keyword.value if arg.keyword is not None else ""
        name = keyword if keyword in names else "" if keyword or arg.star else gone.get(index, "")
        if not name:
            kept.append(arg)
        elif not _is_nothing(old.value, name):
            text = code(old.value)
            wrong = f"the argument {name}={text} is left out; weights are loaded by their names"
    if kept and len(kept) < len(updated.args):
        kept[-1] = kept[-1].with_changes(comma=updated.args[-1].comma)
    return updated.with_changes(args=kept), wrong


def _is_nothing(node: Any, name: str) -> bool:
    """Whether leaving out an argument changes nothing in jaxnet."""
    if name == "progress" or (name == "device" and says_device(node)):
        return True
    return isinstance(node, cst.Name) and node.value in ("None", "False", name)


def bound(updated: cst.Call | None, value: Any) -> Any:
    """A function that takes `rngs`, as one that has it: `partial(f, rngs=rngs)`.

    Args:
        updated: The call `partial(f, ...)` if it is one already.
        value: The rewritten function.
    """
    if updated is not None:
        return with_rngs(updated, "rngs")
    return cst.parse_expression(f"partial({code(value)}, rngs=rngs)")


def rngs_parameter(node: cst.FunctionDef, optional: bool, annotated: bool) -> cst.FunctionDef:
    """A function that takes `rngs` by its name."""
    params = node.params
    bare = cst.SimpleWhitespace("")
    annotation = cst.Annotation(cst.Name("Generator")) if annotated else None
    if annotated and optional:
        annotation = cst.Annotation(cst.parse_expression("Generator | None"))
    default: dict[str, Any] = {}
    if optional:
        space = cst.SimpleWhitespace(" ") if annotated else bare
        equal = cst.AssignEqual(whitespace_before=space, whitespace_after=space)
        default = {"default": cst.Name("None"), "equal": equal}
    new = cst.Param(cst.Name("rngs"), annotation, **default)
    star = params.star_arg
    keywords = list(params.kwonly_params)
    if not keywords and not isinstance(star, cst.Param):
        star = cst.ParamStar(cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))
        last: Any = params.params[-1] if params.params else None
        if last is not None and isinstance(last.comma, cst.Comma):
            # The arguments were one on each line, with a comma after the last.
            new = new.with_changes(comma=last.comma)
    else:
        last = keywords[-1] if keywords else star
        if isinstance(last, cst.Param) and isinstance(last.comma, cst.Comma):
            new = new.with_changes(comma=last.comma)
    if params.star_kwarg is not None:
        new = new.with_changes(comma=cst.Comma(whitespace_after=cst.SimpleWhitespace(" ")))
    return node.with_changes(
        params=params.with_changes(star_arg=star, kwonly_params=[*keywords, new])
    )
