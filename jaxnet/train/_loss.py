"""What a loss is given, and what it may return."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxnet._batch_parts import batch_norm_in_parts
from jaxnet._keys import keys
from jaxnet._mixed_precision import cast_floats, computing_in
from jaxnet._names import is_module
from jaxnet.precision import check_x64
from jaxnet.train._several import check_no_models, map_states, named_states
from jaxnet.train._state import keeping_attributes

Metrics = dict[str, Any]
Loss = Callable[[Any, Any], Any]


def with_step(loss: Loss) -> Callable[[Any, Any, jax.Array], Any]:
    """The loss as a function of models, batch and step, whether it has the third or not."""
    try:
        named = inspect.signature(loss).parameters.get("step")
    except (TypeError, ValueError):  # a function of C, which has no signature
        named = None
    takes = named is not None and named.default is inspect.Parameter.empty
    whole: Any = loss

    def call(models: Any, batch: Any, step: jax.Array) -> Any:
        try:
            return whole(models, batch, step=step) if takes else whole(models, batch)
        except TypeError as error:
            kind = type(models).__name__
            if is_module(models) or f"{kind!r} object is not callable" not in str(error):
                raise
            raise TypeError(
                f"loss: it calls the {kind} of all models; where the state is that of several, "
                'a loss chooses from them, as nets["judge"](inputs)'
            ) from error

    return call


@contextmanager
def entered(
    state: Any,
    batch: Any,
    key: jax.Array,
    compute_dtype: DTypeLike | None,
    training: bool,
    batch_norm_parts: int = 1,
) -> Iterator[tuple[Any, Any]]:
    """The model of a state, or all models of several, ready to be called, and the batch."""
    check_no_models(state)
    batch = in_dtype_of(state, batch, compute_dtype)
    models = map_states(lambda one: one.model(training=training), state)
    with ExitStack() as stack:
        stack.enter_context(keys(key))
        stack.enter_context(batch_norm_in_parts(batch_norm_parts, batch))
        for one in jax.tree.leaves(models, is_leaf=is_module):
            if is_module(one):
                stack.enter_context(computing_in(one, compute_dtype))
                stack.enter_context(keeping_attributes(one))
        yield models, batch


def in_dtype_of(state: Any, batch: Any, compute_dtype: DTypeLike | None) -> Any:
    """A batch with its floating arrays in the dtype that `create` was given, if it was given one.

    Raises:
        ValueError: The states of several models were given different ones, there is a
            `compute_dtype` beside it, or it is float64 and jax_enable_x64 is not set any more.
    """
    dtypes = {name: one.cast for name, one in named_states(state).items()}
    if len(set(dtypes.values())) > 1:
        given = ", ".join(f"{name}: {dtype}" for name, dtype in dtypes.items())
        raise ValueError(f"dtype: {given}; all models share a batch, so give each create the same")
    dtype = next(iter(dtypes.values()), None)
    if dtype is None:
        return batch
    check_x64("dtype", dtype)
    if compute_dtype is not None:
        raise ValueError(
            f"compute_dtype: {jnp.dtype(compute_dtype)}, and create was given dtype={dtype}; "
            "leave one of them out"
        )
    return cast_floats(batch, dtype)


def with_metrics(result: Any) -> tuple[jax.Array, Metrics]:
    value, metrics = result if isinstance(result, tuple) else (result, {})
    metrics = {name: jax.tree.map(jnp.asarray, _checked(name, m)) for name, m in metrics.items()}
    if getattr(value, "ndim", None) != 0:
        shape = getattr(value, "shape", None)
        given = type(value).__name__ if shape is None else f"an array of shape {shape}"
        raise ValueError(
            f"loss: it gave {given}; a loss is one number, so take the mean or the sum"
        )
    if "loss" in metrics:
        raise ValueError("metrics: 'loss' is the loss itself; give this metric another name")
    return value, metrics


def _checked(name: str, metric: Any) -> Any:
    for leaf in jax.tree.leaves(metric):
        if not (hasattr(leaf, "dtype") or isinstance(leaf, bool | int | float)):
            raise TypeError(
                f"metrics: {name}: {leaf!r}; accepted are numbers, arrays of numbers, and what "
                "jaxnet.metrics gives"
            )
    return metric
