"""Gradient clipping by the rules of torch.nn.utils."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxnet.optim._optimizer import Optimizer, rounding
from jaxnet.precision import amax, amin, promoted


def get_total_norm(
    grads: Any, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> jax.Array:
    """The norm of all gradients as one vector: torch.nn.utils.get_total_norm.

    Args:
        grads: The gradients, a pytree of arrays.
        norm_type: The p of the p-norm. inf or "inf" is the largest absolute value.
        error_if_nonfinite: Whether a norm that is not finite is an error.

    Returns:
        The norm, a 0-d array of the gradients' common dtype; 0 if there are no gradients.

    Raises:
        ValueError: norm_type is nan. Or error_if_nonfinite is True and the norm is not
            finite, or the call is inside a compiled function, which cannot raise; use
            `skip_nonfinite` there.
    """
    p = float(norm_type)
    if math.isnan(p):
        raise ValueError(f"norm_type: {norm_type}; accepted is a number or inf")
    leaves = [jnp.asarray(g) for g in jax.tree.leaves(grads)]
    if not leaves:
        return jnp.zeros(())
    dtype = promoted(*leaves)
    norms = jnp.stack([_norm(g, p).astype(dtype) for g in leaves])
    total = _norm(norms, p)
    if error_if_nonfinite:
        if isinstance(total, jax.core.Tracer):
            raise ValueError(
                "error_if_nonfinite=True: a compiled function cannot raise; check the norm "
                "that it returns, or leave out the step with optim.skip_nonfinite"
            )
        if not bool(jnp.isfinite(total)):
            raise ValueError(
                f"the norm of order {p:g} of the gradients is {float(total)}; "
                "error_if_nonfinite=False scales by it anyway"
            )
    return total


def _norm(x: jax.Array, p: float) -> jax.Array:
    """The p-norm over all axes, summed in float32 or wider and rounded to the dtype of x."""
    size = jnp.abs(x.astype(promoted(x.dtype, jnp.float32)))
    if p == math.inf:
        result = amax(size, initial=0)
    elif p == -math.inf:
        result = amin(size, initial=math.inf)
    elif p == 0:
        result = jnp.sum(size != 0).astype(size.dtype)
    elif p == 1:
        result = jnp.sum(size)
    elif p == 2:
        result = jnp.sqrt(jnp.sum(size * size))
    else:
        result = jnp.sum(size**p) ** (1 / p)
    return result.astype(x.dtype)


def clip_grad_norm_(
    grads: Any, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> tuple[Any, jax.Array]:
    """Scales gradients down to a largest norm: torch.nn.utils.clip_grad_norm_.

    The factor is min(1, max_norm / (norm + 1e-6)); optax.clip_by_global_norm has no epsilon.

    Args:
        grads: The gradients, a pytree of arrays. Unlike in torch they are not changed in
            place.
        max_norm: The largest norm, at least 0.
        norm_type, error_if_nonfinite: As in `get_total_norm`.

    Returns:
        The clipped gradients and the norm before clipping.

    Raises:
        ValueError: max_norm is below 0, or `get_total_norm` raises the error.

    >>> clipped, norm = clip_grad_norm_({"weight": jnp.array([3.0, 4.0])}, max_norm=1.0)
    >>> float(norm)
    5.0
    """
    norm = get_total_norm(grads, norm_type, error_if_nonfinite)
    return clip_grads_with_norm_(grads, max_norm, norm), norm


def clip_grads_with_norm_(grads: Any, max_norm: float, total_norm: jax.Array) -> Any:
    """Scales gradients whose norm is known: torch.nn.utils.clip_grads_with_norm_.

    Args:
        grads: The gradients, a pytree of arrays. Unlike in torch they are not changed in
            place.
        max_norm: The largest norm, at least 0.
        total_norm: The norm that is scaled down to max_norm, from `get_total_norm`.

    Returns:
        The clipped gradients.

    Raises:
        ValueError: max_norm is below 0.
    """
    _check_bound("max_norm", max_norm)
    norm = jnp.asarray(total_norm)
    # Torch computes the factor in the norm's dtype, one rounding after each operation.
    narrow = rounding(norm.dtype)
    wide = norm.astype(promoted(norm.dtype, jnp.float32))
    factor = jnp.minimum(narrow(max_norm / narrow(wide + 1e-6)), 1)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads)


def clip_grad_value_(grads: Any, clip_value: float) -> Any:
    """Limits gradients to [-clip_value, clip_value]: torch.nn.utils.clip_grad_value_.

    Args:
        grads: The gradients, a pytree of arrays. Unlike in torch they are not changed in
            place.
        clip_value: The largest absolute value, at least 0.

    Returns:
        The clipped gradients. A nan stays nan.

    Raises:
        ValueError: clip_value is below 0.
    """
    _check_bound("clip_value", clip_value)
    return jax.tree.map(lambda g: jnp.clip(g, -clip_value, clip_value), grads)


def _check_bound(name: str, value: Any) -> None:
    if not isinstance(value, jax.core.Tracer) and not float(value) >= 0:
        raise ValueError(f"{name}: {value}; accepted is a number of at least 0")


def clip_by_norm(max_norm: float, norm_type: float = 2.0) -> optax.GradientTransformation:
    """A transformation for `chain` that clips as `clip_grad_norm_` does.

    Args:
        max_norm, norm_type: As in `clip_grad_norm_`.
    """
    _check_bound("max_norm", max_norm)
    return _stateless(lambda grads: clip_grad_norm_(grads, max_norm, norm_type)[0])


def clip_by_value(clip_value: float) -> optax.GradientTransformation:
    """A transformation for `chain` that clips as `clip_grad_value_` does.

    Args:
        clip_value: As in `clip_grad_value_`.
    """
    _check_bound("clip_value", clip_value)
    return _stateless(lambda grads: clip_grad_value_(grads, clip_value))


class _Clip(optax.GradientTransformation):  # type: ignore[misc]  # optax has no types
    """A transformation that clips, which `chain` knows by its class."""


def _stateless(change: Any) -> _Clip:
    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return change(grads), state

    return _Clip(lambda params: optax.EmptyState(), update)


def chain(*parts: optax.GradientTransformation) -> Optimizer:
    """Applies transformations one after another: optax.chain with parameter groups.

    Args:
        *parts: The transformations in order; exactly one is an optimizer of jaxnet.optim.

    Returns:
        An optimizer with the parameter groups of that one.

    Raises:
        ValueError: There is no optimizer among the parts, or more than one; clipping comes after
            it, or it accumulates gradients, of which clipping has to see the sum.

    >>> from jaxnet import optim
    >>> optimizer = optim.chain(optim.clip_by_norm(1.0), optim.SGD(lr=0.1))
    """
    optimizers = [part for part in parts if isinstance(part, Optimizer)]
    if len(optimizers) != 1:
        raise ValueError(
            f"chain: it holds {len(optimizers)} optimizers of jaxnet.optim; accepted is one"
        )
    if any(isinstance(part, _Clip) for part in parts[parts.index(optimizers[0]) :]):
        raise ValueError(
            "chain: clipping after the optimizer would limit its updates, not the gradients; "
            "write optim.chain(optim.clip_by_norm(1.0), optimizer)"
        )
    if optimizers[0].name == "accumulate" and any(isinstance(part, _Clip) for part in parts):
        raise ValueError(
            "chain: clipping before `accumulate` would limit the gradients of each batch, not "
            "their sum; write optim.accumulate(optim.chain(optim.clip_by_norm(1.0), optimizer), 4)"
        )
    whole = optax.with_extra_args_support(optax.chain(*parts))
    return optimizers[0].around("chain", whole.init, whole.update)
