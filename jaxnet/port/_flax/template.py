"""Puts the arguments of a call into an expression."""

import dataclasses
import inspect
from typing import Any

import libcst as cst

from jaxnet.port._names import jaxnet_value
from jaxnet.port._nodes import Variables, code, read_names

_MANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclasses.dataclass(frozen=True)
class Filled:
    """An expression with the arguments of a call.

    Attributes:
        new: It, or None.
        problem: Why there is none.
    """

    new: Any = None
    problem: str = ""


def filled(dotted: str, call: cst.Call, rows: tuple[str, ...], required: str) -> Filled:
    """The first of some expressions that has a place for all arguments of a call.

    Args:
        dotted: jaxnet's function.
        call: The call.
        rows: The expressions.
        required: A parameter that has to be given.
    """
    if not rows:
        return Filled()
    bound = _bound(dotted, call)
    if isinstance(bound, str):
        return Filled(problem=bound)
    parameters, given = bound
    given.pop("inplace", None)  # what it changes is settled when a definition is ported
    given = {
        name: value for name, value in given.items()
        if isinstance(value, list) or code(value) != repr(parameters[name].default)
        or parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
    }  # fmt: skip
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in _MANY]
    for name in [*needed, *([required] if required else [])]:
        if name not in given:
            return Filled(problem=f"{name} is not given")
    for row in rows:
        template = cst.parse_expression(row)
        names = {n for n in read_names(template) if n in parameters}
        if given.keys() <= names and _has_all(template, parameters, given):
            return Filled(template.visit(_Filler(parameters, given)))  # type: ignore[arg-type]
    return Filled(problem=f"these arguments have no expression: {', '.join(given)}")


def _bound(
    dotted: str, call: cst.Call
) -> str | tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The arguments of a call by the names of the function's parameters."""
    value = jaxnet_value(dotted)
    parameters = dict(inspect.signature(value).parameters)
    order = [p for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
    given: dict[str, Any] = {}
    for index, arg in enumerate(call.args):
        if arg.star == "**":
            return "arguments in a dict"
        if arg.keyword is not None:
            if arg.keyword.value not in parameters:
                return f"the argument {arg.keyword.value}= is not there"
            given[arg.keyword.value] = arg.value
            continue
        place = next((p for p in order[: index + 1] if p.kind is p.VAR_POSITIONAL), None)
        if place is not None:
            given.setdefault(place.name, []).append(arg)
        elif arg.star or index >= len(order):
            return "arguments in a sequence" if arg.star else "too many arguments"
        else:
            given[order[index].name] = arg.value
    return parameters, given


def _has_all(template: Any, parameters: Any, given: dict[str, Any]) -> bool:
    """Whether what stands in an expression is given, or is an argument that can be left out."""
    loose: set[str] = set()

    class Arguments(cst.CSTVisitor):
        def visit_Arg(self, node: cst.Arg) -> None:
            if isinstance(node.value, cst.Name):
                loose.add(node.value.value)

    template.visit(Arguments())
    return all(n in given or n in loose for n in read_names(template) if n in parameters)


class _Filler(Variables):
    def __init__(self, parameters: dict[str, inspect.Parameter], given: dict[str, Any]) -> None:
        super().__init__()
        self.parameters, self.given = parameters, given

    def visit_Arg(self, node: cst.Arg) -> None:
        super().visit_Arg(node)
        if isinstance(node.value, cst.Name):
            self.words.add(id(node.value))  # which leave_Call replaces

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> Any:
        args: list[cst.Arg] = []
        left: list[cst.Arg] = []  # positions without an argument, which others may follow
        for old, arg in zip(original_node.args, updated_node.args, strict=True):
            name = old.value.value if isinstance(old.value, cst.Name) else ""
            if name in self.parameters and name not in self.given:
                if old.keyword is None:
                    default = cst.parse_expression(repr(self.parameters[name].default))
                    left.append(arg.with_changes(value=default))
                continue
            if old.keyword is None:
                args += left
                left = []
            args += self._argument(name, arg) if name in self.parameters else [arg]
        return updated_node.with_changes(args=with_commas(args))

    def _argument(self, name: str, arg: cst.Arg) -> list[cst.Arg]:
        value = self.given[name]
        if isinstance(value, list):
            if arg.star:
                return value
            return [arg.with_changes(value=_tuple(value))]
        if name in ("dim", "dims", "axis") and isinstance(value, cst.List):
            value = cst.Tuple(value.elements)
        return [arg.with_changes(value=_open(value))]

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> Any:
        name = original_node.value
        if id(original_node) in self.words or name not in self.given:
            return updated_node
        value = self.given[name]
        return _atom(_tuple(value) if isinstance(value, list) else value)


def _tuple(args: list[cst.Arg]) -> Any:
    """What is given for *sizes: one tuple, or several numbers."""
    if len(args) == 1 and not args[0].star:
        one = args[0].value
        return cst.Tuple(one.elements) if isinstance(one, cst.List) else one
    space = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    elements: list[Any] = [
        cst.StarredElement(a.value, comma=space) if a.star else cst.Element(a.value, comma=space)
        for a in args
    ]
    if len(elements) > 1:
        elements[-1] = elements[-1].with_changes(comma=cst.MaybeSentinel.DEFAULT)
    return cst.Tuple(elements)


def with_commas(args: list[cst.Arg]) -> list[cst.Arg]:
    """Arguments on one line."""
    space = cst.Comma(whitespace_after=cst.SimpleWhitespace(" "))
    last = len(args) - 1
    return [
        arg.with_changes(comma=cst.MaybeSentinel.DEFAULT if i == last else space)
        for i, arg in enumerate(args)
    ]


def _open(node: Any) -> Any:
    """An argument without brackets that it does not need."""
    loose = cst.BinaryOperation | cst.UnaryOperation | cst.Comparison | cst.Call
    single = isinstance(node, loose) and len(node.lpar) == 1
    if single and isinstance(node.lpar[0].whitespace_after, cst.SimpleWhitespace):
        return node.with_changes(lpar=[], rpar=[])
    return node


def _atom(node: Any) -> Any:
    """An expression in brackets where it is not one name, call or number."""
    simple = cst.Name | cst.Attribute | cst.Call | cst.Subscript | cst.Integer | cst.Float
    if isinstance(node, simple) or node.lpar:
        return node
    return node.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
