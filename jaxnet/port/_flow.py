"""Which names the statements of a program read and bind, and what comes first."""

from collections.abc import Iterator, Sequence
from typing import Any

import libcst as cst

from jaxnet.port._nodes import Targets, parts_of

LOOPS = cst.For | cst.While
_COMPREHENSIONS = cst.ListComp | cst.GeneratorExp | cst.SetComp | cst.DictComp
COMPOUND = cst.For | cst.While | cst.If | cst.With | cst.Try


class _Bound(Targets):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def bound(self, name: str) -> None:
        self.names.add(name)

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        self.names.add(node.name.value)
        return False

    def visit_ClassDef(self, node: cst.ClassDef) -> bool:
        self.names.add(node.name.value)
        return False

    def visit_Lambda(self, node: cst.Lambda) -> bool:
        return False

    def visit_CompFor(self, node: cst.CompFor) -> None:
        pass  # a comprehension has names of its own

    def visit_ImportAlias(self, node: cst.ImportAlias) -> bool:
        self.names.add((node.evaluated_alias or node.evaluated_name).partition(".")[0])
        return False


def bound_names(*nodes: Any) -> set[str]:
    """The names that statements bind."""
    visitor = _Bound()
    for node in nodes:
        node.visit(visitor)
    return visitor.names


class _Read(cst.CSTVisitor):
    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, None] = {}
        self.hidden: list[set[str]] = []

    def visit_Attribute(self, node: cst.Attribute) -> bool:
        node.value.visit(self)
        return False

    def visit_Arg(self, node: cst.Arg) -> bool:
        node.value.visit(self)
        return False

    def visit_AssignTarget(self, node: cst.AssignTarget) -> bool:
        self._of_target(node.target)
        return False

    def visit_For(self, node: cst.For) -> bool:
        self._of_target(node.target)
        for part in (node.iter, node.body, node.orelse):
            if part is not None:
                part.visit(self)
        return False

    def visit_AsName(self, node: cst.AsName) -> bool:
        return False

    def visit_Global(self, node: cst.Global) -> bool:
        return False

    def _of_target(self, target: Any) -> None:
        if isinstance(target, cst.Tuple | cst.List):
            for element in target.elements:
                self._of_target(element.value)
        elif not isinstance(target, cst.Name):
            target.visit(self)

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, _COMPREHENSIONS):
            inner: set[str] = set()
            part: Any = node.for_in
            while part is not None:
                inner |= bound_names_of_target(part.target)
                part = part.inner_for_in
            self.hidden.append(inner)
        return super().on_visit(node)

    def on_leave(self, original_node: cst.CSTNode) -> None:
        super().on_leave(original_node)
        if isinstance(original_node, _COMPREHENSIONS):
            self.hidden.pop()

    def visit_Lambda(self, node: cst.Lambda) -> None:
        self.hidden.append({p.name.value for p in node.params.params})

    def leave_Lambda(self, original_node: cst.Lambda) -> None:
        self.hidden.pop()

    def visit_FunctionDef(self, node: cst.FunctionDef) -> bool:
        self.hidden.append(bound_names(node.params, node.body))
        node.body.visit(self)
        self.hidden.pop()
        return False

    def visit_Name(self, node: cst.Name) -> None:
        if not any(node.value in names for names in self.hidden):
            self.names.setdefault(node.value)


def bound_names_of_target(target: Any) -> set[str]:
    """The names in the target of an assignment or a loop."""
    if isinstance(target, cst.Name):
        return {target.value}
    if isinstance(target, cst.Tuple | cst.List):
        return {n for e in target.elements for n in bound_names_of_target(e.value)}
    if isinstance(target, cst.StarredElement):
        return bound_names_of_target(target.value)
    return set()


def names_read(*nodes: Any) -> dict[str, None]:
    """The names that statements or expressions read, in their order."""
    visitor = _Read()
    for node in nodes:
        node.visit(visitor)
    return visitor.names


def body_of(node: Any) -> list[Any]:
    """The statements of a block."""
    return list(node.body) if isinstance(node, cst.IndentedBlock) else []


def blocks(statement: Any) -> list[Any]:
    """The blocks of a statement, with those of its other branches."""
    if not isinstance(statement, COMPOUND):
        return []
    found = [statement.body]
    for name in ("orelse", "finalbody"):
        other = getattr(statement, name, None)
        if isinstance(other, cst.If):
            found += blocks(other)
        elif other is not None:
            found.append(other.body)
    found += [handler.body for handler in getattr(statement, "handlers", ())]
    return found


def lists(statements: Sequence[Any]) -> Iterator[tuple[list[Any], tuple[Any, ...]]]:
    """Each list of statements, and the statements that it is in, from the outermost."""
    stack: list[tuple[list[Any], tuple[Any, ...]]] = [(list(statements), ())]
    while stack:
        here, above = stack.pop(0)
        yield here, above
        for statement in here:
            stack += [(body_of(block), (*above, statement)) for block in blocks(statement)]


def header_of(statement: Any) -> list[Any]:
    """A statement, or what a compound one has beside its blocks."""
    if not isinstance(statement, COMPOUND):
        return [statement]
    found = [getattr(statement, "iter", None), getattr(statement, "test", None)]
    found += [item.item for item in getattr(statement, "items", ())]
    return [part for part in found if part is not None]


def first_use(statements: Sequence[Any], name: str) -> str:
    """What statements do with a name first: "read", "bound", or "" for nothing."""
    for statement in statements:
        if isinstance(statement, COMPOUND):
            if name in names_read(*header_of(statement)):
                return "read"
            if isinstance(statement, cst.For) and name in bound_names_of_target(statement.target):
                continue
            uses = [first_use(body_of(block), name) for block in blocks(statement)]
            if "read" in uses:
                return "read"
            if isinstance(statement, cst.With) and uses == ["bound"]:
                return "bound"
        elif name in names_read(statement):
            return "read"
        elif name in bound_names(statement):
            return "bound"
    return ""


def is_live(
    name: str, place: list[Any], index: int, above: Sequence[Any], whole: list[Any]
) -> bool:
    """Whether a name may be read after a statement before it has another value.

    Args:
        name: The name.
        place: The list of statements.
        index: The number of the statement in it.
        above: The statements that the list is in, from the outermost.
        whole: The statements of the function.
    """
    use = first_use(place[index + 1 :], name)
    if use:
        return use == "read"
    for depth in range(len(above) - 1, -1, -1):
        statement = above[depth]
        if isinstance(statement, LOOPS):
            targets = bound_names_of_target(getattr(statement, "target", None))
            again = "bound" if name in targets else first_use(body_of(statement.body), name)
            if again == "read" or (
                isinstance(statement, cst.While) and name in names_read(statement.test)
            ):
                return True
        outer = (
            whole
            if depth == 0
            else next(
                found
                for found, over in lists(whole)
                if over == tuple(above[:depth]) and any(one is statement for one in found)
            )
        )
        position = next(i for i, one in enumerate(outer) if one is statement)
        use = first_use(outer[position + 1 :], name)
        if use:
            return use == "read"
    return False


def has(node: Any, *kinds: Any) -> bool:
    """Whether a part of a program has a node of some kinds in it."""
    return any(isinstance(part, kinds) for part in parts_of(node))


def calls_in(*nodes: Any) -> list[cst.Call]:
    """The calls in a part of a program."""
    return [part for node in nodes for part in parts_of(node) if isinstance(part, cst.Call)]


def call_of(statement: Any) -> cst.Call | None:
    """The call that a statement is, or None."""
    if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
        part = statement.body[0]
        if isinstance(part, cst.Expr) and isinstance(part.value, cst.Call):
            return part.value
    return None


def assignment_of(statement: Any) -> cst.Assign | None:
    """The assignment with one target that a statement is, or None."""
    if isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
        part = statement.body[0]
        if isinstance(part, cst.Assign) and len(part.targets) == 1:
            return part
    return None


def method_of(call: Any) -> tuple[str, str]:
    """The name and the method of a call `name.method(...)`, or two empty texts."""
    function = call.func if isinstance(call, cst.Call) else None
    if isinstance(function, cst.Attribute) and isinstance(function.value, cst.Name):
        return function.value.value, function.attr.value
    return "", ""


def callee_of(call: cst.Call) -> str:
    """The name of the function that is called; "" where it is no plain name."""
    return call.func.value if isinstance(call.func, cst.Name) else ""


def is_backward(call: Any) -> bool:
    """Whether it is a call `loss.backward()`."""
    return (
        call is not None
        and isinstance(call.func, cst.Attribute)
        and call.func.attr.value == "backward"
    )


def backward_calls(node: Any) -> list[cst.Call]:
    """The calls `loss.backward()` in a part of a program."""
    return [call for call in calls_in(node) if is_backward(call)]
