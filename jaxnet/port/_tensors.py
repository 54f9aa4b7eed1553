"""Methods of tensors as functions of arrays, and changes in place as new values."""

from typing import Any

import libcst as cst

from jaxnet import ops
from jaxnet.nn import functional
from jaxnet.port._kinds import ARRAYS, LIKELY, ONLY_ARRAYS, Kinds
from jaxnet.port._names import LEFT_OUT, NOTHING_KNOWN, tensor_type
from jaxnet.port._nodes import code, is_self

SAME = {"reshape", "item", "tolist"}
"""Methods that arrays of JAX have too, with the same arguments."""

NOTHING = {"contiguous", "cuda", "cpu", "requires_grad_", "pin_memory"}
"""Methods that give back what they are called on."""

_RENAMED = {
    "nelement": "numel", "byte": "uint8", "char": "int8", "view_as": "reshape_as",
    "unsafe_chunk": "chunk", "unsafe_split": "split", "inverse": "linalg.inv", "det": "linalg.det",
    "slogdet": "linalg.slogdet", "pinverse": "linalg.pinv", "matrix_power": "linalg.matrix_power",
}  # fmt: skip
_OPERATORS: dict[str, Any] = {
    "add": cst.Add,
    "sub": cst.Subtract,
    "mul": cst.Multiply,
    "div": cst.Divide,
}
_AT = {"add": "add", "mul": "multiply", "div": "divide", "copy": "set", "fill": "set",
       "zero": "set", "pow": "power"}  # fmt: skip
AUGMENTED = {
    cst.AddAssign: "add", cst.MultiplyAssign: "multiply", cst.DivideAssign: "divide",
    cst.PowerAssign: "power",
}  # fmt: skip
"""What `x[i] += y` is with `x.at[i]`."""
OPERATIONS: dict[Any, Any] = {
    cst.AddAssign: cst.Add, cst.SubtractAssign: cst.Subtract, cst.MultiplyAssign: cst.Multiply,
    cst.DivideAssign: cst.Divide, cst.PowerAssign: cst.Power, cst.ModuloAssign: cst.Modulo,
    cst.FloorDivideAssign: cst.FloorDivide, cst.BitAndAssign: cst.BitAnd,
    cst.BitOrAssign: cst.BitOr, cst.BitXorAssign: cst.BitXor,
}  # fmt: skip
"""The operators of statements such as `x += y`."""


def function_of(
    kinds: Kinds, original: cst.Call, updated: cst.Call, generator: bool
) -> tuple[Any, str]:
    """What a call of a tensor's method is in jaxnet.

    Args:
        kinds: The kinds of the expressions of the function.
        original: The call in the source.
        updated: The call with its parts rewritten.
        generator: Whether draws are from `rngs`.

    Returns:
        The expression, or None where the call is none of a tensor's; and what is wrong.
    """
    method = original.func
    assert isinstance(method, cst.Attribute)
    assert isinstance(updated.func, cst.Attribute)
    name = method.attr.value
    kind = kinds(method.value)
    if name in ("backward", "zero_grad"):
        return None, f"{name}: gradients are values; a step of train.make_train_step takes them"
    plain = name.removesuffix("_") if name.endswith("_") and name[-2:] != "__" else name
    likely = name in ONLY_ARRAYS or plain != name or (kinds.computing and name in LIKELY)
    array = kind in ARRAYS or (kind is None and likely)
    if not array or is_self(method.value):
        return None, ""
    receiver = updated.func.value
    arguments = [a for a in updated.args if a.keyword is None or a.keyword.value not in LEFT_OUT]
    if plain != name and plain not in ops.__all__ and f"{plain}_" not in FILLS:
        if name in NOTHING:
            return receiver, ""
        return None, f"Tensor.{name}: {NOTHING_KNOWN}"
    if name in NOTHING or (name == "detach" and kinds.scope.host):
        return receiver, ""
    if name == "view" and not any(_is_dtype(kinds, a.value) for a in original.args):
        return updated.with_changes(func=updated.func.with_changes(attr=cst.Name("reshape"))), ""
    if name in SAME:
        return updated, ""
    if name == "size":
        shape = cst.Attribute(receiver, cst.Name("shape"))
        if not arguments:
            return shape, ""
        return cst.Subscript(shape, [cst.SubscriptElement(cst.Index(arguments[0].value))]), ""
    if name in ("dim", "ndimension"):
        return cst.Attribute(receiver, cst.Name("ndim")), ""
    if name in ("numel", "nelement"):
        return cst.Attribute(receiver, cst.Name("size")), ""
    if name == "type":
        return _type(kinds, original, receiver, arguments)
    if name == "to":
        return _to(kinds, original, receiver, list(updated.args))
    if name in FILLS:
        return _filled(name, receiver, arguments, generator), ""
    function = _RENAMED.get(plain, plain)
    if function.partition(".")[0] in ops.__all__:
        return _call(f"ops.{function}", receiver, *arguments), ""
    if function in functional.__all__:
        return _call(f"nn.functional.{function}", receiver, *arguments), ""
    if kind is None:
        return None, ""
    try:
        getattr(ops, plain)
    except AttributeError as error:
        _, found, words = str(error).partition("; in jaxnet, ")
        return None, f"Tensor.{name}: {words if found else NOTHING_KNOWN}"
    return None, ""


FILLS = {"zero_", "fill_", "copy_", "normal_", "uniform_", "bernoulli_", "exponential_"}


def _filled(name: str, receiver: Any, arguments: list[Any], generator: bool) -> Any:
    """The array that a tensor becomes when it is filled."""
    drawn = [argument("generator", "rngs")] if generator else []
    if name == "zero_":
        return _call("ops.zeros_like", receiver)
    if name == "fill_":
        return _call("ops.full_like", receiver, *arguments)
    if name == "copy_":
        return _call("ops.to", _call("ops.expand_as", arguments[0].value, receiver),
                     cst.Attribute(receiver, cst.Name("dtype")))  # fmt: skip
    if name == "normal_":
        shape = _new_shape(receiver)
        named = {a.keyword.value: a.value for a in arguments if a.keyword is not None}
        given = [a.value for a in arguments if a.keyword is None]
        mean = given[0] if given else named.get("mean", cst.Float("0.0"))
        std = given[1] if len(given) > 1 else named.get("std", cst.Float("1.0"))
        return _call("ops.normal", mean, std, shape, *drawn)
    return _call(f"ops.{name[:-1]}", receiver, *arguments, *drawn)


def _new_shape(receiver: Any) -> Any:
    """The shape of an array: of `ops.empty(2, 3)` the arguments, else its attribute."""
    if isinstance(receiver, cst.Call) and len(receiver.args) >= 1:
        name = cst.helpers.get_full_name_for_node(receiver.func)
        plain = all(a.keyword is None and not a.star for a in receiver.args)
        if name in ("ops.empty", "ops.zeros") and plain:
            if len(receiver.args) == 1 and isinstance(receiver.args[0].value, cst.Tuple):
                return receiver.args[0].value
            return cst.Tuple([cst.Element(a.value) for a in receiver.args])
    return cst.Attribute(receiver, cst.Name("shape"))


def _to(kinds: Kinds, original: cst.Call, receiver: Any, arguments: list[Any]) -> tuple[Any, str]:
    """What x.to(...) is: another dtype, or nothing for another device."""
    for old, new in zip(original.args, arguments, strict=False):
        keyword = old.keyword.value if old.keyword is not None else ""
        if keyword in ("device", "non_blocking", "memory_format", "copy"):
            continue
        kind = kinds(old.value)
        if kind in ARRAYS and not keyword:
            return _call("ops.type_as", receiver, new.value), ""
        if keyword == "dtype" or kind == "dtype" or _is_dtype(kinds, old.value):
            return _call("ops.to", receiver, new.value), ""
        if kind in ("device", "text") or _says_device(old.value):
            continue
        return None, f"{code(original)}: a dtype or a device?"
    return receiver, ""


def _type(kinds: Kinds, original: cst.Call, receiver: Any, arguments: list[Any]) -> tuple[Any, str]:
    """What x.type(torch.LongTensor) and x.type("torch.LongTensor") are."""
    if len(arguments) == 1 and not original.args[0].star:
        value = original.args[0].value
        text = kinds.source.qualified(value) or ""
        if isinstance(value, cst.SimpleString):
            text = str(value.evaluated_value)
        dtype = tensor_type(text)
        if dtype is not None:
            return _call("ops.to", receiver, cst.parse_expression(f"ops.{dtype}")), ""
        if _is_dtype(kinds, value):
            dotted = kinds.outside(value) or ""
            known = dotted.startswith("torch.") and value is arguments[0].value
            new = cst.parse_expression(f"ops.{dotted[6:]}") if known else arguments[0].value
            return _call("ops.to", receiver, new), ""
    words = "x.type() is a text of torch's; ask for x.dtype" if not arguments else "which dtype?"
    return None, f"{code(original)}: {words}"


def _says_device(node: Any) -> bool:
    text = code(node)
    return "device" in text or "torch.channels_last" in text


def _is_dtype(kinds: Kinds, node: Any) -> bool:
    if kinds(node) == "dtype":
        return True
    text = code(node)
    return text.endswith(("dtype", "_type"))


def in_place_value(name: str, target: Any, arguments: list[Any]) -> Any:
    """The value of `x.add_(y)` and the like as an operator, or None."""
    operator = _OPERATORS.get(name.removesuffix("_"))
    if operator is None or len(arguments) != 1 or arguments[0].keyword is not None:
        return None
    value = arguments[0].value
    if isinstance(value, cst.BinaryOperation | cst.IfExp | cst.Comparison) and not value.lpar:
        value = value.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    return cst.BinaryOperation(target, operator(), value)


def at(target: cst.Subscript, operation: str, value: Any) -> Any:
    """The expression `x.at[i].set(value)` for `x[i]`."""
    place = target.with_changes(value=cst.Attribute(target.value, cst.Name("at")))
    return cst.Call(cst.Attribute(place, cst.Name(operation)), [cst.Arg(value)])


def at_of_method(name: str, target: cst.Subscript, arguments: list[Any]) -> Any:
    """The expression for `x[i].add_(y)` and the like, or None."""
    plain = name.removesuffix("_")
    operation = _AT.get(plain)
    if operation is None or len(arguments) > 1 or any(a.keyword or a.star for a in arguments):
        return None
    return at(target, operation, arguments[0].value if arguments else cst.Integer("0"))


def argument(keyword: str, value: str) -> cst.Arg:
    """The argument `keyword=value` of a call."""
    bare = cst.SimpleWhitespace("")
    equal = cst.AssignEqual(whitespace_before=bare, whitespace_after=bare)
    return cst.Arg(cst.parse_expression(value), keyword=cst.Name(keyword), equal=equal)


def _call(function: str, *arguments: Any) -> cst.Call:
    args = [a if isinstance(a, cst.Arg) else cst.Arg(_bare(a)) for a in arguments]
    args = [
        a.with_changes(comma=cst.MaybeSentinel.DEFAULT) if i == len(args) - 1 else a
        for i, a in enumerate(args)
    ]
    return cst.Call(cst.parse_expression(function), args)


def _bare(node: Any) -> Any:
    """An expression without the brackets around it, where it needs none as an argument."""
    loose = cst.BinaryOperation | cst.UnaryOperation | cst.Call | cst.Comparison | cst.IfExp
    simple = isinstance(node, loose) and len(getattr(node, "lpar", ())) == 1
    if simple and isinstance(node.lpar[0].whitespace_after, cst.SimpleWhitespace):
        return node.with_changes(lpar=[], rpar=[])
    return node
