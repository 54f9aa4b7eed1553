"""The optimizers of optax that a program is given: inside of flax's, and around several batches."""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxnet.optim import Optimizer
from jaxnet.parity._port import SubjectError


class AdaptedOptimizer(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """An optimizer that says as one of jaxnet's does whether it collects gradients.

    Attributes:
        name: "accumulate" for one that collects the gradients of several batches.
        defaults: {"reduction": "mean" or "sum"}, of these gradients.
    """

    name: str = ""
    defaults: Mapping[str, Any] = {"reduction": "mean"}


def transformation(model: nnx.Module, optimizer: Any) -> Any:
    """The optimizer of optax that flax's nnx.Optimizer has inside; others as they are.

    One of optax.MultiSteps becomes an `AdaptedOptimizer`, which says that it collects gradients.

    Raises:
        SubjectError: The nnx.Optimizer leaves parameters of the model out; the gradients are
            collected within another transformation, or in numbers of fewer digits.
    """
    if isinstance(optimizer, nnx.Optimizer):
        left = _names(model, nnx.Param) - _names(model, optimizer.wrt)
        if left:
            raise SubjectError(
                f"check: optimizer: its wrt leaves {', '.join(sorted(left))} out; accepted is one "
                "of all parameters (nnx.Param). Check a program that trains some of them by its "
                "step: step= and state="
            )
        optimizer = optimizer.tx
    several = several_of(optimizer)
    return optimizer if several is None else collecting(several, _dtypes(nnx.state(model)))


def several_of(optimizer: Any) -> optax.MultiSteps | None:
    """The MultiSteps that an optimizer is, or that its gradient_transformation() is of."""
    several = getattr(getattr(optimizer, "update", None), "__self__", optimizer)
    return several if isinstance(several, optax.MultiSteps) else None


def collecting(several: optax.MultiSteps, dtypes: Collection[np.dtype[Any]]) -> AdaptedOptimizer:
    """An optax.MultiSteps whose sums have the gradients' own dtype, in float64 too.

    Args:
        several: It.
        dtypes: The dtypes of the parameters.

    Raises:
        SubjectError: Its own dtype of the sums has fewer digits than these.
    """
    own = several._accumulator_dtype
    if own is not None:
        digits = [jnp.finfo(each).nmant for each in dtypes if jnp.issubdtype(each, jnp.floating)]
        if not jnp.issubdtype(own, jnp.floating) or jnp.finfo(own).nmant < max(digits, default=0):
            raise SubjectError(
                f"check: optimizer: optax.MultiSteps collects the gradients in "
                f"accumulator_dtype={np.dtype(own).name}, of which there is no float64 run to tell "
                "its rounding from a difference; accepted is a dtype of as many digits as the "
                "parameters have. torch's .grad has the dtype of the parameters: leave "
                "accumulator_dtype out"
            )
    one = copy.copy(several)
    one._accumulator_dtype = None
    found = AdaptedOptimizer(one.init, one.update)
    found.name = "accumulate"
    found.defaults = {"reduction": "mean" if several._use_grad_mean else "sum"}
    return found


def refuse_inner(optimizer: Any, params: Any) -> None:
    """Raises SubjectError if an optimizer collects gradients within another transformation.

    Args:
        optimizer: What `transformation` gave.
        params: The parameters that it is given.
    """
    if isinstance(optimizer, AdaptedOptimizer | Optimizer) or not callable(
        getattr(optimizer, "init", None)
    ):
        return
    if has_sums(jax.eval_shape(optimizer.init, params)):
        raise SubjectError(
            "check: optimizer: optax.MultiSteps inside of another transformation; accepted is "
            "optax.MultiSteps around all others"
        )


def has_sums(state: Any) -> bool:
    """Whether the state of a program has one of optax.MultiSteps."""
    leaves = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.MultiStepsState))
    return any(isinstance(each, optax.MultiStepsState) for each in leaves)


def with_wide_sums(
    step: Callable[..., Any], several: Sequence[optax.MultiSteps]
) -> Callable[..., Any]:
    """A step of the user's own in which collected gradients have the parameters' dtype."""

    @wraps(step)
    def run(*args: Any) -> Any:
        with _wide(several):
            return step(*args)

    return run


@contextmanager
def _wide(several: Sequence[optax.MultiSteps]) -> Iterator[None]:
    # The program is traced inside, with the user's own objects.
    before = [each._accumulator_dtype for each in several]
    try:
        for each in several:
            each._accumulator_dtype = None
        yield
    finally:
        for each, dtype in zip(several, before, strict=True):
            each._accumulator_dtype = dtype


def _names(model: nnx.Module, kind: Any) -> set[str]:
    state = nnx.state(model, nnx.All(kind, nnx.Not(nnx.Intermediate)))
    return {".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)}


def _dtypes(state: Any) -> set[np.dtype[Any]]:
    params = nnx.to_flat_state(nnx.filter_state(state, nnx.Param))
    return {np.dtype(v.get_value().dtype) for _, v in params if hasattr(v.get_value(), "dtype")}
