"""A file that is a whole program: what it runs, its seeds, and its training.

What a file runs when it is a program, between and behind its definitions, is gathered in one
function, so that it is read and rewritten as the others are; the output has it at the end of the
file again.
"""

import dataclasses
import re
from typing import TYPE_CHECKING, Any

import libcst as cst

from jaxnet.port._flow import (
    LOOPS,
    assignment_of,
    backward_calls,
    bound_names,
    call_of,
    calls_in,
    lists,
    names_read,
)
from jaxnet.port._loops import Loops
from jaxnet.port._names import is_optimizer
from jaxnet.port._nodes import code, parts_of
from jaxnet.port._roles import Part, is_guard, part_of
from jaxnet.port._steps import NotUnderstoodError
from jaxnet.port._training import Training
from jaxnet.port._updates import with_optimizer
from jaxnet.port._words import Positioned, Words, device_names, other_uses

if TYPE_CHECKING:
    from jaxnet.port._source import Source

PROGRAM = "program_of_file"
"""The name of the function that holds what the file runs."""

_TRAINS = re.compile(r"\.backward\(|torch\.optim|from torch import .*optim|utils\.data|manual_seed")
_DRAWS = {
    "bernoulli", "multinomial", "normal", "rand", "rand_like", "randint", "randint_like", "randn",
    "randn_like", "randperm",
}  # fmt: skip


@dataclasses.dataclass
class Program:
    """What is known of a program beside its tree.

    Attributes:
        hosts: The functions that run outside of compiled steps, and draw from `rngs`.
        owners: Those of them that make `rngs`.
        seeding: Those that seed the generator that they are given.
        losses: The functions in them that are differentiated.
        whole: The statements that are marked as a whole, by line and class, and why.
        imports: The import statements that the output needs.
        trained: Whether its optimizer makes the steps of a state.
        optimizer_line: The line where the optimizer is made.
        draws: Whether the file's own models draw in training.
        notes: What a reader should look at, by line.
        kinds: What names of the program hold, as `Kinds` says it.
    """

    hosts: set[str] = dataclasses.field(default_factory=set)
    owners: set[str] = dataclasses.field(default_factory=set)
    seeding: set[str] = dataclasses.field(default_factory=set)
    losses: set[str] = dataclasses.field(default_factory=set)
    whole: dict[tuple[int, type], str] = dataclasses.field(default_factory=dict)
    imports: set[str] = dataclasses.field(default_factory=set)
    trained: bool = False
    optimizer_line: int = 0
    draws: bool = False
    notes: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    kinds: dict[str, str] = dataclasses.field(default_factory=dict)

    def whole_at(self, line: int, node: Any) -> str | None:
        """Why a statement is marked as a whole, or None."""
        return self.whole.get((line, type(node)))


def is_program(text: str) -> bool:
    """Whether the text of a file may be that of a program that trains."""
    return _TRAINS.search(text) is not None


def as_program(
    source: "Source", tree: cst.Module, positions: dict[Any, Any]
) -> tuple[cst.Module, Program]:
    """The tree of a program as definitions and one function that is run.

    Args:
        source: The file, whose imports are known.
        tree: The tree.
        positions: The places of the nodes in the file, to which those of new nodes are added.
    """
    program = Program()
    source.whole_tree = tree
    devices = device_names(source.imported, tree)
    texts = set(re.findall(r"[A-Za-z_]\w*", re.sub(r"import .*", "", source.text)))
    weights = "weights" if "weights" not in texts else "jaxnet_weights"
    kept: set[str] = set()
    for _ in range(2):
        words = Words(source, positions, devices, kept, weights)
        new = tree.visit(words)
        kept |= other_uses(new, devices)
    program.imports |= words.imports
    source.whole_tree = new  # type: ignore[assignment]
    head, script = _divided(source.whole_tree)
    script = with_optimizer(source, script, positions)
    head = [_updated(source, one, positions) for one in head]
    parts = {
        one.name.value: part_of(one.name.value, one, list(one.body.body))
        for one in head if isinstance(one, cst.FunctionDef)
    }  # fmt: skip
    if script:
        parts[""] = part_of("", None, script)
    written = {name: [part.node] for name, part in parts.items() if name}
    script = _train(source, program, parts, written, positions) or script
    script = _seed(source, program, written, script, positions)
    body: list[Any] = []
    for one in head:
        function = isinstance(one, cst.FunctionDef)
        body += written[one.name.value] if function else [one]
    if script:
        body.append(_function(script))
    made = source.whole_tree.with_changes(body=body)
    _fill(made, positions)
    _find_hosts(source, program, made)
    return made, program


def _updated(source: "Source", one: Any, positions: dict[Any, Any]) -> Any:
    """A function whose updates by hand are those of an optimizer."""
    if not isinstance(one, cst.FunctionDef):
        return one
    body = with_optimizer(source, list(one.body.body), positions)
    if len(body) == len(one.body.body):
        return one
    new = one.with_changes(body=one.body.with_changes(body=body))
    positions[new] = positions[one]
    return new


def _divided(tree: cst.Module) -> tuple[list[Any], list[Any]]:
    """The definitions of a file, and what it runs."""
    kept: list[Any] = []
    script: list[Any] = []
    known: set[str] = set()
    again, early = _names_bound_again(tree), _names_read_early(tree)
    for index, one in enumerate(tree.body):
        if isinstance(one, cst.FunctionDef | cst.ClassDef | cst.Try):
            kept.append(one)
            continue
        parts = one.body if isinstance(one, cst.SimpleStatementLine) else ()
        imports = bool(parts) and all(isinstance(p, cst.Import | cst.ImportFrom) for p in parts)
        docstring = index == 0 and tree.get_docstring() is not None
        constant = _is_constant(one, known) and not bound_names(one) & again
        if imports or docstring or (constant and (not script or bound_names(one) & early)):
            kept.append(one)
            known |= bound_names(one)
        else:
            script.append(one)
    return kept, script


def _names_bound_again(tree: cst.Module) -> set[str]:
    counts: dict[str, int] = {}
    for one in tree.body:
        for name in bound_names(one):
            counts[name] = counts.get(name, 0) + 1
    found = {name for name, count in counts.items() if count > 1}
    for part in parts_of(tree):
        if isinstance(part, cst.Global):
            found |= {item.name.value for item in part.names}
    return found


def _names_read_early(tree: cst.Module) -> set[str]:
    """The names that definitions read when they are made: in defaults, and in classes."""
    found: dict[str, None] = {}
    for part in parts_of(tree):
        if isinstance(part, cst.Param) and part.default is not None:
            found |= names_read(part.default)
        elif isinstance(part, cst.ClassDef):
            inside = [one for one in part.body.body if not isinstance(one, cst.FunctionDef)]
            found |= names_read(*inside)
    return set(found)


def _is_constant(statement: Any, known: set[str]) -> bool:
    """Whether a statement gives names values that nothing has to be run for."""
    assign = assignment_of(statement)
    if assign is None or not isinstance(assign.targets[0].target, cst.Name | cst.Tuple):
        return False
    if calls_in(assign.value) or any(
        isinstance(p, cst.Attribute | cst.List | cst.ListComp | cst.DictComp | cst.Dict)
        for p in parts_of(assign.value)
    ):
        return False
    return set(names_read(assign.value)) <= known | {"True", "False", "None"}


def _train(
    source: "Source",
    program: Program,
    parts: dict[str, Part],
    written: dict[str, list[Any]],
    positions: dict[Any, Any],
) -> list[Any] | None:
    """Rewrites the training of the parts, or notes what is marked as a whole.

    Args:
        source: The file.
        program: What is known of the program, to which is added.
        parts: The functions, and the program as "".
        written: The statements that take each function's place, which are replaced.
        positions: The places of the nodes.

    Returns:
        The statements of the program, or None where they stay.
    """
    every = [one for part in parts.values() for one in part.statements]
    trains = any(backward_calls(one) for one in every)
    made = any(is_optimizer(source.imported(call.func)) for call in calls_in(*every))
    if not trains and not made:
        return None
    try:
        training = Training(source, parts)
        loops = Loops(training, positions)
    except NotUnderstoodError as error:
        _mark(program, parts, error, positions)
        return None
    written |= loops.functions
    program.trained = True
    classes = [one for one in source.whole_tree.body if isinstance(one, cst.ClassDef)]
    program.optimizer_line = positions[training.roles.optimizer_statement].start.line
    program.draws = any(draws(source, one) for one in [*classes, training.roles.made])
    if training.predicts and loops.predicting:
        line: Any = cst.parse_statement(training.predict_line())
        first = next(iter(loops.functions))
        written[first] = [line, *written[first]]
    program.imports |= training.imports
    program.notes += [
        (positions[call].start.line, f"{code(call)}: {PRINTS}") for call in training.fixed.prints
    ]
    program.losses.add(training.loss)
    program.kinds |= {training.metrics: "tensors", training.predict: "module"}
    for roles in training.roles.names.values():
        if "model" in roles:
            program.kinds[roles["model"]] = "module"
    return loops.program


PRINTS = "a compiled step prints once, when it is compiled; jax.debug.print prints at each step"
DRAWN = (
    "the model draws numbers in training, as dropout does: the step has its own, from the key of "
    "the state. PyTorch takes them from the generator of the loaders' order too, so that the "
    "orders differ from then on; to compare runs, give both loaders a generator of their own"
)


def draws(source: "Source", node: Any) -> bool:
    """Whether a class, or a statement that makes a model, has layers that draw in training."""
    for call in calls_in(node):
        name = source.imported(call.func)
        given = any(a.keyword is not None and a.keyword.value == "generator" for a in call.args)
        drawn = "ropout" in name.rpartition(".")[2] or name[6:] in _DRAWS
        if name.startswith("torch.") and drawn and not given:
            return True
    return False


def _mark(
    program: Program, parts: dict[str, Part], error: NotUnderstoodError, positions: dict[Any, Any]
) -> None:
    """Notes each outermost loop that takes gradients, and what is not understood of it."""
    where = positions.get(error.node) if error.node is not None else None
    line = "" if where is None else f"line {where.start.line}: "
    words = f"a training loop that is not ported: {line}{error.text}"
    for part in parts.values():
        for place, above in lists(part.statements):
            for one in place:
                outer = [a for a in above if not is_guard(a)]
                loop = isinstance(one, LOOPS) or not any(isinstance(o, LOOPS) for o in above)
                definition = isinstance(one, cst.FunctionDef | cst.ClassDef) or is_guard(one)
                if not outer and loop and backward_calls(one) and not definition:
                    program.whole[positions[one].start.line, type(one)] = words


def _seed(
    source: "Source",
    program: Program,
    written: dict[str, list[Any]],
    script: list[Any],
    positions: dict[Any, Any],
) -> list[Any]:
    """Makes `rngs` where torch.manual_seed is called; gives the statements of the program."""
    program.owners.add(PROGRAM)
    for name, statements in written.items():
        function = statements[-1]
        seeds = [one for one in function.body.body if _seeds(source, call_of(one))]
        if seeds and _is_run_last(name, written, script):
            program.owners.add(name)
        elif any(_seeds(source, call) for call in calls_in(function)):
            program.seeding.add(name)
            seeds = []
        else:
            continue
        new = function.visit(_Seeds(source, program, positions, seeds[:1]))
        written[name] = [*statements[:-1], new]
    seeds = [one for one in script if _seeds(source, call_of(one))]
    visitor = _Seeds(source, program, positions, seeds[:1])
    return [new for one in script for new in _flat(one.visit(visitor))]


def _flat(new: Any) -> list[Any]:
    if isinstance(new, cst.RemovalSentinel):
        return []
    return list(new.nodes) if isinstance(new, cst.FlattenSentinel) else [new]


def _seeds(source: "Source", call: Any) -> bool:
    return call is not None and source.imported(call.func) in (
        "torch.manual_seed",
        "torch.random.manual_seed",
    )


def _is_run_last(name: str, written: dict[str, list[Any]], script: list[Any]) -> bool:
    """Whether a function is what the program runs at its end, and is called nowhere else."""
    every = [one for statements in written.values() for one in statements]
    found = [call for call in calls_in(*every, *script) if code(call.func) == name]
    if not found:
        return True
    last = script[-1:]
    once = len(found) == 1 and any(call is found[0] for call in calls_in(*last))
    return once and not any(isinstance(p, LOOPS) for one in last for p in parts_of(one))


class _Seeds(Positioned):
    """Writes `rngs = Generator(seed)` for the first seed, and `rngs.manual_seed` for others."""

    def __init__(
        self, source: "Source", program: Program, positions: dict[Any, Any], first: list[Any]
    ) -> None:
        super().__init__(positions)
        self.source = source
        self.program = program
        self.first = first

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> Any:
        call: Any = call_of(updated_node)
        if not _seeds(self.source, call_of(original_node)):
            return updated_node
        if self.first and original_node is self.first[0] and "torch" in self.source.imports:
            line: Any = cst.parse_statement("rngs = 0")
            made = call.with_changes(func=cst.parse_expression("torch.Generator"))
            return updated_node.with_changes(body=[line.body[0].with_changes(value=made)])
        new = call.with_changes(func=cst.parse_expression("rngs.manual_seed"))
        return updated_node.with_changes(body=[cst.Expr(new)])


def _function(statements: list[Any]) -> cst.FunctionDef:
    return cst.FunctionDef(
        cst.Name(PROGRAM),
        cst.Parameters(),
        cst.IndentedBlock(statements or [cst.parse_statement("pass")]),
    )


def _fill(tree: cst.Module, positions: dict[Any, Any]) -> None:
    """Gives new nodes the place of what they are in."""
    start = next(iter(positions.values()))
    stack: list[tuple[Any, Any]] = [(tree, start)]
    while stack:
        node, place = stack.pop()
        known = positions.get(node)
        if known is None:
            inner = next(
                (positions[p] for p in parts_of(node) if positions.get(p) is not None), None
            )
            known = positions[node] = place if inner is None else inner
        stack += [(child, known) for child in node.children]


def _find_hosts(source: "Source", program: Program, tree: cst.Module) -> None:
    """Finds the functions that are run as they are, and not within a step or a model."""
    functions = {one.name.value: one for one in tree.body if isinstance(one, cst.FunctionDef)}
    methods = [one for one in tree.body if isinstance(one, cst.ClassDef)]
    inside: set[str] = set()
    waiting: list[Any] = [*methods, *(functions[n] for n in program.losses if n in functions)]
    for function in functions.values():
        waiting += [
            part
            for part in parts_of(function)
            if isinstance(part, cst.FunctionDef) and part.name.value in program.losses
        ]
    while waiting:
        for call in calls_in(waiting.pop()):
            name = call.func.value if isinstance(call.func, cst.Name) else ""
            if name in functions and name not in inside:
                inside.add(name)
                waiting.append(functions[name])
    found = {PROGRAM, *program.owners, *program.seeding}
    for name, function in functions.items():
        if name in inside or name in program.losses:
            continue
        if (
            (
                backward_calls(function)
                or any(_is_of_host(source, call) for call in calls_in(function))
                or any(
                    isinstance(p, cst.Name) and p.value == "make_train_step"
                    for p in parts_of(function)
                )
            )
            or (
                any(isinstance(part, cst.With) for part in parts_of(function))
                and ("no_grad" in code(function))
            )
            or any(
                isinstance(part, cst.Name) and program.kinds.get(part.value)
                for part in parts_of(function)
            )
        ):
            found.add(name)
    grown = True
    while grown:
        grown = False
        for name, function in functions.items():
            if name in found or name in inside or name in program.losses:
                continue
            if any(code(call.func) in found for call in calls_in(function)):
                found.add(name)
                grown = True
    program.hosts = found


def _is_of_host(source: "Source", call: cst.Call) -> bool:
    name = source.imported(call.func)
    if name.startswith(("torch.utils.data.", "torch.optim.")):
        return True
    return name.startswith("torch.") and name[6:] in _DRAWS
