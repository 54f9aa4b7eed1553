"""Floating arrays in one dtype, half precision inside float32, and a program in another dtype."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxnet._intercept import Call, intercept

# A context of JAX's own kind, so that jit traces a function again where it differs.
_written_for = jax.make_user_context(None)


@contextmanager
def written_for(dtype: DTypeLike) -> Iterator[None]:
    """Inside, a program is computed in another dtype than the one that it was written for.

    Constants that a layer takes from the dtype of its input, as RMSNorm its eps, are those of
    `dtype`: the float64 form of a float32 program is the same program with less rounding.
    """
    with _written_for(np.dtype(dtype)):
        yield


def machine_epsilon(dtype: DTypeLike) -> float:
    """The machine epsilon of a dtype, or of the one that the program was written for."""
    return float(jnp.finfo(_written_for.value or dtype).eps)


@contextmanager
def computing_in(model: nnx.Module, dtype: DTypeLike | None) -> Iterator[None]:
    """Lets a model compute in half precision between float32 parameters and outputs.

    Inside, the model's parameters have the dtype `dtype`, floating arguments of a call of
    the model are cast to `dtype`, and floating results come back in float32. Buffers keep
    their dtype. Afterwards the parameters are as before, except for numbers that a layer
    wrote into them.

    Unlike torch's autocast, which chooses a dtype for each operation, everything between
    input and output is in `dtype`; the layers that sum many numbers (normalisation, softmax)
    sum in float32 by themselves.

    Args:
        model: The model, whose parameters are changed for the time of the context.
        dtype: The dtype, bfloat16 or float16; None leaves everything as it is.

    Raises:
        ValueError: The dtype is not a floating one.
    """
    if dtype is None:
        yield
        return
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"compute_dtype: {jnp.dtype(dtype)}; accepted is a floating dtype")
    # nnx.iter_graph also finds the parameters in lists and dictionaries of plain flax.
    params = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Param)]
    before = [(variable, variable[...], variable[...].astype(dtype)) for variable in params]
    for variable, _, narrow in before:
        variable.set_value(narrow)

    def cast(call: Call, proceed: Callable[..., Any]) -> Any:
        if call.module is not model:
            return proceed(*call.args, **call.kwargs)
        args, kwargs = cast_floats((call.args, call.kwargs), dtype)
        return cast_floats(proceed(*args, **kwargs), jnp.float32)

    try:
        with intercept(model, cast):
            yield
    finally:
        for variable, value, narrow in before:
            now = variable[...]
            # A layer may have written into its parameter, as Embedding(max_norm=...) does. The
            # numbers that it changed stay; the others get their float32 digits back.
            changed = now is not narrow
            variable.set_value(
                jnp.where(now == narrow, value, now.astype(value.dtype)) if changed else value
            )


def cast_floats(tree: Any, dtype: DTypeLike) -> Any:
    """A pytree with its floating arrays in a dtype, and all else as it is."""

    def cast(x: Any) -> Any:
        floating = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.asarray(x, dtype) if floating else x

    return jax.tree.map(cast, tree)
