"""A trained model as one file that runs without the program that made it, and without jaxnet."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export
from jax.typing import DTypeLike

from jaxnet._arrays import as_jax
from jaxnet._checks import check_integer
from jaxnet._extras import needed
from jaxnet._files import write_bytes
from jaxnet.train._evaluate import make_predict
from jaxnet.train._loaders import row_count
from jaxnet.train._several import check_no_models


def export(
    state: Any,
    example: Any,
    path: str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    platforms: Sequence[str] = ("cpu", "cuda"),
    compute_dtype: DTypeLike | None = None,
    averaged: bool = False,
) -> jax_export.Exported:
    """Writes the model of a state in evaluation mode into a file, weights and all.

    Wherever there is JAX, `jax.export.deserialize(bytearray(open(path, "rb").read()))` reads it,
    and its `call(inputs)` predicts: neither jaxnet nor the classes of the model are needed. It is
    made for several platforms at once, on a machine that may have none of the others. It needs
    the package flatbuffers. In PyTorch this is `torch.export.save`.

    Args:
        state: The state of a run, such as `fit(...).state`; it stays usable.
        example: Inputs without targets, with the rows along axis 0, whose shapes and dtypes
            hold; a tuple becomes the model's arguments. The number of rows does not matter.
        path: Path of the file.
        batch_size: The number of rows that the file takes; by default any.
        platforms: The platforms that it runs on, of "cpu", "cuda", "rocm" and "tpu".
        compute_dtype: The dtype of the model's arithmetic; outputs are float32.
        averaged: Whether to use the running average of the weights.

    Returns:
        What the file holds: its `call`, `in_avals` and `out_avals` say what goes in and comes
        out.

    Raises:
        ImportError: flatbuffers is not installed.
        ValueError: The model computes with the number of its rows in a way that does not hold
            for every number, a platform is unknown, or the arrays of the example have different
            numbers of rows.
        TypeError: The state is a model.
        OSError: The file cannot be written.
    """
    needed("flatbuffers", "train.export", "flatbuffers")
    check_no_models(state)
    if batch_size is not None:
        check_integer("batch_size", batch_size, least=1)
    known = ("cpu", "cuda", "rocm", "tpu")
    if isinstance(platforms, str) or not platforms or not set(platforms) <= set(known):
        raise ValueError(f"platforms: {platforms!r}; accepted is a list of some of {known}")
    inputs = example if isinstance(example, tuple) else (example,)
    row_count(inputs, "example")
    inputs = jax.tree.map(lambda x: as_jax("example", x), inputs)
    predict = make_predict(compute_dtype, averaged)
    # Weights become constants of the program, those of a mesh too.
    state = jax.tree.map(_on_one_device, state)
    program = jax.jit(lambda *inputs: predict(state, *inputs))
    scope = jax_export.SymbolicScope()

    def described(x: jax.Array) -> jax.ShapeDtypeStruct:
        rows = batch_size or jax_export.symbolic_shape("rows", scope=scope)[0]
        return jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype)

    shapes = jax.tree.map(described, inputs)
    try:
        exported = jax_export.export(program, platforms=list(platforms))(*shapes)
    except Exception as error:
        if batch_size is not None or not _is_about_rows(error):
            raise
        raise ValueError(
            "batch_size: the model computes with the number of its rows, so that no file serves "
            "every number; give batch_size=, the only one then, or write the model without it "
            f"({str(error).splitlines()[0]})"
        ) from error
    write_bytes(Path(path), bytes(exported.serialize()))
    return exported


def _on_one_device(x: Any) -> jax.Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = jnp.asarray(np.asarray(jax.random.key_data(x)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return jnp.asarray(np.asarray(x))


def _is_about_rows(error: Exception) -> bool:
    """Whether it is said of a symbolic size."""
    text = str(error)
    return type(error).__name__ == "InconclusiveDimensionOperation" or "symbolic" in text
