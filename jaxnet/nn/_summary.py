"""A table of a model's layers, output shapes and parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet._intercept import Call, intercept
from jaxnet._names import members, named_modules, named_variables


@dataclass(frozen=True)
class Row:
    """One module under one of its names.

    Attributes:
        name: The dotted name, "" for the model itself.
        kind: The name of the module's class.
        output_shape: The shape of the output, or a structure of shapes like the output; None
            if the module was not called. After several calls it is that of the first call;
            but if the module has as many names as calls, each name has the shape of its call.
        calls: The number of calls, under all names of the module together.
        parameters: The number of trainable numbers of the module itself, without its children
            and without parameters that an earlier row has counted.
        shared_with: The earlier name of the same module, or of a module with the same
            Parameter.
    """

    name: str
    kind: str
    output_shape: Any
    calls: int
    parameters: int
    shared_with: str | None = None


@dataclass(frozen=True)
class Summary:
    """The rows and totals of a model, printed as a table.

    Attributes:
        rows: The rows, parents before their children, in torch's order.
        parameters: The number of trainable numbers, where shared ones count once.
        buffers: The number of numbers that are not trained.
        parameter_bytes: The size of the parameters in bytes.
        buffer_bytes: The size of the buffers in bytes.
    """

    rows: tuple[Row, ...]
    parameters: int
    buffers: int
    parameter_bytes: int
    buffer_bytes: int

    def __str__(self) -> str:
        table = [("layer", "class", "output shape", "parameters"), *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(map(str.ljust, cells[:3], widths)) + "  " + cells[3].rjust(widths[3])
            for cells in table
        ]
        rule = "-" * len(lines[0])
        size = self.parameter_bytes + self.buffer_bytes
        totals = [
            f"trainable parameters: {self.parameters:,} ({self.parameter_bytes:,} bytes)",
            f"buffers: {self.buffers:,} ({self.buffer_bytes:,} bytes)",
            f"total: {self.parameters + self.buffers:,} ({size:,} bytes)",
        ]
        return "\n".join([lines[0], rule, *lines[1:], rule, *totals])

    __repr__ = __str__


def summary(model: nnx.Module, *inputs: Any, **kwargs: Any) -> Summary:
    """Lists the layers of a model with their output shapes and their numbers of parameters.

    Nothing is computed: the shapes are found by tracing a copy of the model in evaluation
    mode. The model itself is unchanged.

    Args:
        model: A module.
        *inputs: The arguments of the model's call: arrays, `jax.ShapeDtypeStruct`s, or shapes
            as tuples of integers, which stand for arrays with the dtype of the model's
            parameters.
        **kwargs: The keyword arguments of the call. Values that are not arrays are passed on
            unchanged.

    Returns:
        The summary, whose printed form is the table.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> g = Generator(0)
    >>> nn.summary(nn.Sequential(nn.Linear(1, 8, rngs=g), nn.Tanh()), (5, 1))
    layer  class       output shape  parameters
    -------------------------------------------
           Sequential  (5, 8)                 -
    0      Linear      (5, 8)                16
    1      Tanh        (5, 8)                 -
    -------------------------------------------
    trainable parameters: 16 (64 bytes)
    buffers: 0 (0 bytes)
    total: 16 (64 bytes)
    """
    shapes = _output_shapes(model, inputs, kwargs)
    names: dict[int, list[str]] = {}
    places = list(named_modules(model, remove_duplicate=False))
    for name, module in places:
        names.setdefault(id(module), []).append(name)
    rows = []
    counted: dict[int, str] = {}
    for name, module in places:
        aliases = names[id(module)]
        calls = next((shapes[alias] for alias in aliases if alias in shapes), [])
        # As many names as calls: the module was called once under each name, in this order.
        call = aliases.index(name) if len(calls) == len(aliases) else 0
        shared_with = None if name == aliases[0] else aliases[0]
        own = 0
        for _, value in members(module):
            if isinstance(value, nnx.Param):
                # A shared parameter counts only in the first row that has it.
                if id(value) not in counted:
                    own += value.size
                elif shared_with is None:
                    shared_with = counted[id(value)]
                counted.setdefault(id(value), name)
        rows.append(
            Row(
                name=name,
                kind=type(module).__name__,
                output_shape=calls[call] if calls else None,
                calls=len(calls),
                parameters=own,
                shared_with=shared_with,
            )
        )
    parameters, buffers = _variables(model, True), _variables(model, False)
    return Summary(
        rows=tuple(rows),
        parameters=sum(v.size for v in parameters),
        buffers=sum(v.size for v in buffers),
        parameter_bytes=sum(v[...].nbytes for v in parameters),
        buffer_bytes=sum(v[...].nbytes for v in buffers),
    )


def _output_shapes(model: nnx.Module, inputs: Any, kwargs: Any) -> dict[str, list[Any]]:
    """Returns the output shapes of each module's calls, under the module's first name."""
    dtype = next(
        (v.dtype for v in _variables(model, True) if jnp.issubdtype(v.dtype, jnp.floating)),
        jnp.zeros(()).dtype,
    )
    inputs = [jax.ShapeDtypeStruct(x, dtype) if _is_shape(x) else x for x in inputs]
    leaves, structure = jax.tree.flatten((inputs, kwargs))
    # Arrays are arguments of the traced function. Other leaves, such as flags, stay as they are,
    # so that Python code in the model can branch on them.
    arrays = {
        i: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct)
    }
    graphdef, state = nnx.split(model)
    shapes: dict[str, list[Any]] = {}

    def note(call: Call, proceed: Callable[..., Any]) -> Any:
        output = proceed(*call.args, **call.kwargs)
        shapes.setdefault(call.name, []).append(jax.tree.map(np.shape, output))
        return output

    def run(state: Any, arrays: dict[int, Any]) -> Any:
        copy = nnx.merge(graphdef, state)
        # In evaluation mode no random keys are needed.
        copy.eval()
        given = [arrays.get(i, leaf) for i, leaf in enumerate(leaves)]
        args, kwargs = jax.tree.unflatten(structure, given)
        with intercept(copy, note):
            copy(*args, **kwargs)

    jax.eval_shape(run, state, arrays)
    return shapes


def _variables(model: nnx.Module, trainable: bool) -> list[nnx.Variable[Any]]:
    """Returns the trainable variables, or all others except random states, each once."""
    return [
        variable
        for _, variable in named_variables(model)
        if isinstance(variable, nnx.Param) == trainable and not isinstance(variable, nnx.RngState)
    ]


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple) and all(isinstance(size, int) for size in x)


def _cells(row: Row) -> tuple[str, str, str, str]:
    shape = "-" if row.output_shape is None else str(row.output_shape)
    if row.calls > 1:
        shape += f" x {row.calls}"
    parameters = f"{row.parameters:,}" if row.parameters else "-"
    if row.shared_with is not None:
        parameters = f"as {row.shared_with}"
    return row.name, row.kind, shape, parameters
