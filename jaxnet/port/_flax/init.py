"""Initial weights, by PyTorch's formulas; what is given is an nnx.Param or a TorchLayout of one."""

import math
from typing import Any

import jax
import jax.numpy as jnp


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the size of what an activation gives."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}
    plain = ("linear", "sigmoid", "conv1d", "conv2d", "conv3d", "conv_transpose2d")
    if nonlinearity not in gains and nonlinearity not in plain:
        raise ValueError(f"nonlinearity={nonlinearity!r}: accepted are {(*gains, *plain)}")
    return gains.get(nonlinearity, 1.0)


def constant_(tensor: Any, val: float) -> Any:
    tensor[...] = jnp.full(tensor.shape, val, tensor.dtype)
    return tensor


def zeros_(tensor: Any) -> Any:
    return constant_(tensor, 0.0)


def ones_(tensor: Any) -> Any:
    return constant_(tensor, 1.0)


def normal_(tensor: Any, mean: float = 0.0, std: float = 1.0, *, generator: Any) -> Any:
    draws = jax.random.normal(generator.params(), tensor.shape, tensor.dtype)
    tensor[...] = mean + std * draws
    return tensor


def uniform_(tensor: Any, a: float = 0.0, b: float = 1.0, *, generator: Any) -> Any:
    tensor[...] = jax.random.uniform(generator.params(), tensor.shape, tensor.dtype, a, b)
    return tensor


def trunc_normal_(
    tensor: Any, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0,
    *, generator: Any,
) -> Any:  # fmt: skip
    """A normal distribution between the numbers `a` and `b`."""
    low, high = (a - mean) / std, (b - mean) / std
    draws = jax.random.truncated_normal(generator.params(), low, high, tensor.shape, tensor.dtype)
    tensor[...] = mean + std * draws
    return tensor


def xavier_uniform_(tensor: Any, gain: float = 1.0, *, generator: Any) -> Any:
    bound = gain * math.sqrt(6 / sum(fan_in_and_out(tensor.shape)))
    return uniform_(tensor, -bound, bound, generator=generator)


def xavier_normal_(tensor: Any, gain: float = 1.0, *, generator: Any) -> Any:
    return normal_(
        tensor, 0.0, gain * math.sqrt(2 / sum(fan_in_and_out(tensor.shape))), generator=generator
    )


def kaiming_std(tensor: Any, a: float, mode: str, nonlinearity: str) -> float:
    fan_in, fan_out = fan_in_and_out(tensor.shape)
    gain = calculate_gain(nonlinearity, a)
    return gain / math.sqrt(fan_in if mode == "fan_in" else fan_out)


def kaiming_uniform_(
    tensor: Any, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
    *, generator: Any,
) -> Any:  # fmt: skip
    bound = math.sqrt(3) * kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator=generator)


def kaiming_normal_(
    tensor: Any, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu",
    *, generator: Any,
) -> Any:  # fmt: skip
    return normal_(tensor, 0.0, kaiming_std(tensor, a, mode, nonlinearity), generator=generator)


def orthogonal_(tensor: Any, gain: float = 1, *, generator: Any) -> Any:
    """Rows, or columns, that are orthogonal."""
    shape = (tensor.shape[0], math.prod(tensor.shape[1:]))
    matrix = jax.nn.initializers.orthogonal(gain)(generator.params(), shape, tensor.dtype)
    tensor[...] = matrix.reshape(tensor.shape)
    return tensor


def fan_in_and_out(shape: Any) -> tuple[int, int]:
    """The numbers of inputs and of outputs of a weight of a shape."""
    space = math.prod(shape[2:])
    return shape[1] * space, shape[0] * space
