"""torch.nn.init: fill parameters in place, from PyTorch's generator or from flax's keys."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxnet.random import Generator

__all__ = [
    "Rngs",
    "calculate_gain",
    "constant_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "uniform_",
    "zeros_",
]

Rngs = Generator | nnx.Rngs
"""Where random numbers come from: PyTorch's numbers, or flax's keys."""

_Array = nnx.Variable


def draw_uniform(
    rngs: Rngs, shape: tuple[int, ...], low: float, high: float, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Uniform numbers in [low, high) from either kind of source."""
    if isinstance(rngs, Generator):
        return jnp.asarray(rngs.uniform(low, high, shape, dtype))
    return jax.random.uniform(_key(rngs), shape, dtype, low, high)


def draw_normal(
    rngs: Rngs, shape: tuple[int, ...], mean: float, std: float, dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Normal numbers from either kind of source."""
    if isinstance(rngs, Generator):
        return jnp.asarray(rngs.normal(mean, std, shape, dtype))
    return jax.random.normal(_key(rngs), shape, dtype) * std + mean


def _key(rngs: Any) -> jax.Array:
    if isinstance(rngs, nnx.Rngs):
        return rngs.params()
    raise TypeError(
        f"rngs: {type(rngs).__name__} is no source of random numbers; "
        "give jaxnet.random.Generator(seed) or flax.nnx.Rngs(seed)"
    )


def uniform_(tensor: _Array, a: float = 0.0, b: float = 1.0, *, generator: Rngs) -> _Array:
    """Fills with U(a, b)."""
    tensor[...] = draw_uniform(generator, tensor.shape, a, b, tensor.dtype)
    return tensor


def normal_(tensor: _Array, mean: float = 0.0, std: float = 1.0, *, generator: Rngs) -> _Array:
    """Fills with N(mean, std^2)."""
    tensor[...] = draw_normal(generator, tensor.shape, mean, std, tensor.dtype)
    return tensor


def constant_(tensor: _Array, val: float) -> _Array:
    """Fills with one value."""
    tensor[...] = jnp.full(tensor.shape, val, tensor.dtype)
    return tensor


def ones_(tensor: _Array) -> _Array:
    """Fills with 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: _Array) -> _Array:
    """Fills with 0."""
    return constant_(tensor, 0.0)


_GAINS = {
    "linear": 1.0,
    "conv1d": 1.0,
    "conv2d": 1.0,
    "conv3d": 1.0,
    "conv_transpose1d": 1.0,
    "conv_transpose2d": 1.0,
    "conv_transpose3d": 1.0,
    "sigmoid": 1.0,
    "tanh": 5.0 / 3,
    "relu": math.sqrt(2.0),
    "selu": 3.0 / 4,
}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity.

    Args:
        nonlinearity: its name; `leaky_relu` takes its slope as `param` (0.01).
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        accepted = ", ".join([*_GAINS, "leaky_relu"])
        raise ValueError(f"nonlinearity: {nonlinearity!r} is unknown; accepted are {accepted}")
    return _GAINS[nonlinearity]


def fan_in_and_out(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs and outputs a weight of torch's layout (out, in, ...) joins."""
    if len(shape) < 2:
        raise ValueError(f"tensor: fans need at least 2 dimensions; shape {shape} has {len(shape)}")
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _kaiming_std(shape: tuple[int, ...], a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode: {mode!r}; accepted are 'fan_in' and 'fan_out'")
    fan = fan_in_and_out(shape)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: _Array,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    generator: Rngs,
) -> _Array:
    """He initialisation from U(-bound, bound), bound = gain * sqrt(3 / fan)."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor.shape, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator=generator)


def kaiming_normal_(
    tensor: _Array,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    generator: Rngs,
) -> _Array:
    """He initialisation from N(0, gain^2 / fan)."""
    std = _kaiming_std(tensor.shape, a, mode, nonlinearity)
    return normal_(tensor, 0.0, std, generator=generator)


def default_weight_and_bias(
    weight_shape: tuple[int, ...],
    bias_size: int | None,
    rngs: Rngs,
    dtype: DTypeLike,
    fan_in: int | None = None,
) -> tuple[nnx.Param, nnx.Param | None]:
    """What torch's Linear and convolutions start from, weight drawn first.

    Both come from U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch reaches the weight's
    bound through kaiming_uniform_ with a = sqrt(5), and its roundings are kept.
    """
    fan_in = fan_in_and_out(weight_shape)[0] if fan_in is None else fan_in
    if fan_in == 0:  # torch leaves a weight without inputs as it is
        bias = None if bias_size is None else nnx.Param(jnp.zeros((bias_size,), dtype))
        return nnx.Param(jnp.zeros(weight_shape, dtype)), bias
    bound = math.sqrt(3.0) * calculate_gain("leaky_relu", math.sqrt(5)) / math.sqrt(fan_in)
    weight = nnx.Param(draw_uniform(rngs, weight_shape, -bound, bound, dtype))
    if bias_size is None:
        return weight, None
    bound = 1 / math.sqrt(fan_in)
    return weight, nnx.Param(draw_uniform(rngs, (bias_size,), -bound, bound, dtype))
