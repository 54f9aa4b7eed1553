"""Spectral normalization: its arithmetic, and torch's older form of it."""

import dataclasses
from typing import Any, Never, TypeVar

import jax
import jax.numpy as jnp

from jaxnet._checks import check_integer
from jaxnet.nn._conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from jaxnet.nn._draw import Rngs, draw_normal
from jaxnet.nn._module import Buffer
from jaxnet.nn.utils._derived import add_rule, own_variable, undo
from jaxnet.precision import full_float32, promoted

M = TypeVar("M")


def output_dim(module: Any, dim: int | None, ndim: int) -> int:
    """The axis of the outputs: 0, or 1 for a transposed convolution, unless it is given.

    Raises:
        ValueError: There is no such axis.
    """
    if dim is None:
        dim = int(isinstance(module, ConvTranspose1d | ConvTranspose2d | ConvTranspose3d))
    if not -ndim <= dim < ndim:
        raise ValueError(
            f"spectral_norm: dim: {dim}; the weight has {ndim} axes, so accepted are {-ndim} to "
            f"{ndim - 1}"
        )
    return dim % ndim


def as_matrix(weight: jax.Array, dim: int) -> jax.Array:
    """The weight as a matrix whose rows are the entries of one axis."""
    return jnp.moveaxis(weight, dim, 0).reshape(weight.shape[dim], -1)


def normalized(x: jax.Array, eps: float) -> jax.Array:
    """Returns x / max(|x|, eps)."""
    return x / jnp.maximum(jnp.sqrt(jnp.sum(jnp.abs(x) ** 2)), eps)


def drawn(weight: jax.Array, eps: float, rngs: Rngs) -> tuple[jax.Array, jax.Array]:
    """The first vectors u and v of a matrix, drawn as torch draws them: u before v."""
    return tuple(normalized(draw_normal(rngs, (n,), 0, 1, weight.dtype), eps) for n in weight.shape)  # type: ignore[return-value]


@full_float32()
def after_iterations(
    matrix: jax.Array, u: jax.Array, v: jax.Array, n: int, eps: float, u_first: bool
) -> tuple[jax.Array, jax.Array]:
    """The vectors u and v after n steps of the power method, without a gradient.

    Torch's newer form computes u first in each step, its older form v.
    """
    matrix = jax.lax.stop_gradient(matrix).astype(u.dtype)
    for _ in range(n):
        if u_first:
            u = normalized(matrix @ v, eps)
        v = normalized(matrix.T @ u, eps)
        if not u_first:
            u = normalized(matrix @ v, eps)
    return u, v


@full_float32()
def divided(weight: jax.Array, u: jax.Array, v: jax.Array, dim: int) -> jax.Array:
    """Returns W / (u^T W v)."""
    dtype = promoted(weight.dtype, u.dtype)  # parameters may be narrower than the buffers
    wide = weight.astype(dtype)
    sigma = u.astype(dtype) @ (as_matrix(wide, dim) @ v.astype(dtype))
    return (wide / sigma).astype(weight.dtype)


def other_names(name: str) -> dict[str, str]:
    """The names of the arrays in torch's newer form, by those of the older form."""
    newer = f"parametrizations.{name}"
    found = {f"{name}_orig": f"{newer}.original"}
    return found | {f"{name}_{letter}": f"{newer}.0._{letter}" for letter in "uv"}


@dataclasses.dataclass(frozen=True)
class _Rule:
    name: str
    dim: int
    n_power_iterations: int
    eps: float

    def compute(self, module: Any, calling: bool) -> jax.Array:
        weight, u, v = (getattr(module, self.name + s) for s in ("_orig", "_u", "_v"))
        if calling and module.training:
            matrix = as_matrix(weight[...], self.dim)
            u[...], v[...] = after_iterations(
                matrix, u[...], v[...], self.n_power_iterations, self.eps, u_first=False
            )
        return divided(weight[...], u[...], v[...], self.dim)

    def other_names(self, module: Any) -> dict[str, str]:
        del module
        return other_names(self.name)

    def assign(self, module: Any, value: Any) -> Never:
        raise ValueError(
            f"{type(module).__name__}.{self.name}: it is computed at every call; assign "
            f"{self.name}_orig, or call remove_spectral_norm first"
        )


def spectral_norm(
    module: M,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
    *,
    rngs: Rngs,
) -> M:
    """Divides a weight by its largest singular value, in torch's older form.

    This is torch.nn.utils.spectral_norm. The parameter `weight` becomes `weight_orig`, and the
    module gets the buffers `weight_u` and `weight_v`, the estimates of the singular vectors, which
    each call in training mode improves by the power method. New programs take
    `parametrizations.spectral_norm`, whose state_dict this form reads too.

    Args:
        module: The module, which is changed in place.
        name: The name of the weight.
        n_power_iterations: The number of steps of the power method in a call, at least 1.
        eps: The least norm that a vector is divided by.
        dim: The axis of the outputs. None is 1 for ConvTranspose1d to 3d, else 0.
        rngs: The source of the first vectors. A `Generator` gives those that torch draws.

    Returns:
        The module.

    Raises:
        TypeError: The module is no module of jaxnet, or rngs no source of random numbers.
        ValueError: The module has no such weight, the weight has no such axis, or the number of
            steps is below 1.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> generator = Generator(0)
    >>> layer = spectral_norm(nn.Linear(20, 40, rngs=generator), rngs=generator)
    >>> [name for name, _ in layer.named_buffers()]
    ['weight_u', 'weight_v']
    """
    weight = own_variable("spectral_norm", module, name)
    check_integer("n_power_iterations", n_power_iterations, least=1)
    rule = _Rule(name, output_dim(module, dim, weight.ndim), n_power_iterations, eps)
    u, v = drawn(as_matrix(weight[...], rule.dim), eps, rngs)
    delattr(module, name)
    for suffix, array in (("_orig", weight), ("_u", Buffer(u)), ("_v", Buffer(v))):
        setattr(module, name + suffix, array)
    add_rule(module, name, rule)
    return module


def remove_spectral_norm(module: M, name: str = "weight") -> M:
    """Makes a weight of `spectral_norm` a parameter again: torch.nn.utils.remove_spectral_norm.

    Args:
        module: The module, which is changed in place.
        name: The name of the weight.

    Returns:
        The module.

    Raises:
        ValueError: The module has no such weight.
    """
    undo("spectral_norm", module, name, _Rule, ("_u", "_v", "_orig"))
    return module
