"""torch.nn.functional's losses as pure functions."""

import jax
import jax.numpy as jnp

__all__ = ["cross_entropy", "mse_loss"]


def mse_loss(input: jax.Array, target: jax.Array, reduction: str = "mean") -> jax.Array:
    """(input - target)^2: torch.nn.functional.mse_loss.

    Args:
        input: any shape.
        target: the same shape. Torch warns and broadcasts when it is another one,
            which hides mistakes such as (N,) against (N, 1); here it is an error.
        reduction: "mean", "sum" or "none".
    """
    if input.shape != target.shape:
        raise ValueError(
            f"mse_loss: input {input.shape} and target {target.shape} differ in shape; "
            "reshape one of them"
        )
    return reduce(jnp.square(input - target), reduction)


def cross_entropy(input: jax.Array, target: jax.Array, reduction: str = "mean") -> jax.Array:
    """-log softmax(input)[target]: torch.nn.functional.cross_entropy.

    Args:
        input: scores (N, C), or (C,).
        target: class numbers (N,), or a single one.
        reduction: "mean", "sum" or "none".
    """
    if input.ndim not in (1, 2) or target.shape != input.shape[:-1]:
        raise ValueError(
            f"cross_entropy: scores {input.shape} and classes {target.shape} do not match; "
            "accepted are (N, C) with (N,), and (C,) with a single class"
        )
    if not jnp.issubdtype(target.dtype, jnp.integer):
        raise TypeError(f"cross_entropy: classes of dtype {target.dtype}; give integers")
    log_p = jax.nn.log_softmax(input, axis=-1)
    picked = jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]
    return reduce(-picked, reduction)


def reduce(values: jax.Array, reduction: str) -> jax.Array:
    """One number out of many, or all of them, by torch's word for it."""
    if reduction == "mean":
        return values.mean()
    if reduction == "sum":
        return values.sum()
    if reduction == "none":
        return values
    raise ValueError(f"reduction: {reduction!r}; accepted are 'mean', 'sum' and 'none'")
