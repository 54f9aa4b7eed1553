"""Affine layers."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxnet.nn.init import Rngs, default_weight_and_bias
from jaxnet.nn.module import Module, wrong_shape

__all__ = ["Flatten", "Identity", "Linear", "linear"]


def linear(input: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """y = x W^T + b: torch.nn.functional.linear.

    Args:
        input: (..., in_features).
        weight: (out_features, in_features) or (in_features,).
        bias: (out_features,).

    Returns:
        (..., out_features), or (...) for a weight of one dimension.
    """
    output = input @ weight.T
    if bias is None:
        return output
    return output + jnp.broadcast_to(bias, output.shape)


class Linear(Module):
    """y = x W^T + b: torch.nn.Linear.

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        bias: whether b is there.
        rngs: source of the initial weights, U(-1/sqrt(in), 1/sqrt(in)) for both.
        dtype: of the parameters.

    Parameters `weight` (out, in) and `bias` (out,), as in torch.

    >>> from jaxnet.random import Generator
    >>> Linear(1, 8, rngs=Generator(0))
    Linear(in_features=1, out_features=8, bias=True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        self.in_features = in_features
        self.out_features = out_features
        self.weight, self.bias = default_weight_and_bias(
            (out_features, in_features), out_features if bias else None, rngs, dtype
        )

    def __call__(self, input: jax.Array) -> jax.Array:
        """(..., in_features) to (..., out_features)."""
        if input.ndim == 0 or input.shape[-1] != self.in_features:
            raise wrong_shape(self, f"(..., {self.in_features})", input)
        bias = None if self.bias is None else self.bias[...]
        return linear(input, self.weight[...], bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Identity(Module):
    """Gives its input back, whatever it was built with: torch.nn.Identity."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, input: jax.Array) -> jax.Array:
        return input


class Flatten(Module):
    """Joins the axes start_dim to end_dim into one, in (C, H, W) order: torch.nn.Flatten."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = start_dim
        self.end_dim = end_dim

    def __call__(self, input: jax.Array) -> jax.Array:
        start, end = self.start_dim % input.ndim, self.end_dim % input.ndim
        if start > end:
            raise ValueError(
                f"{self!r}: start_dim lies behind end_dim for an input of shape {input.shape}"
            )
        return input.reshape(*input.shape[:start], -1, *input.shape[end + 1 :])

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
