"""Parameter groups: lists of a model's parameters, as choices by their names and shapes.

PyTorch's optimizer takes the lists themselves; a state has its parameters by name, so that a list
becomes the condition by which it was sorted out. It is taken only where it is sure that each
parameter is in exactly one group.
"""

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._flow import (
    COMPOUND,
    assignment_of,
    bound_names,
    bound_names_of_target,
    call_of,
    calls_in,
    header_of,
    lists,
    method_of,
    names_read,
)
from jaxnet.port._layers import parts_with_parameters
from jaxnet.port._nodes import code, is_name, parts_of
from jaxnet.port._steps import (
    NotUnderstoodError,
    changed_names,
    code_line,
    root_of,
)

if TYPE_CHECKING:
    from jaxnet.port._roles import Part
    from jaxnet.port._source import Source

_OF_TEXTS = {"startswith", "endswith", "lower", "upper", "split", "rsplit", "count", "find"}
_BUILTINS = {"any", "all", "len"}
_WRAPPERS = re.compile(r"torch\.compile|DataParallel|FullyShardedDataParallel")
"""What gives PyTorch's parameters other names than the model's own."""

_LOOKS = {"to", "double", "float", "cuda", "cpu", "train", "eval", "parameters", "state_dict"}
_OTHERWISE: dict[type, type] = {
    cst.In: cst.NotIn, cst.Equal: cst.NotEqual, cst.LessThan: cst.GreaterThanEqual,
    cst.GreaterThan: cst.LessThanEqual, cst.Is: cst.IsNot,
}  # fmt: skip
_OTHERWISE |= {other: one for one, other in _OTHERWISE.items()}
_TEXTS = cst.SimpleString | cst.Integer | cst.Float


@dataclasses.dataclass
class Groups:
    """The parameter groups of an optimizer.

    Attributes:
        model: The name of the model.
        choices: What chooses the parameters of each group but the last, as code.
        own: The hyperparameters of each group, by name.
        left_out: The statements that sort the parameters.
    """

    model: str
    choices: list[str]
    own: list[dict[str, Any]]
    left_out: list[Any]


@dataclasses.dataclass
class _Chosen:
    """The parameters of a group.

    Attributes:
        name: The variable of their names.
        parameter: The variable of the parameters.
        tests: The conditions, all of which they fulfil.
    """

    name: str
    parameter: str
    tests: list[Any]

    def lambda_of(self, test: Any) -> str:
        return f"lambda {self.name}, {self.parameter}: {code(test)}"


def groups_of(
    source: "Source", owner: "Part", place: list[Any], statement: Any, given: Any
) -> Groups | None:
    """The parameter groups that an optimizer is given, or None where it is no list of them.

    Args:
        source: The file.
        owner: The function, or the program, that makes the optimizer.
        place: The list of statements that it is made in.
        statement: The statement that makes it.
        given: The first argument of the optimizer.

    Raises:
        NotUnderstoodError: Which parameters are in a group is not known for sure.
    """
    before = place[: next(i for i, one in enumerate(place) if one is statement)]
    left_out: list[Any] = []
    if isinstance(given, cst.Name):
        for one in before:
            assign = assignment_of(one)
            if assign is not None and is_name(assign.targets[0].target, given.value):
                left_out, given = [one], assign.value
                break
    if not isinstance(given, cst.List) or not given.elements:
        return None
    if not all(isinstance(element.value, cst.Dict) for element in given.elements):
        return None
    own = [_entries(statement, element.value) for element in given.elements]
    return _Sorting(source, owner, statement, before, left_out).groups(own)


def _entries(statement: Any, group: Any) -> dict[str, Any]:
    """The entries of a group by their names."""
    found: dict[str, Any] = {}
    for element in group.elements:
        key = getattr(element, "key", None)
        if not isinstance(key, cst.SimpleString) or not str(key.evaluated_value).isidentifier():
            raise NotUnderstoodError(statement, f"{code(group)}: its keys are not texts")
        found[str(key.evaluated_value)] = element.value
    if "params" not in found:
        raise NotUnderstoodError(statement, f"{code(group)}: a group without params")
    return found


class _Sorting:
    """Reads the statements that sort the parameters of a model.

    Args:
        source: The file.
        owner: The function, or the program, that makes the optimizer.
        statement: The statement that makes it.
        before: The statements before it.
        left_out: The statements that are the groups' already.
    """

    def __init__(
        self, source: "Source", owner: "Part", statement: Any, before: list[Any], left_out: Any
    ) -> None:
        self.source, self.owner, self.statement = source, owner, statement
        self.before, self.left_out = before, left_out
        self.models: set[str] = set()
        self.names: set[str] = set()
        self.chosen: dict[str, _Chosen] = {}
        self.chains: list[list[tuple[Any, str]]] = []
        self.variables: _Chosen | None = None

    def refuse(self, node: Any, text: str) -> NotUnderstoodError:
        """An error at the statement that makes the optimizer, with the reason."""
        return NotUnderstoodError(
            node if node in (*self.before, self.statement) else self.statement,
            f"{text}; optim.groups chooses parameters by their names",
        )

    def groups(self, own: list[dict[str, Any]]) -> Groups:
        """The groups of an optimizer by their entries."""
        values = [entries.pop("params") for entries in own]
        names = [value.value for value in values if isinstance(value, cst.Name)]
        if len(set(names)) != len(names):
            raise self.refuse(self.statement, "a list that is given twice")
        self.names = set(names) | bound_names(*self.left_out)
        self._read_lists(set(names))
        choices = self._choices(values)
        if len(self.models) != 1:
            raise self.refuse(self.statement, f"parameters of several models: {self.models}")
        self._check_other_uses()
        (model,) = self.models
        self._check_model(model)
        self._check_values(own)
        return Groups(model, choices, own, self.left_out)

    def _choices(self, values: list[Any]) -> list[str]:
        """What chooses the parameters of all groups but the last."""
        if self.chains:
            if len(self.chains) > 1 or not all(isinstance(value, cst.Name) for value in values):
                raise self.refuse(self.statement, "lists of parameters of several kinds")
            return self._of_chain([value.value for value in values])
        paths = [self._path(value) for value in values]
        if all(paths):
            return self._of_parts([str(path) for path in paths])
        found = [self.chosen.get(code(value)) or self._comprehended(value) for value in values]
        for value, one in zip(values, found, strict=True):
            if one is None:
                raise self.refuse(self.statement, f"{code(value)}: which parameters?")
        every = [one for one in found if one is not None]
        tests = [_normal(one) for one in every]
        if len(every) == 1 and not every[0].tests:
            return []
        if len(every) != 2 or not _are_opposite(*tests):
            raise self.refuse(
                self.statement,
                "groups of which one has not the parameters that the other leaves, or that are "
                "more than two",
            )
        return [every[0].lambda_of(every[0].tests[0])]

    def _of_chain(self, order: list[str]) -> list[str]:
        (chain,) = self.chains
        sorts = [name for _, name in chain]
        if sorted(sorts) != sorted(order):
            raise self.refuse(self.statement, "a list of parameters that is in no group")
        variables = self.variables
        assert variables is not None
        if sorts == order:
            return [variables.lambda_of(test) for test, _ in chain[:-1]]
        if len(order) != 2:
            raise self.refuse(self.statement, "groups in another order than that of their tests")
        return [variables.lambda_of(_negated(chain[0][0]))]

    def _of_parts(self, paths: list[str]) -> list[str]:
        """The patterns of parts of the model, which have all of its parameters."""
        (model,) = self.models if len(self.models) == 1 else ("",)
        if paths == ["*"]:
            return []
        values = [
            assign.value for one in self.before if (assign := assignment_of(one)) is not None
            and is_name(assign.targets[0].target, model) and root_of(assign.value) != model
        ]  # fmt: skip
        made = values[-1] if values else None
        needed = None if made is None else parts_with_parameters(self.source, made)
        if any(self._touches(one, model) for one in self.before):
            needed = None
        if needed is None:
            raise self.refuse(
                self.statement,
                f"whether {' and '.join(paths)} are all parts of {model or 'one model'}, and share "
                "nothing, is not known",
            )
        left = sorted(needed - set(paths))
        if left or len(set(paths)) != len(paths):
            raise self.refuse(self.statement, f"{left or paths}: parameters in no group, or in two")
        return [f'"{path}.*"' for path in paths[:-1]]

    def _touches(self, statement: Any, model: str) -> bool:
        """Whether a statement may change which parameters a model has."""
        if any(statement is one for one in self.left_out) or model not in names_read(statement):
            return False
        call, assign = call_of(statement), assignment_of(statement)
        if assign is not None and is_name(assign.targets[0].target, model):
            call = assign.value if isinstance(assign.value, cst.Call) else None
        if call is None:
            return True
        root, method = method_of(call)
        if is_name(call.func, "print"):
            return any(
                is_name(arg.value, model)
                for inner in calls_in(call) if inner is not call for arg in inner.args
            )  # fmt: skip
        return root != model or method not in _LOOKS or model in names_read(*call.args)

    def _path(self, value: Any) -> str:
        """The part of a model whose parameters an expression is; "*" for all, or ""."""
        if (
            not isinstance(value, cst.Call)
            or value.args
            or not code(value).endswith(".parameters()")
        ):
            return ""  # fmt: skip
        text = code(value).removesuffix(".parameters()")
        model, _, path = text.partition(".")
        if not model.isidentifier() or not (path or "x").isidentifier():
            return ""
        self.models.add(model)
        return path or "*"

    # lists

    def _read_lists(self, names: set[str]) -> None:
        """Reads the statements that make the lists."""
        empty: set[str] = set()
        filled: set[str] = set()
        for one in self.before:
            if any(one is other for other in self.left_out):
                continue
            bound = bound_names(one)
            if not names & (bound | set(names_read(one))):
                continue
            assign = assignment_of(one)
            chosen = None if assign is None else self._comprehended(assign.value)
            new = self._empties(one)
            if chosen is not None and bound <= names and not bound & (set(self.chosen) | empty):
                self.chosen[bound.pop()] = chosen
            elif new and new <= names and not new & (empty | set(self.chosen)):
                empty |= new
            elif isinstance(one, cst.For):
                chain = self._chain(one)
                into = {name for _, name in chain}
                if not into <= empty or into & filled:
                    raise self.refuse(one, f"{code_line(one)}: lists of parameters that it adds to")
                filled |= into
                self.chains.append(chain)
            else:
                raise self.refuse(one, f"{code_line(one)}: a list of parameters")
            self.left_out.append(one)
        if missing := sorted(names - filled - set(self.chosen)):
            raise self.refuse(self.statement, f"{', '.join(missing)}: which parameters?")

    def _empties(self, statement: Any) -> set[str]:
        """The names that a statement gives empty lists, or nothing where it does more."""
        assign = assignment_of(statement)
        if assign is None:
            return set()
        target, value = assign.targets[0].target, assign.value
        targets: list[Any] = [target]
        values: list[Any] = [value]
        if isinstance(target, cst.Tuple) and isinstance(value, cst.Tuple):
            targets = [element.value for element in target.elements]
            values = [element.value for element in value.elements]
        if len(targets) != len(values) or not all(code(one) == "[]" for one in values):
            return set()
        names = {one.value for one in targets if isinstance(one, cst.Name)}
        return names if len(names) == len(targets) else set()

    def _over(self, target: Any, items: Any) -> tuple[str, str] | None:
        """The names of name and parameter of a loop over the parameters of a model."""
        model, method = method_of(items)
        if not isinstance(items, cst.Call) or items.args:
            return None
        if method == "parameters" and isinstance(target, cst.Name):
            self.models.add(model)
            return self._free_name(), target.value
        if method == "named_parameters" and isinstance(target, cst.Tuple):
            both = [element.value for element in target.elements]
            if len(both) == 2 and all(isinstance(one, cst.Name) for one in both):
                self.models.add(model)
                name, parameter = both[0].value, both[1].value  # type: ignore[attr-defined]
                return (name, parameter) if name != parameter else None
        return None

    def _free_name(self) -> str:
        """A variable for names that the program does not have."""
        words = set(re.findall(r"\w+", self.source.text))
        return next(word for word in ("name", "_name", "name_of_it") if word not in words)

    def _comprehended(self, value: Any) -> _Chosen | None:
        """The choice of `[p for n, p in model.named_parameters() if ...]`, or None."""
        if not isinstance(value, cst.ListComp | cst.GeneratorExp):
            return None
        inner = value.for_in
        over = self._over(inner.target, inner.iter)
        if over is None or inner.inner_for_in is not None or not is_name(value.elt, over[1]):
            return None
        tests = [part for one in inner.ifs for part in _conjuncts(one.test)]
        tests = [self._checked(t, *over) for t in tests if not self._is_trained(t, over[1])]
        if len(tests) > 1:
            whole: Any = cst.parse_expression(" and ".join(f"({code(test)})" for test in tests))
            tests = [whole]
        return _Chosen(*over, tests)

    def _chain(self, loop: cst.For) -> list[tuple[Any, str]]:
        """The conditions of a loop, and the lists to which it adds parameters; the last has all."""
        over = self._over(loop.target, loop.iter)
        wrong = self.refuse(loop, f"{code_line(loop)}: how it sorts the parameters")
        if over is None or loop.orelse is not None:
            raise wrong
        body = _body(loop.body)
        first = body[0] if body else None
        if isinstance(first, cst.If) and first.orelse is None and len(_body(first.body)) == 1:
            skips = code(_body(first.body)[0]).strip() == "continue"
            opposite = isinstance(first.test, cst.UnaryOperation) and isinstance(
                first.test.operator, cst.Not
            )
            if skips and opposite and self._is_trained(first.test.expression, over[1]):  # type: ignore[attr-defined]
                body = body[1:]
        if len(body) != 1:
            raise wrong
        found: list[tuple[Any, str]] = []
        node: Any = body[0]
        while isinstance(node, cst.If):
            found.append((self._checked(node.test, *over), self._added(node.body, over[1], wrong)))
            node = node.orelse
        if isinstance(node, cst.Else):
            found.append((None, self._added(node.body, over[1], wrong)))
        elif not found:
            name = self._added_by_choice(node, over[1], wrong)
            found = [(self._checked(name.test, *over), code(name.body)), (None, code(name.orelse))]
        else:
            raise self.refuse(loop, f"{code_line(loop)}: parameters in no group, without an else")
        merged: list[tuple[Any, str]] = []
        for test, name in found:
            if merged and merged[-1][1] == name:
                before = merged.pop()[0]
                if test is not None:
                    test = cst.parse_expression(f"({code(before)}) or ({code(test)})")
            merged.append((test, name))
        if len({name for _, name in merged}) != len(merged) or len(merged) < 2:
            raise wrong
        self.variables = _Chosen(*over, [])
        return merged

    def _added(self, block: Any, parameter: str, wrong: Exception) -> str:
        """The list to which a branch adds the parameter, and does nothing else."""
        body = _body(block)
        call = call_of(body[0]) if len(body) == 1 else None
        if isinstance(body[0], cst.Expr):
            call = body[0].value if len(body) == 1 else None  # type: ignore[assignment]
        name, method = method_of(call)
        if method != "append" or call is None or len(call.args) != 1:
            raise wrong
        if not is_name(call.args[0].value, parameter):
            raise wrong
        return name

    def _added_by_choice(self, node: Any, parameter: str, wrong: Exception) -> Any:
        """`a if test else b` of `(a if test else b).append(p)`."""
        call: Any = call_of(node)
        function: Any = None if call is None else call.func
        holder = function.value if isinstance(function, cst.Attribute) else None
        if not isinstance(holder, cst.IfExp) or function.attr.value != "append":
            raise wrong
        if len(call.args) != 1 or not is_name(call.args[0].value, parameter):
            raise wrong
        return holder

    # conditions

    def _is_trained(self, test: Any, parameter: str) -> bool:
        """Whether a test asks for a gradient, which all parameters of a program have here."""
        if code(test) != f"{parameter}.requires_grad":
            return False
        for call in calls_in(self.source.whole_tree):
            made = self.source.imported(call.func) == "torch.nn.Parameter"
            asked = [a for a in call.args if is_name(a.keyword, "requires_grad")]
            asked += [a for a in call.args[1:] if made and a.keyword is None]
            if all(is_name(arg.value, "True") for arg in asked):
                continue
            raise self.refuse(self.statement, f"{code(test)}: some parameters may not be trained")
        return True

    def _checked(self, test: Any, name: str, parameter: str) -> Any:
        """A condition on a name and a parameter, as one on an array."""
        wrong = self.refuse(self.statement, f"{code(test)}: a test that is not of names and shapes")
        if _WRAPPERS.search(self.source.text):
            raise self.refuse(self.statement, f"{code(test)}: names of a model that is wrapped")
        shapes: set[int] = set()
        own = {name, parameter} | {
            n for part in parts_of(test) if isinstance(part, cst.CompFor)
            for n in bound_names_of_target(part.target)
        }  # fmt: skip
        called: set[int] = set()
        for part in parts_of(test):
            if isinstance(part, cst.NamedExpr | cst.Lambda | cst.Yield | cst.Await):
                raise wrong
            if isinstance(part, cst.Call):
                called.add(id(part.func))
                function: Any = part.func
                of_array = isinstance(function, cst.Attribute) and is_name(
                    function.value, parameter
                )
                if of_array and function.attr.value in ("dim", "numel") and not part.args:  # type: ignore[attr-defined]
                    shapes.add(id(function.value))  # type: ignore[attr-defined]
                elif isinstance(function, cst.Attribute):
                    if function.attr.value not in _OF_TEXTS or of_array:
                        raise wrong
                elif not is_name(function, *_BUILTINS) or code(function) in self.owner.bound:
                    raise wrong
        for part in parts_of(test):
            if isinstance(part, cst.Attribute) and id(part) not in called:
                if not is_name(part.value, parameter) or part.attr.value not in ("ndim", "shape"):
                    raise wrong
                shapes.add(id(part.value))
        for part in parts_of(test):
            if is_name(part, parameter) and id(part) not in shapes:
                raise wrong
        for free in names_read(test):
            if free not in own | _BUILTINS | {"True", "False"} and not self._is_literal(free):
                raise self.refuse(self.statement, f"{code(test)}: {free} may be another later")
        return test.visit(_OfArrays(parameter))

    def _is_literal(self, name: str) -> bool:
        """Whether a name is given texts or numbers once, and only conditions read them."""
        allowed: set[int] = set()
        uses, written = 0, 0
        for part in parts_of(self.source.whole_tree):
            if isinstance(part, cst.Assign) and len(part.targets) == 1:
                target = part.targets[0].target
                if is_name(target, name) and _is_text(part.value):
                    written += 1
                    allowed.add(id(target))
            elif isinstance(part, cst.CompFor) and is_name(part.iter, name):
                allowed.add(id(part.iter))
            elif isinstance(part, cst.ComparisonTarget) and is_name(part.comparator, name):
                allowed.add(id(part.comparator))
            elif isinstance(part, cst.Call) and code(part.func).endswith(
                ("startswith", "endswith")
            ):
                allowed |= {id(arg.value) for arg in part.args}
        for part in parts_of(self.source.whole_tree):
            uses += is_name(part, name) and id(part) not in allowed
        return written == 1 and not uses

    # the rest of the program

    def _check_other_uses(self) -> None:
        """Refuses lists that something else reads or changes."""
        ours = [*self.left_out, self.statement]
        for place, above in lists(self.owner.statements):
            if any(a is one for a in above for one in ours):
                continue
            for one in place:
                if any(one is other for other in ours):
                    continue
                nodes = header_of(one)
                found = set(names_read(*nodes)) | bound_names_of_target(
                    getattr(one, "target", None)
                )
                found |= set() if isinstance(one, COMPOUND) else bound_names(one)
                if beside := self.names & found:
                    raise self.refuse(
                        self.statement,
                        f"{code_line(one)}: {min(beside)} is read beside the optimizer",
                    )
        for part in self.source.whole_tree.body if self.owner.name == "" else ():
            inside = isinstance(part, cst.FunctionDef | cst.ClassDef)
            if inside and self.names & set(names_read(part)):
                raise self.refuse(self.statement, f"{code_line(part)}: it reads the lists")

    def _check_model(self, model: str) -> None:
        """Refuses a model that changes after its parameters are sorted."""
        passed = False
        for one in self.before:
            ours = any(one is other for other in self.left_out)
            passed |= ours and model in names_read(one)
            bound = model in bound_names(one)
            if passed and not ours and (bound or self._touches(one, model)):
                raise self.refuse(
                    one, f"{code_line(one)}: {model} may change after its parameters are sorted"
                )

    def _check_values(self, own: list[dict[str, Any]]) -> None:
        """Refuses hyperparameters that may be others where the optimizer is made."""
        passed, between = False, []
        for one in self.before:
            ours = any(one is other for other in self.left_out)
            passed |= ours
            between += [one] if passed and not ours else []
        changed = {name for one in between for name in changed_names(one)}
        for value in (value for entries in own for value in entries.values()):
            plain = isinstance(value, cst.Name) and value.value not in changed
            simple = not any(
                isinstance(p, cst.Name | cst.Call | cst.Attribute) for p in parts_of(value)
            )
            if between and not plain and not simple:
                raise self.refuse(
                    self.statement, f"{code(value)}: it may be another than in the list of groups"
                )


class _OfArrays(cst.CSTTransformer):
    """Writes `p.dim()` as `p.ndim`, and `p.numel()` as `p.size`."""

    def __init__(self, parameter: str) -> None:
        super().__init__()
        self.parameter = parameter

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> Any:
        root, method = method_of(original_node)
        if root == self.parameter:
            return cst.parse_expression(f"{root}.{ {'dim': 'ndim', 'numel': 'size'}[method] }")
        return updated_node


def _body(block: Any) -> list[Any]:
    """The statements of a block, or of the end of a line."""
    return list(block.body)


def _is_text(value: Any) -> bool:
    if isinstance(value, cst.List | cst.Tuple | cst.Set):
        return all(isinstance(element.value, _TEXTS) for element in value.elements)
    return isinstance(value, _TEXTS)


def _bare(node: Any) -> Any:
    return node.with_changes(lpar=[], rpar=[]) if getattr(node, "lpar", ()) else node


def _conjuncts(test: Any) -> list[Any]:
    """The conditions that are joined by `and`."""
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        return [*_conjuncts(test.left), *_conjuncts(test.right)]
    return [test]


def _negated(test: Any) -> Any:
    """The opposite of a condition."""
    node = _bare(test)
    if isinstance(node, cst.UnaryOperation) and isinstance(node.operator, cst.Not):
        return _bare(node.expression)
    if isinstance(node, cst.Comparison) and len(node.comparisons) == 1:
        other = _OTHERWISE.get(type(node.comparisons[0].operator))
        if other is not None:
            space = cst.SimpleWhitespace(" ")
            operator = other(whitespace_before=space, whitespace_after=space)
            return node.with_changes(
                comparisons=[node.comparisons[0].with_changes(operator=operator)]
            )
    words = code(node) if isinstance(node, cst.Call) else f"({code(node)})"
    return cst.parse_expression(f"not {words}")


def _normal(chosen: _Chosen) -> Any:
    """The condition of a choice with other names for its variables, or None."""
    if not chosen.tests:
        return None
    names = {chosen.name: "name_of_it", chosen.parameter: "it"}

    class Renamed(cst.CSTTransformer):
        def visit_Attribute(self, node: cst.Attribute) -> bool:
            return True

        def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.Name:
            return cst.Name(names.get(original_node.value, original_node.value))

    return _bare(chosen.tests[0].visit(Renamed()))


def _are_opposite(one: Any, other: Any) -> bool:
    """Whether exactly one of two conditions holds, as far as their words show."""
    if one is None or other is None:
        return False
    return code(_bare(_negated(one))) == code(other) or code(_bare(_negated(other))) == code(one)
