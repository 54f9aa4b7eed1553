"""How many floating-point operations the matrix products and convolutions of a program take.

Counted from the shapes in the program as JAX gives it to the compiler (StableHLO), so that no
kernel's own tricks change the number, and nothing is missed where a library is called. A
multiply-add is two operations. All else, some per cent of a net's work, is not counted.
"""

import math
from typing import Any

__all__ = ["flops"]


def flops(module: Any) -> float:
    """Of one run of a program.

    Args:
        module: as `jax.stages.Lowered.compiler_ir("stablehlo")` gives it.

    Raises:
        ValueError: it has a loop whose number of turns is not a constant.

    >>> import jax, jax.numpy as jnp
    >>> product = jax.jit(lambda a, b: a @ b).lower(jnp.ones((2, 3)), jnp.ones((3, 5)))
    >>> flops(product.compiler_ir("stablehlo"))
    60.0
    """
    functions = {op.attributes["sym_name"].value: op for op in module.body.operations}
    known: dict[str, float] = {}

    def of_function(name: str) -> float:
        if name not in known:
            known[name] = of_region(functions[name].regions[0])
        return known[name]

    def of_region(region: Any) -> float:
        return sum(of(op) for block in region.blocks for op in block.operations)

    def of(op: Any) -> float:
        match op.operation.name:
            case "stablehlo.dot_general":
                return _product(op)
            case "stablehlo.convolution":
                return _convolution(op)
            case "func.call":
                return of_function(op.attributes["callee"].value)
            case "stablehlo.while":
                condition, body = op.regions
                work = of_region(body)
                return work * _turns(condition) if work else 0.0
            case "stablehlo.case" | "stablehlo.if":
                return max(map(of_region, op.regions))  # one of them runs
        return sum(map(of_region, op.regions))

    return of_function("main")


def _shape(value: Any) -> list[int]:
    from jaxlib.mlir import ir

    return list(ir.RankedTensorType(value.type).shape)


def _product(op: Any) -> float:
    from jaxlib.mlir.dialects import stablehlo

    numbers = stablehlo.DotDimensionNumbers(op.attributes["dot_dimension_numbers"])
    left = _shape(op.operands[0])
    summed = math.prod(left[axis] for axis in numbers.lhs_contracting_dimensions)
    return 2.0 * math.prod(_shape(op.results[0])) * summed


def _convolution(op: Any) -> float:
    """The zeros between the inputs cost nothing: a strided convolution's gradient has them.

    So both gradients count as much as the convolution itself. Zeros around the inputs count.
    """
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo

    numbers = stablehlo.ConvDimensionNumbers(op.attributes["dimension_numbers"])
    weight = _shape(op.operands[1])
    summed = math.prod(weight) // weight[numbers.kernel_output_feature_dimension]
    apart = 1
    if "lhs_dilation" in op.attributes:
        apart = math.prod(ir.DenseI64ArrayAttr(op.attributes["lhs_dilation"]))
    return 2.0 * math.prod(_shape(op.results[0])) * summed / apart


def _turns(condition: Any) -> int:
    """Of a loop as JAX writes a scan: a counter from 0 in steps of 1, compared with a constant."""
    from jaxlib.mlir import ir

    for op in condition.blocks[0].operations:
        if op.operation.name == "stablehlo.compare":
            limit = op.operands[1].owner
            if isinstance(limit, ir.Operation | ir.OpView) and limit.name == "stablehlo.constant":
                return int(ir.DenseIntElementsAttr(limit.attributes["value"])[0])
    raise ValueError("a loop whose number of turns is not a constant: its work cannot be counted")
