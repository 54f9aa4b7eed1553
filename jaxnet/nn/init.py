"""Initial values of parameters, as in torch.nn.init.

Every function changes its tensor, a `Parameter` or `Buffer`, in place and returns it. The
argument `generator`, which is optional in torch, is a required keyword here: a
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
    """Fills with uniform numbers from U(a, b).

    Args:
        tensor: A `Parameter` or `Buffer`, which is changed in place.
        a: The lower bound.
        b: The upper bound.
        generator: The source of the random numbers.

    Returns:
        The tensor.

    >>> from jaxnet.random import Generator
    >>> weight = nnx.Param(jnp.zeros(3))
    >>> uniform_(weight, generator=Generator(1))[...]
    Array([0.7576316 , 0.27931088, 0.40306926], dtype=float32)
    """
    return fill(tensor, draw_uniform(generator, tensor.shape, a, b, tensor.dtype))


def normal_(tensor: _Array, mean: float = 0.0, std: float = 1.0, *, generator: Rngs) -> _Array:
    """Fills with normal numbers from N(mean, std^2).

    Args:
        tensor: A `Parameter` or `Buffer`, which is changed in place.
        mean: The mean.
        std: The standard deviation.
        generator: The source of the random numbers.

    Returns:
        The tensor.
    """
    return fill(tensor, draw_normal(generator, tensor.shape, mean, std, tensor.dtype))


def constant_(tensor: _Array, val: float) -> _Array:
    """Fills with the value `val`, and returns the tensor, which is changed in place."""
    return fill(tensor, jnp.full(tensor.shape, val, tensor.dtype))


def ones_(tensor: _Array) -> _Array:
    """Fills with ones, and returns the tensor, which is changed in place."""
    return constant_(tensor, 1.0)


def zeros_(tensor: _Array) -> _Array:
    """Fills with zeros, and returns the tensor, which is changed in place."""
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
    """The factor of the standard deviation that keeps the variance through a nonlinearity.

    Args:
        nonlinearity: The name of the nonlinearity in torch.nn.functional, or "linear",
            "conv1d" and so on for layers.
        param: The slope of `leaky_relu`, 0.01 by default; unused for others.

    Returns:
        The factor, as in torch.

    Raises:
        ValueError: The nonlinearity is unknown, or the slope is not a number.
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if not is_number(slope):
            raise ValueError(f"param: {slope!r}; the negative slope of leaky_relu is a number")
        return math.sqrt(2.0 / (1 + slope**2))
    check_choice("nonlinearity", nonlinearity, [*_GAINS, "leaky_relu"])
    return _GAINS[nonlinearity]


def fan_in_and_out(shape: tuple[int, ...]) -> tuple[int, int]:
    """The numbers of inputs and outputs of a weight in torch's layout (out, in, ...)."""
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
    """Fills from U(-a, a) with a = gain * sqrt(6 / (fan_in + fan_out)) (Glorot, Bengio, 2010).

    Args:
        tensor: A weight in torch's layout (out, in, ...), which is changed in place.
        gain: The factor of the bound, as given by `calculate_gain`.
        generator: The source of the random numbers.

    Returns:
        The tensor.

    Raises:
        ValueError: The tensor has fewer than 2 axes.
    """
    a = math.sqrt(3.0) * _xavier_std(tensor, gain)
    return uniform_(tensor, -a, a, generator=generator)


def xavier_normal_(tensor: _Array, gain: float = 1.0, *, generator: Rngs) -> _Array:
    """Fills from N(0, gain^2 * 2 / (fan_in + fan_out)) (Glorot and Bengio, 2010).

    The arguments, result and errors are those of `xavier_uniform_`.
    """
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
    """Fills from U(-bound, bound) with bound = gain * sqrt(3 / fan) (He et al., 2015).

    Args:
        tensor: A weight in torch's layout (out, in, ...), which is changed in place.
        a: The slope of the leaky_relu that follows the layer; unused for others.
        mode: The fan: "fan_in" keeps the variance of the forward pass, "fan_out" that of the
            backward pass.
        nonlinearity: The nonlinearity that follows the layer, as in `calculate_gain`.
        generator: The source of the random numbers.

    Returns:
        The tensor.

    Raises:
        ValueError: The tensor has fewer than 2 axes, or mode or nonlinearity is unknown.
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
    """Fills from N(0, gain^2 / fan) (He et al., 2015).

    The arguments, result and errors are those of `kaiming_uniform_`.
    """
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return tensor if std is None else normal_(tensor, 0.0, std, generator=generator)


def default_weight_and_bias(
    weight_shape: tuple[int, ...],
    bias_size: int | None,
    rngs: Rngs,
    dtype: DTypeLike,
    fan_in: int | None = None,
) -> tuple[Parameter, Parameter | None]:
    """The initial weight and bias of torch's Linear and convolutions, drawn in this order.

    Both come from U(-1/sqrt(fan_in), 1/sqrt(fan_in)). torch computes the bound of the weight by
    kaiming_uniform_ with a = sqrt(5), which is rounded differently, so it is done here too.

    Args:
        weight_shape: The shape of the weight in torch's layout (out, in, ...).
        bias_size: The size of the bias, or None for no bias.
        rngs: The source of the random numbers.
        dtype: The dtype of both.
        fan_in: The number of inputs of an output; by default that of the weight's shape.

    Returns:
        The weight, and the bias or None.
    """
    fan_in = fan_in_and_out(weight_shape)[0] if fan_in is None else fan_in
    if 0 in weight_shape:  # an empty weight draws no numbers
        weight = Parameter(jnp.zeros(weight_shape, dtype))
    else:
        bound = math.sqrt(3.0) * (calculate_gain("leaky_relu", math.sqrt(5)) / math.sqrt(fan_in))
        weight = Parameter(draw_uniform(rngs, weight_shape, -bound, bound, dtype))
    if bias_size is None:
        return weight, None
    bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
    return weight, Parameter(draw_uniform(rngs, (bias_size,), -bound, bound, dtype))
