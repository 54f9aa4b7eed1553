"""What the names of a program's functions stand for: the model, its optimizer, a scheduler."""

import dataclasses
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._flow import (
    assignment_of,
    bound_names,
    callee_of,
    calls_in,
    lists,
)
from jaxnet.port._groups import Groups, groups_of
from jaxnet.port._names import SCHEDULERS, is_optimizer
from jaxnet.port._nodes import code, is_name
from jaxnet.port._steps import NotUnderstoodError

if TYPE_CHECKING:
    from jaxnet.port._source import Source


@dataclasses.dataclass
class Part:
    """A function of a file, or the program that it runs, whose name is "".

    Attributes:
        name: The name.
        node: The function, None for the program.
        statements: The statements.
        parameters: The names of the parameters.
        bound: The names that the statements bind.
    """

    name: str
    node: Any
    statements: list[Any]
    parameters: list[str]
    bound: set[str] = dataclasses.field(default_factory=set)

    def argument(self, call: cst.Call, name: str) -> Any:
        """What a call gives a parameter, or None."""
        for index, arg in enumerate(call.args):
            keyword = "" if arg.keyword is None else arg.keyword.value
            if arg.star:
                return None
            if keyword == name or (not keyword and self.parameters[index : index + 1] == [name]):
                return arg.value
        return None


@dataclasses.dataclass
class Roles:
    """What the names of a program stand for.

    Attributes:
        owner: The part that makes the optimizer.
        optimizer_statement: The statement that does.
        groups: The parameter groups that it has, or None.
        schedule: The name of the scheduler's class, or "".
        made: What the model is made by, a statement.
        names: By part, the names by their roles: "model", "optimizer", "scheduler".
        sites: By function, the calls that hand roles on, with the part that they are in.
    """

    owner: Part
    optimizer_statement: Any
    groups: Groups | None = None
    schedule: str = ""
    schedule_statement: Any = None
    made: Any = None
    names: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    sites: dict[str, list[tuple[Part, cst.Call]]] = dataclasses.field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of parameter groups."""
        return 1 if self.groups is None else len(self.groups.own)

    def of(self, part: Part) -> dict[str, str]:
        """The names of a part by their roles."""
        return self.names.get(part.name, {})


def find_roles(source: "Source", parts: dict[str, Part]) -> Roles:
    """The roles of the names in a program with one optimizer.

    Raises:
        NotUnderstoodError: There are several, or one of something else than a model's parameters.
    """
    optimizers = _made(source, parts, is_optimizer)
    if not optimizers:
        first = next(iter(parts.values()))
        raise NotUnderstoodError(first.node, "no optimizer of torch.optim is made in the file")
    if len(optimizers) > 1:
        raise NotUnderstoodError(
            optimizers[1][1], "two optimizers; docs/pages/cookbook/steps.md has a step for each"
        )
    owner, statement, above, value = optimizers[0]
    if above and not all(isinstance(one, cst.If) and is_guard(one) for one in above):
        raise NotUnderstoodError(
            statement, "an optimizer that is made in a loop or under a condition"
        )
    arg = next(
        (
            a
            for i, a in enumerate(value.args)
            if (i == 0 and a.keyword is None)
            or (a.keyword is not None and a.keyword.value == "params")
        ),
        None,
    )
    words = "" if arg is None else code(arg.value)
    model = words.removesuffix(".parameters()")
    groups = None
    if arg is not None:
        place = next(p for p, _ in lists(owner.statements) if any(o is statement for o in p))
        groups = groups_of(source, owner, place, statement, arg.value)
    if groups is not None:
        model = groups.model
    elif not words.endswith(".parameters()") or not model.isidentifier():
        raise NotUnderstoodError(
            statement,
            f"{words or 'no parameters'}: an optimizer of something else than a model's "
            "parameters; optim.groups chooses parameters by their names",
        )
    target = _target(statement)
    roles = Roles(owner, statement, groups)
    own = {"model": model, "optimizer": target}
    schedulers = _made(source, parts, lambda name: name.startswith(SCHEDULERS))
    if len(schedulers) > 1:
        raise NotUnderstoodError(
            schedulers[1][1], "two schedulers; optim.SequentialLR combines them"
        )
    for part, scheduler, above, call in schedulers:
        if part is not owner or any(not is_guard(one) for one in above):
            raise NotUnderstoodError(scheduler, "a scheduler that is not made beside its optimizer")
        if not call.args or not is_name(call.args[0].value, target):
            raise NotUnderstoodError(scheduler, f"its first argument is not {target}")
        own["scheduler"] = _target(scheduler)
        roles.schedule = source.imported(call.func).rpartition(".")[2]
        roles.schedule_statement = scheduler
    for name in own.values():
        values = [
            o
            for place, _ in lists(owner.statements)
            for o in place
            if (a := assignment_of(o)) is not None and is_name(a.targets[0].target, name)
        ]
        if name == model and _are_before(owner, values, statement):
            values = values[:1]  # and then model = model.double()
        if len(values) > 1 or (not values and name not in owner.parameters):
            raise NotUnderstoodError(statement, f"{name} is not given its value once beside it")
        if name == model and values:
            roles.made = values[0]
    if roles.made is None:
        roles.made = statement
    roles.names[owner.name] = own
    _hand_on(parts, roles)
    return roles


def _are_before(owner: Part, values: list[Any], statement: Any) -> bool:
    """Whether statements come one after another before another one, outside of all blocks."""
    place = next((p for p, _ in lists(owner.statements) if any(o is statement for o in p)), [])
    before = []
    for one in place:
        if one is statement:
            break
        before.append(one)
    return all(any(one is value for one in before) for value in values)


def is_guard(statement: Any) -> bool:
    """Whether a statement is `if __name__ == "__main__":`."""
    return isinstance(statement, cst.If) and code(statement.test).startswith("__name__ ==")


def _target(statement: Any) -> str:
    assign = assignment_of(statement)
    assert assign is not None
    target = assign.targets[0].target
    if not isinstance(target, cst.Name):
        raise NotUnderstoodError(statement, f"{code(target)}: it is not a name")
    return target.value


def _made(
    source: "Source", parts: dict[str, Part], wanted: Any
) -> list[tuple[Part, Any, tuple[Any, ...], cst.Call]]:
    """The statements that give a name what a class of torch makes."""
    found, assigned = [], set()
    for part in parts.values():
        for place, above in lists(part.statements):
            for one in place:
                assign = assignment_of(one)
                value = None if assign is None else assign.value
                if isinstance(value, cst.Call) and wanted(source.imported(value.func)):
                    assigned.add(id(value))
                    found.append((part, one, above, value))
    for part in parts.values():
        for one in part.statements:
            for call in calls_in(one):
                if id(call) not in assigned and wanted(source.imported(call.func)):
                    raise NotUnderstoodError(one, f"{code(call)} has no name of its own")
    return found


def _hand_on(parts: dict[str, Part], roles: Roles) -> None:
    """Follows the calls of the file's functions, and the names that they see of the program."""
    waiting = [roles.owner]
    if roles.owner.name == "":
        for part in parts.values():
            if part.node is None:
                continue
            seen = {
                role: name for role, name in roles.of(roles.owner).items()
                if name not in part.bound and name not in part.parameters
            }  # fmt: skip
            roles.names[part.name] = seen
            waiting.append(part)
    while waiting:
        part = waiting.pop()
        for one in part.statements:
            for call in calls_in(one):
                name = callee_of(call)
                if name not in parts or name in part.bound or name in part.parameters:
                    continue
                other = parts[name]
                sites = roles.sites.setdefault(name, [])
                if not any(c is call for _, c in sites):
                    sites.append((part, call))
                given = dict(roles.names.get(name, {}))
                for role, local in roles.of(part).items():
                    for parameter in other.parameters:
                        value = other.argument(call, parameter)
                        if value is not None and is_name(value, local):
                            if given.setdefault(role, parameter) != parameter:
                                raise NotUnderstoodError(
                                    call, f"{name}: which of its names is the {role}?"
                                )
                            if parameter in other.bound:
                                raise NotUnderstoodError(
                                    call, f"{name} gives {parameter} another value"
                                )
                if given != roles.names.get(name, {}):
                    roles.names[name] = given
                    waiting.append(other)


def part_of(name: str, node: Any, statements: list[Any]) -> Part:
    """A function or a program with its names."""
    parameters = []
    if node is not None:
        parameters = [p.name.value for p in (*node.params.params, *node.params.kwonly_params)]
    return Part(name, node, statements, parameters, bound_names(*statements))
