"""What would be slow or wrong on a card, read in the programs before there is a card.

    python -m benchmarks.gpu.lowered [--tiny]

Every workload in every precision is lowered for CUDA, which any machine can do, and its
program (StableHLO, as the compiler gets it) is searched for:

* call: custom calls that CUDA does not have;
* host: calls back into Python, infeed and outfeed, which stop the card;
* float64, int64: numbers twice as wide as they should be (single whole numbers, as indices
  have them, cost nothing, nor do the unsigned ones in which JAX counts random numbers);
* layout: convolutions that are not over (N, C, H, W), or whose inputs or results are transposed;
* precision: products and convolutions that are not rounded as the precision says: of float32
  not in full float32 (which means TF32 on a card), or with float32 factors under bfloat16;
* loop: loops whose number of turns the compiler cannot know: the host decides on each turn;
* donation: parts of the training state that are in memory twice.
"""

import argparse
import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax

from benchmarks.gpu.workloads import PRECISIONS, Precision, jaxnet_step, workloads
from benchmarks.timing import markdown

__all__ = ["KINDS", "Finding", "findings", "main", "survey", "tasks"]

KINDS = ("call", "host", "float64", "int64", "layout", "precision", "loop", "donation")

ROOT = Path(__file__).parents[2]

# What CUDA has, of what these programs may use: jaxlib's random bits, XLA's own calls of cuDNN.
_CUDA_CALLS = re.compile(r"cu_threefry2x32_ffi|__cudnn\$\w+")
_HOST_OPERATIONS = {f"stablehlo.{name}" for name in ("infeed", "outfeed", "send", "recv")}
# What changes numbers one by one or their order in memory along the window, and no more.
_PASSED = {"stablehlo.convert", "stablehlo.reverse", "stablehlo.negate"}
_FACTORS = {"float32": "HIGHEST", "tf32": "HIGH", "bfloat16": "bf16"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something in a program that should not be there.

    Attributes:
        kind: one of `KINDS`.
        operation: what it is.
        location: the line that it comes from, as far as the program knows.
        program: whose it is.
    """

    kind: str
    operation: str
    location: str
    program: str


class _Program:
    """A module's operations, and who computes and uses a value, also through calls."""

    def __init__(self, module: Any) -> None:
        functions = [op for op in module.body.operations if op.operation.name == "func.func"]
        self.functions = {op.attributes["sym_name"].value: op for op in functions}
        self.operations = list(_inside(module.operation))
        self._calls: dict[str, list[Any]] = {}
        for op in self.operations:
            if op.operation.name == "func.call":
                self._calls.setdefault(op.attributes["callee"].value, []).append(op)

    def makers(self, value: Any) -> Iterator[Any]:
        """The operations that compute a value; none for what the program is given."""
        from jaxlib.mlir import ir

        owner = value.owner
        if isinstance(owner, ir.Block):
            number = ir.BlockArgument(value).arg_number
            function = owner.owner.operation
            if function.name == "func.func":
                for call in self._calls.get(function.attributes["sym_name"].value, ()):
                    yield from self.makers(call.operands[number])
            return
        if owner.name == "func.call":
            body = self.functions[owner.attributes["callee"].value].regions[0].blocks[0]
            returned = body.operations[len(body.operations) - 1]
            yield from self.makers(returned.operands[ir.OpResult(value).result_number])
        elif owner.name in _PASSED:
            yield from self.makers(owner.operands[0])
        else:
            yield owner

    def users(self, value: Any) -> Iterator[Any]:
        """The operations that take a value."""
        for use in value.uses:
            op = use.owner.operation
            if op.name == "func.call":
                body = self.functions[op.attributes["callee"].value].regions[0].blocks[0]
                yield from self.users(body.arguments[use.operand_number])
            elif op.name == "func.return":
                for call in self._calls.get(op.parent.attributes["sym_name"].value, ()):
                    yield from self.users(call.results[use.operand_number])
            elif op.name in _PASSED:
                yield from self.users(op.results[0])
            else:
                yield op


def _inside(operation: Any) -> Iterator[Any]:
    """Everything in an operation's regions, in order."""
    for region in operation.regions:
        for block in region.blocks:
            for op in block.operations:
                yield op.operation
                yield from _inside(op.operation)


def findings(lowered: Any, program: str, precision: Precision = "float32") -> list[Finding]:
    """What there is in a program.

    Args:
        lowered: `jax.stages.Lowered`. The first argument is the training state, if the
            program takes more than one.
        program: its name in the findings.
        precision: how it should multiply.
    """
    read = _Program(lowered.compiler_ir("stablehlo"))
    found: list[Finding] = []
    for op in read.operations:
        for check in _CHECKS:
            for kind, text in check(read, op, precision):
                found.append(Finding(kind, text, _location(op), program))
    found += [Finding("donation", text, "", program) for text in _kept_twice(lowered, read)]
    return found


def _location(op: Any) -> str:
    """The innermost line of a layer or function of jaxnet's, else of any file."""
    lines = re.findall(r'"([^"]+\.py)":(\d+)', str(op.location))
    ours = [line for line in lines if Path(line[0]).is_relative_to(ROOT / "jaxnet")]
    ours = [line for line in ours if not line[0].endswith("jaxnet/backend.py")]  # calls them
    if not lines:
        return "unknown"
    file, line = (ours or lines)[0]
    path = Path(file)
    return f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{line}"


Found = Iterator[tuple[str, str]]
"""Kinds, and what it is."""


def _calls(read: _Program, op: Any, precision: Precision) -> Found:
    if op.name in _HOST_OPERATIONS:
        yield "host", op.name
    if op.name == "stablehlo.custom_call":
        target = op.attributes["call_target_name"].value
        if "callback" in target:
            yield "host", target
        elif not _CUDA_CALLS.fullmatch(target):
            yield "call", target


def _widths(read: _Program, op: Any, precision: Precision) -> Found:
    types = {str(value.type) for value in op.results}
    for text in sorted(types):
        # tensor<4x3xf64>, tensor<i64>, tensor<complex<f64>>: the element stands last
        width = re.search(r"(f64|(?<!u)i64)>+$", text)
        if width and width[1] == "f64":
            yield "float64", f"{op.name} {text}"
        elif width and re.search(r"\d+x", text):
            yield "int64", f"{op.name} {text}"


def _convolutions(read: _Program, op: Any, precision: Precision) -> Found:
    if op.name != "stablehlo.convolution":
        return
    from jaxlib.mlir.dialects import stablehlo

    numbers = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    # In gradients N and C are exchanged, for which nothing has to move.
    last = list(range(2, 2 + len(numbers.input_spatial_dimensions)))
    for name in ("input", "kernel", "output"):
        given = list(getattr(numbers, f"{name}_spatial_dimensions"))
        if given != last:
            yield "layout", f"convolution over the axes {given} of its {name}"
    for name, value in zip(("input", "kernel"), op.operands, strict=True):
        if any(maker.name == "stablehlo.transpose" for maker in read.makers(value)):
            yield "layout", f"convolution of a transposed {name}"
    if any(user.name == "stablehlo.transpose" for user in read.users(op.results[0])):
        yield "layout", "transposed result of a convolution"


def _products(read: _Program, op: Any, precision: Precision) -> Found:
    if op.name not in ("stablehlo.convolution", "stablehlo.dot_general"):
        return
    types = [str(value.type) for value in op.operands]
    if not any(re.search(r"f\d+>$", text) for text in types):
        return  # whole numbers
    shapes = " and ".join(re.sub(r"tensor<(.*)>", r"\1", text) for text in types)
    if precision == "bfloat16":
        if not all(text.endswith("bf16>") for text in types):
            yield "precision", f"{op.name} of {shapes}"
        return
    given = re.findall(r"precision (\w+)", str(op.attributes["precision_config"]))
    if given != [_FACTORS[precision]] * 2:
        yield "precision", f"{op.name} of {shapes} with {' and '.join(given)}"


def _loops(read: _Program, op: Any, precision: Precision) -> Found:
    if op.name != "stablehlo.while":
        return
    why = _unknown_turns(op)
    if why:
        yield "loop", f"loop that {why}"


def _unknown_turns(loop: Any) -> str | None:
    """Why the compiler cannot count a loop's turns; None if it can.

    It can if a counter goes from one constant to another by a third: a scan, as JAX writes it.
    """
    from jaxlib.mlir import ir

    condition, body = (region.blocks[0] for region in loop.regions)
    test = _last(condition).operands[0].owner
    compares = isinstance(test, ir.Operation | ir.OpView) and test.name == "stablehlo.compare"
    if not compares or not isinstance(test.operands[0].owner, ir.Block):
        return "ends when something is found"
    counter, limit = test.operands
    if not _constant(limit):
        return "ends at a number that is computed"
    number = ir.BlockArgument(counter).arg_number
    if not _constant(loop.operands[number]):
        return "begins at a number that is computed"
    step = _last(body).operands[number].owner
    if (
        isinstance(step, ir.Block)
        or step.name != "stablehlo.add"
        or not any(_constant(value) for value in step.operands)
    ):
        return "goes by steps that are computed"
    return None


def _last(block: Any) -> Any:
    return block.operations[len(block.operations) - 1]


def _constant(value: Any) -> bool:
    return getattr(value.owner, "name", None) == "stablehlo.constant"


_CHECKS = (_calls, _widths, _convolutions, _products, _loops)


def _kept_twice(lowered: Any, read: _Program) -> Iterator[str]:
    """The leaves of the first argument that are not given away, and what is given in vain."""
    arguments, _ = lowered.args_info
    if len(arguments) > 1:
        for path, leaf in jax.tree_util.tree_leaves_with_path(arguments[0]):
            if not leaf.donated:
                yield f"state{jax.tree_util.keystr(path)} is not donated"
    given = sum(leaf.donated for leaf in jax.tree.leaves(arguments))
    main = read.functions["main"].attributes
    attributes = main.get("arg_attrs", ())
    taken = sum("tf.aliasing_output" in a or "jax.buffer_donor" in a for a in attributes)
    if given > taken:
        yield f"{given - taken} donated arguments of which no result can take the place"


def lower(name: str, precision: Precision, tiny: bool = False) -> Any:
    """A workload's program for CUDA, not compiled, with shapes in place of numbers.

    Where there is no card, JAX's own error ends the lowering of what calls Python.
    """
    state, epoch, arguments = jaxnet_step(workloads(tiny)[name], precision, abstract=True)
    return epoch.trace(state, *arguments).lower(lowering_platforms=("cuda",))


def survey(tiny: bool = False) -> dict[str, list[Finding]]:
    """The findings of every workload in every precision, by the program's name."""
    return {
        f"{name}, {precision}": findings(
            lower(name, precision, tiny), f"{name}, {precision}", precision
        )
        for name in workloads(tiny)
        for precision in PRECISIONS
    }


def table(found: dict[str, list[Finding]]) -> str:
    """Programs and checks, with how often each found something."""
    rows = []
    for program, each in found.items():
        counts = Counter(finding.kind for finding in each)
        rows.append([program, *(str(counts[kind] or "-") for kind in KINDS)])
    return markdown(["program", *KINDS], rows)


def _listed(found: dict[str, list[Finding]]) -> list[str]:
    """Each finding once, with how often it is there."""
    counts = Counter(finding for each in found.values() for finding in each)
    return [
        f"{f.program}: {f.kind}: {f.operation} ({f.location}){f', {n} times' if n > 1 else ''}"
        for f, n in counts.items()
    ]


def _checked(tiny: bool) -> dict[str, Any]:
    found = survey(tiny)
    lines = _listed(found)
    return {"ok": not lines, "programs": len(found), "findings": lines}


def tasks(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """One: all programs. Its "ok" says that nothing was found, "findings" what was."""
    return {"lowered programs": partial(_checked, tiny)}


def main(arguments: list[str] | None = None) -> int:
    """Prints the table and the findings; 1 if there is one."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.lowered", description=str(__doc__).split("\n")[0]
    )
    parser.add_argument("--tiny", action="store_true", help="the workloads' small sizes")
    found = survey(parser.parse_args(arguments).tiny)
    lines = _listed(found)
    print(table(found), *lines, sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
