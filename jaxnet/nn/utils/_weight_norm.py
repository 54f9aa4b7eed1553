"""Weight normalization: its arithmetic, and torch's older form of it."""

import dataclasses
from typing import Any, Never, TypeVar

import jax
import jax.numpy as jnp

from jaxnet._checks import is_integer
from jaxnet.nn._module import Parameter
from jaxnet.nn.utils._derived import add_rule, own_variable, undo
from jaxnet.precision import promoted

M = TypeVar("M")


def checked_dim(dim: Any, ndim: int) -> int:
    """The axis of weight normalization as torch counts it, -1 for the whole array.

    Raises:
        TypeError: The axis is neither a whole number nor None.
        ValueError: There is no such axis.
    """
    if dim is None:
        return -1
    if not is_integer(dim):
        raise TypeError(f"weight_norm: dim: {dim!r}; accepted is a whole number, or None")
    if not -ndim <= dim < ndim:
        raise ValueError(
            f"weight_norm: dim: {dim}; the weight has {ndim} axes, so accepted are {-ndim} to "
            f"{ndim - 1}, and None for one norm of the whole weight"
        )
    return int(dim)


def norm_except_dim(v: jax.Array, dim: int) -> jax.Array:
    """The 2-norms over all axes but one, which keep their axes; -1 means one norm of all."""
    wide = v.astype(promoted(v.dtype, jnp.float32))
    # In torch -1 stands for None, and so is not the last axis.
    if dim == -1:
        return jnp.sqrt(jnp.sum(wide * wide)).astype(v.dtype)
    axes = tuple(i for i in range(v.ndim) if i != dim % v.ndim)
    return jnp.sqrt(jnp.sum(wide * wide, axes, keepdims=True)).astype(v.dtype)


def normed(g: jax.Array, v: jax.Array, dim: int) -> jax.Array:
    """Returns g v / |v|."""
    return v * (g / norm_except_dim(v, dim))


def other_names(name: str) -> dict[str, str]:
    """The names of the arrays in torch's newer form, by those of the older form."""
    newer = f"parametrizations.{name}.original"
    return {f"{name}_g": f"{newer}0", f"{name}_v": f"{newer}1"}


@dataclasses.dataclass(frozen=True)
class _Rule:
    name: str
    dim: int

    def compute(self, module: Any, calling: bool) -> jax.Array:
        del calling
        g, v = getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v")
        return normed(g[...], v[...], self.dim)

    def other_names(self, module: Any) -> dict[str, str]:
        del module
        return other_names(self.name)

    def assign(self, module: Any, value: Any) -> Never:
        raise ValueError(
            f"{type(module).__name__}.{self.name}: it is computed at every call; assign "
            f"{self.name}_g and {self.name}_v, or call remove_weight_norm first"
        )


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Computes a weight as w = g v / |v|, in torch's older form: torch.nn.utils.weight_norm.

    The parameter `weight` is replaced by `weight_g`, the norms, and `weight_v`, the directions,
    which are trained. The names of a state_dict are those of torch's older form, and one of the
    newer form, `parametrizations.weight_norm`, is read too. New programs take the newer form.

    Args:
        module: The module, which is changed in place.
        name: The name of the weight.
        dim: The axis whose entries have a norm each: 0 for the rows of a Linear. None, and as
            in torch -1, for one norm of the whole weight.

    Returns:
        The module.

    Raises:
        TypeError: The module is no module of jaxnet, or dim no whole number.
        ValueError: The module has no such weight, or the weight no such axis.

    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> layer = weight_norm(nn.Linear(20, 40, rngs=Generator(0)))
    >>> layer.weight_g.shape, layer.weight_v.shape
    ((40, 1), (40, 20))
    """
    weight = own_variable("weight_norm", module, name)
    rule = _Rule(name, checked_dim(dim, weight.ndim))
    value = weight[...]
    delattr(module, name)
    setattr(module, f"{name}_g", Parameter(norm_except_dim(value, rule.dim)))
    setattr(module, f"{name}_v", Parameter(value))
    add_rule(module, name, rule)
    return module


def remove_weight_norm(module: M, name: str = "weight") -> M:
    """Makes a weight of `weight_norm` a parameter again: torch.nn.utils.remove_weight_norm.

    Args:
        module: The module, which is changed in place.
        name: The name of the weight.

    Returns:
        The module.

    Raises:
        ValueError: The module has no such weight.
    """
    undo("weight_norm", module, name, _Rule, ("_g", "_v"))
    return module
