"""torch.nn.init: fill parameters in place, from PyTorch's generator or from flax's keys.

Every function changes its tensor, a `Parameter` or `Buffer`, and returns it. Where
torch takes an optional `generator`, here it is a keyword that must be given: a
`jaxnet.random.Generator`, which draws torch's numbers, or `flax.nnx.Rngs`.
"""

import math
import warnings
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxnet._checks import check_choice, is_number
from jaxnet.nn._draw import Rngs, draw_normal, draw_uniform, fill
from jaxnet.nn._init_structured import dirac_, eye_, orthogonal_, sparse_, trunc_normal_
from jaxnet.nn._module import Parameter

__all__ = [
    "Rngs",
    "calculate_gain",
    "constant_",
    "dirac_",
    "draw_normal",
    "draw_uniform",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

_Array = nnx.Variable[Any]


def uniform_(tensor: _Array, a: float = 0.0, b: float = 1.0, *, generator: Rngs) -> _Array:
    """Fills with U(a, b).

    >>> from jaxnet.random import Generator
    >>> weight = nnx.Param(jnp.zeros(3))
    >>> uniform_(weight, generator=Generator(1))[...]
    Array([0.7576316 , 0.27931088, 0.40306926], dtype=float32)
    """
    return fill(tensor, draw_uniform(generator, tensor.shape, a, b, tensor.dtype))


def normal_(tensor: _Array, mean: float = 0.0, std: float = 1.0, *, generator: Rngs) -> _Array:
    """Fills with N(mean, std^2)."""
    return fill(tensor, draw_normal(generator, tensor.shape, mean, std, tensor.dtype))


def constant_(tensor: _Array, val: float) -> _Array:
    """Fills with one value."""
    return fill(tensor, jnp.full(tensor.shape, val, tensor.dtype))


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
        nonlinearity: its name in torch.nn.functional, or "linear" or "conv1d" and so on.
        param: the slope of `leaky_relu` (0.01 if not given); others leave it unread.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if not is_number(slope):
            raise ValueError(f"param: {slope!r}; the negative slope of leaky_relu is a number")
        return math.sqrt(2.0 / (1 + slope**2))
    check_choice("nonlinearity", nonlinearity, [*_GAINS, "leaky_relu"])
    return _GAINS[nonlinearity]


def fan_in_and_out(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many inputs and outputs a weight of torch's layout (out, in, ...) joins."""
    if len(shape) < 2:
        raise ValueError(f"tensor: fans need at least 2 dimensions; shape {shape} has {len(shape)}")
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def _xavier_std(tensor: _Array, gain: float) -> float:
    fans = sum(fan_in_and_out(tensor.shape))
    if fans == 0:
        raise ValueError(f"tensor: shape {tensor.shape} joins no inputs and no outputs")
    return gain * math.sqrt(2.0 / float(fans))


def xavier_uniform_(tensor: _Array, gain: float = 1.0, *, generator: Rngs) -> _Array:
    """Glorot's initialisation from U(-a, a), a = gain * sqrt(6 / (fan_in + fan_out))."""
    a = math.sqrt(3.0) * _xavier_std(tensor, gain)
    return uniform_(tensor, -a, a, generator=generator)


def xavier_normal_(tensor: _Array, gain: float = 1.0, *, generator: Rngs) -> _Array:
    """Glorot's initialisation from N(0, gain^2 * 2 / (fan_in + fan_out))."""
    return normal_(tensor, 0.0, _xavier_std(tensor, gain), generator=generator)


def _kaiming_std(tensor: _Array, a: float, mode: str, nonlinearity: str) -> float | None:
    if 0 in tensor.shape:
        warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
        return None
    check_choice("mode", mode.lower(), ("fan_in", "fan_out"))
    fan = fan_in_and_out(tensor.shape)[mode.lower() == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def kaiming_uniform_(
    tensor: _Array,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    generator: Rngs,
) -> _Array:
    """He's initialisation from U(-bound, bound), bound = gain * sqrt(3 / fan).

    Args:
        tensor: a weight in torch's layout (out, in, ...).
        a: the slope of the leaky_relu that follows; unread for other nonlinearities.
        mode: "fan_in" keeps the variance forwards, "fan_out" backwards.
        nonlinearity: what follows the layer; see `calculate_gain`.
        generator: source of the numbers.
    """
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    if std is None:
        return tensor
    bound = math.sqrt(3.0) * std
    return uniform_(tensor, -bound, bound, generator=generator)


def kaiming_normal_(
    tensor: _Array,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    generator: Rngs,
) -> _Array:
    """He's initialisation from N(0, gain^2 / fan). Arguments as in `kaiming_uniform_`."""
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return tensor if std is None else normal_(tensor, 0.0, std, generator=generator)


def default_weight_and_bias(
    weight_shape: tuple[int, ...],
    bias_size: int | None,
    rngs: Rngs,
    dtype: DTypeLike,
    fan_in: int | None = None,
) -> tuple[Parameter, Parameter | None]:
    """What torch's Linear and convolutions start from, weight drawn first.

    Both come from U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch reaches the weight's
    bound through kaiming_uniform_ with a = sqrt(5), and its roundings are kept.
    """
    fan_in = fan_in_and_out(weight_shape)[0] if fan_in is None else fan_in
    if 0 in weight_shape:  # nothing to draw
        weight = Parameter(jnp.zeros(weight_shape, dtype))
    else:
        bound = math.sqrt(3.0) * (calculate_gain("leaky_relu", math.sqrt(5)) / math.sqrt(fan_in))
        weight = Parameter(draw_uniform(rngs, weight_shape, -bound, bound, dtype))
    if bias_size is None:
        return weight, None
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
    return weight, Parameter(draw_uniform(rngs, (bias_size,), -bound, bound, dtype))
