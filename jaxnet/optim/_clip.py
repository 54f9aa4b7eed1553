"""Gradient clipping as torch.nn.utils does it."""

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
        grads: a pytree of arrays.
        norm_type: p of the p-norm; inf (or "inf") for the largest absolute value.
        error_if_nonfinite: whether a norm that is not finite is an error.

    Returns:
        The norm, 0-d; 0 for no gradients.

    Raises:
        ValueError: the norm is not finite and that is an error; or it has no value
            yet because the call is being compiled, where nothing can be raised: use
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
    """The p-norm over all axes, summed at least in float32, in x's dtype."""
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
    """Gradients times min(1, max_norm / (norm + 1e-6)): torch.nn.utils.clip_grad_norm_.

    Args:
        grads: a pytree of arrays. They are not changed in place, whatever the name.
        max_norm: the largest norm that passes.
        norm_type: p of the p-norm, or inf.
        error_if_nonfinite: whether a norm that is not finite is an error.

    Returns:
        The clipped gradients, and the norm before.

    Raises:
        ValueError: as `get_total_norm`.

    Optax's clip_by_global_norm has no epsilon.

    >>> clipped, norm = clip_grad_norm_({"weight": jnp.array([3.0, 4.0])}, max_norm=1.0)
    >>> float(norm)
    5.0
    """
    _check_bound("max_norm", max_norm)
    norm = get_total_norm(grads, norm_type, error_if_nonfinite)
    narrow = rounding(norm.dtype)
    wide = norm.astype(promoted(norm.dtype, jnp.float32))
    factor = jnp.minimum(narrow(max_norm / narrow(wide + 1e-6)), 1)
    return jax.tree.map(lambda g: g * factor.astype(g.dtype), grads), norm


def clip_grad_value_(grads: Any, clip_value: float) -> Any:
    """Gradients held between -clip_value and clip_value: torch.nn.utils.clip_grad_value_.

    Args:
        grads: a pytree of arrays. They are not changed in place, whatever the name.
        clip_value: the largest absolute value that passes.

    Returns:
        The clipped gradients. nan stays nan.
    """
    _check_bound("clip_value", clip_value)
    return jax.tree.map(lambda g: jnp.clip(g, -clip_value, clip_value), grads)


def _check_bound(name: str, value: Any) -> None:
    if not isinstance(value, jax.core.Tracer) and not float(value) >= 0:
        raise ValueError(f"{name}: {value}; accepted is a number of at least 0")


def clip_by_norm(max_norm: float, norm_type: float = 2.0) -> optax.GradientTransformation:
    """`clip_grad_norm_` as a part of a `chain`."""
    _check_bound("max_norm", max_norm)
    return _stateless(lambda grads: clip_grad_norm_(grads, max_norm, norm_type)[0])


def clip_by_value(clip_value: float) -> optax.GradientTransformation:
    """`clip_grad_value_` as a part of a `chain`."""
    _check_bound("clip_value", clip_value)
    return _stateless(lambda grads: clip_grad_value_(grads, clip_value))


def _stateless(change: Any) -> optax.GradientTransformation:
    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return change(grads), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def chain(*parts: optax.GradientTransformation) -> Optimizer:
    """Transformations one after another: optax.chain, which keeps the parameter groups.

    >>> from jaxnet import optim
    >>> optimizer = optim.chain(optim.clip_by_norm(1.0), optim.SGD(lr=0.1))
    """
    optimizers = [part for part in parts if isinstance(part, Optimizer)]
    if len(optimizers) != 1:
        raise ValueError(
            f"chain: it holds {len(optimizers)} optimizers of jaxnet.optim; accepted is one"
        )
    whole = optax.with_extra_args_support(optax.chain(*parts))
    return optimizers[0].around("chain", whole.init, whole.update)
