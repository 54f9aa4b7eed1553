"""What is in a compiled program: kernels, bytes, launches, counted from XLA's text for a GPU.

`counts` reads the optimised program (`jax.stages.Compiled.as_text()`), in which every
instruction that is no mere name for memory is a kernel, and XLA's list of what is launched
("thunks", which it writes beside the program where `xla_dump_to` says so).
"""

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

__all__ = ["Counts", "bytes_in", "counts"]

_ITEM = {"pred": 1, "bf16": 2, "c64": 8, "c128": 16}  # bytes; of others the name has the bits
_ARRAY = re.compile(r"\b(pred|bf16|[suf]\d+|c64|c128)\w*\[([\d,]*)\]")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")
_THUNK = re.compile(r"^( *)(?:\d+: (k\w+)|(condition:|body:))")

# What runs no kernel. The end of something asynchronous waits for its start.
_NAMES = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("opt-barrier", "partition-id", "replica-id"),
    *("async-update", "async-done", "copy-done", "fusion-done"),
}
# What a kernel may hold that does nothing but transpose or copy.
_MOVING = {"parameter", "bitcast", "transpose", "copy", "tuple"}


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a step takes. A loop within it whose turns XLA does not know counts as one turn.

    Attributes:
        kernels: that run.
        traffic: bytes of their operands and results. Of what is sliced, gathered or updated
            in place only the part that is touched counts.
        convolutions, products: by the dtype of their factors, as in "2 bf16".
        moves: kernels that only transpose or copy.
        moves_at_convolutions: those that give to a convolution or take from one.
        turns: of the loop; None if XLA does not know them before it runs.
        launches: that the host sends, a CUDA graph counting as one.
        one_graph: whether the whole loop lies in one CUDA graph.
    """

    kernels: float
    traffic: float
    convolutions: Mapping[str, float]
    products: Mapping[str, float]
    moves: float
    moves_at_convolutions: float
    turns: int | None
    launches: float
    one_graph: bool


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    op: str
    operands: tuple[str, ...]
    rest: str  # attributes, after the operands

    def called(self, attribute: str = "calls") -> str:
        found = re.search(rf"\b{attribute}=%([\w.\-]+)", self.rest)
        return found[1] if found else ""

    def turns(self) -> int | None:
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.rest)
        return int(found[1]) if found else None


_Body = list[_Instruction]
_Program = dict[str, _Body]


def counts(hlo: str, thunks: str, steps: int) -> Counts:
    """Counts what is in a program whose longest loop runs over training steps.

    Args:
        hlo: the optimised program.
        thunks: XLA's list of what is launched.
        steps: how often the loop turns, in case that the program does not say it.

    Raises:
        ValueError: there is no loop, or `thunks` belongs to another program.
    """
    program, entry = _parsed(hlo)
    loops = list(_loops(program, entry))
    if not loops:
        raise ValueError("hlo: a program without a loop; XLA unrolls one of a single step")
    per_loop = {loop.name: list(_kernels(program, loop.called("body"))) for loop in loops}
    outer = [loop for loop in program[entry] if loop.op == "while"] or loops
    main = max(outer, key=lambda loop: sum(times for *_, times in per_loop[loop.name]))
    turns = main.turns()
    scale = (turns or steps) / steps  # XLA may do several steps in a turn
    found: dict[str, float] = defaultdict(float)
    convolutions: dict[str, float] = defaultdict(float)
    products: dict[str, float] = defaultdict(float)
    for body, kernel, times in per_loop[main.name]:
        times *= scale
        inside = program.get(kernel.called(), [kernel])
        found["kernels"] += times
        found["traffic"] += times * _traffic(kernel, body, inside)
        if _is_convolution(kernel, inside):
            convolutions[_factors(kernel, body, inside, "convolution")] += times
        elif _is_product(kernel, inside):
            products[_factors(kernel, body, inside, "dot")] += times
        elif _is_move(kernel, inside):
            found["moves"] += times
            beside = _neighbours(kernel, body)
            if any(_is_convolution(each, program.get(each.called(), [each])) for each in beside):
                found["moves_at_convolutions"] += times
    launches, one_graph = _launches(
        thunks, [loop.turns() for loop in loops], loops.index(main), steps
    )
    return Counts(
        kernels=found["kernels"],
        traffic=found["traffic"],
        convolutions=dict(convolutions),
        products=dict(products),
        moves=found["moves"],
        moves_at_convolutions=found["moves_at_convolutions"],
        turns=turns,
        launches=launches,
        one_graph=one_graph,
    )


def _parsed(hlo: str) -> tuple[_Program, str]:
    """The computations by name, each a list of instructions, and the name of the first to run."""
    program: _Program = {}
    entry, name = "", ""
    for line in hlo.splitlines():
        if head := _HEAD.match(line):
            name = head[2]
            program[name] = []
            entry = name if head[1] else entry
        elif name and (match := _INSTRUCTION.match(line)):
            given, _, rest = (match[4] + ",").partition("),")
            operands = tuple(re.findall(r"%([\w.\-]+)", given))
            program[name].append(_Instruction(match[1], match[2], match[3], operands, rest))
    if not entry:
        raise ValueError("hlo: no text of a program of XLA: nothing in it begins with ENTRY")
    return program, entry


def _inner(instruction: _Instruction) -> str:
    """The name of the computation that an instruction runs, such as a call or a loop; or ""."""
    if instruction.op in ("call", "async-start"):
        return instruction.called("(?:to_apply|calls)")
    return instruction.called("body") if instruction.op == "while" else ""


def _loops(program: _Program, name: str) -> Iterator[_Instruction]:
    """All loops in the order in which they begin."""
    for instruction in program[name]:
        if instruction.op == "while":
            yield instruction
        if inner := _inner(instruction):
            yield from _loops(program, inner)


def _kernels(
    program: _Program, name: str, times: float = 1
) -> Iterator[tuple[_Body, _Instruction, float]]:
    """What runs when a computation does: the computation it is in, itself, how often."""
    for each in program[name]:
        if inner := _inner(each):
            turns = (each.turns() or 1) if each.op == "while" else 1
            yield from _kernels(program, inner, times * turns)
        elif each.op not in _NAMES:
            yield program[name], each, times


def bytes_in(type_: str) -> int:
    """Bytes of an array, or of all in a tuple."""
    total = 0
    for dtype, shape in _ARRAY.findall(type_):
        item = _ITEM.get(dtype) or max(int(dtype[1:]) // 8, 1)
        total += item * math.prod(int(n) for n in shape.split(",") if n)
    return total


def _traffic(kernel: _Instruction, body: _Body, inside: _Body) -> int:
    """Bytes that a kernel reads and writes.

    Args:
        kernel: the instruction.
        body: the computation that it is in.
        inside: what a fusion computes; for others `[kernel]`.
    """
    outside = {each.name: each for each in body}
    if kernel.op == "copy-start":
        return 2 * bytes_in(outside[kernel.operands[0]].type)
    if inside == [kernel]:
        operands = [outside[name] for name in set(kernel.operands)]
        return sum(_read(each, inside) for each in operands) + _written(kernel, outside)
    within = {each.name: each for each in inside}
    root = inside[-1]
    roots = [within[name] for name in root.operands] if root.op == "tuple" else [root]
    read = sum(_read(each, inside) for each in inside if each.op == "parameter")
    return read + sum(_written(each, within) for each in roots)


def _read(array: _Instruction, users: _Body) -> int:
    """Bytes of an array that the instructions take which use it."""
    whole = bytes_in(array.type)
    total = 0
    for user in users:
        if array.name not in user.operands:
            continue
        first = user.operands[0] == array.name
        if user.op in ("dynamic-slice", "gather", "slice") and first:
            total += bytes_in(user.type)
        elif user.op == "bitcast":
            total += _read(user, users)
        elif not (user.op == "dynamic-update-slice" and first):
            total += whole
    return min(total, whole)


def _written(root: _Instruction, among: Mapping[str, _Instruction]) -> int:
    """Bytes of a result; of an update in place those of the update."""
    if root.op == "bitcast":
        return _written(among[root.operands[0]], among)
    if root.op == "dynamic-update-slice":
        return bytes_in(among[root.operands[1]].type)
    return bytes_in(root.type)


def _target(kernel: _Instruction) -> str:
    found = re.search(r'custom_call_target="([^"]*)"', kernel.rest)
    return found[1] if found else ""


def _is_convolution(kernel: _Instruction, inside: _Body) -> bool:
    return _target(kernel).startswith("__cudnn$conv") or any(
        each.op == "convolution" for each in inside
    )


def _is_product(kernel: _Instruction, inside: _Body) -> bool:
    called = _target(kernel).startswith(("__cublas$", "__cudnn$fmha"))
    return called or any(each.op == "dot" for each in inside)


def _factors(kernel: _Instruction, body: _Body, inside: _Body, op: str) -> str:
    """The dtype of the factors of a product, or both dtypes, as in "f32 x bf16"."""
    product = next((each for each in inside if each.op == op), kernel)
    types = {each.name: each.type for each in (*body, *inside)}
    found = [types.get(name, "?").split("[")[0] for name in product.operands[:2]]
    rounded = "highest" not in product.rest.lower() and "f32_f32_f32" not in product.rest
    if found == ["f32", "f32"] and rounded:
        return "tf32"
    attention = " attention" if "fmha" in _target(kernel) else ""
    return (found[0] if len(set(found)) == 1 else " x ".join(found)) + attention


def _is_move(kernel: _Instruction, inside: _Body) -> bool:
    ops = {each.op for each in inside}
    moves = kernel.op in ("copy", "copy-start", "transpose")
    return moves or (bool(ops & {"transpose", "copy"}) and ops <= _MOVING)


def _neighbours(kernel: _Instruction, body: _Body) -> list[_Instruction]:
    """What gives to a kernel, or takes from it, past mere names."""
    by_name = {each.name: each for each in body}
    same = ("bitcast", "get-tuple-element")

    def before(each: _Instruction) -> Iterator[_Instruction]:
        for name in each.operands:
            giver = by_name.get(name)
            if giver is not None:
                yield from before(giver) if giver.op in same else [giver]

    def after(each: _Instruction) -> Iterator[_Instruction]:
        for taker in body:
            if each.name in taker.operands:
                yield from after(taker) if taker.op in same else [taker]

    return [*before(kernel), *after(kernel)]


def _launches(thunks: str, turns: list[int | None], main: int, steps: int) -> tuple[float, bool]:
    """What the host sends in the loop over the steps, a step; whether that is one graph.

    Args:
        thunks: XLA's list: one a line, what it holds behind it and further to the right.
        turns: of all loops, in their order.
        main: which of them runs over the steps.
        steps: how many there are.
    """
    rows: list[tuple[int, str, int | None]] = []  # indent, kind, turns if it is a loop
    matches = [match for match in map(_THUNK.match, thunks.splitlines()) if match]
    waiting = iter(turns)
    where = []
    for i, match in enumerate(matches):
        kind = match[2] or match[3]
        # The words "condition" and "body" are at any depth; the next line has the right one.
        nested = next(later for later in matches[i:] if later[2]) if match[3] else match
        known = None
        if kind == "kWhile":
            where.append(i)
            known = next(waiting, None)
        rows.append((len(nested[1]), kind, known))
    if len(where) != len(turns):
        raise ValueError(
            f"thunks: a list with {len(where)} loops for a program with {len(turns)}; it belongs "
            "to another"
        )

    def end(i: int) -> int:
        """The row behind what row i holds."""
        later = (j for j in range(i + 1, len(rows)) if rows[j][0] <= rows[i][0])
        return next(later, len(rows))

    def sent(begin: int, stop: int) -> float:
        total, i = 0.0, begin
        while i < stop:
            _, kind, known = rows[i]
            if kind == "kWhile":
                total += turn(i) * (known or 1)
            elif kind not in ("condition:", "body:", "kAsyncDone"):
                holds = kind != "kCommandBuffer" and end(i) > i + 1
                total += sent(i + 1, end(i)) if holds else 1
            i = end(i)
        return total

    def turn(i: int) -> float:
        """Launches of one turn; with the condition's, which runs only if turns are unknown."""
        body = next(j for j in range(i, end(i)) if rows[j][1] == "body:" and deeper(i, j))
        return sent(body + 1, end(i)) + (sent(i + 1, body) if rows[i][2] is None else 0)

    def deeper(i: int, j: int) -> bool:
        return rows[j][0] == rows[i + 1][0]

    loop = where[main]
    graphs = [i for i, row in enumerate(rows) if row[1] == "kCommandBuffer"]
    if any(i < loop < end(i) for i in graphs):
        return 1 / steps, True
    return turn(loop) * (turns[main] or steps) / steps, False
