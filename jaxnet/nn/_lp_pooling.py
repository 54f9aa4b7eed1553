"""Power-average pooling: the p-norm of each window."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxnet.nn._avg_pooling import avg_pool
from jaxnet.nn._max_pooling import max_pool
from jaxnet.nn._module import Module
from jaxnet.nn._window import Size, as_given, check_axes, per_axis


def lp_pool1d(
    input: Float[Array, "*N C L"],
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
) -> Float[Array, "*N C L_out"]:
    """The p-norm of each window of (N, C, L) or (C, L): torch.nn.functional.lp_pool1d.

    The arguments are those of `lp_pool2d`.
    """
    return _lp_pool(1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Float[Array, "*N C H W"],
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
) -> Float[Array, "*N C H_out W_out"]:
    """Computes (sum of x^p)^(1/p) over each window: torch.nn.functional.lp_pool2d.

    As in torch, the sum of a window that ceil_mode lets extend past the end is scaled up to
    that of a whole window. The gradient is 0 where the sum is 0.

    The arguments that are not described here are those of `avg_pool2d`.

    Args:
        input: The images, (N, C, H, W) or (C, H, W), with a float dtype.
        norm_type: The exponent p; infinity takes the largest magnitude.

    Returns:
        The images, (N, C, H', W') or (C, H', W').

    Raises:
        ValueError: The argument norm_type is 0, or the windows do not fit the input.
        TypeError: The input has no float dtype.
    """
    return _lp_pool(2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Float[Array, "*N C D H W"],
    norm_type: float,
    kernel_size: Size,
    stride: Size | None = None,
    ceil_mode: bool = False,
) -> Float[Array, "*N C D_out H_out W_out"]:
    """The p-norm of each window of (N, C, D, H, W) or (C, D, H, W): torch.nn.functional.lp_pool3d.

    The arguments are those of `lp_pool2d`.
    """
    return _lp_pool(3, input, norm_type, kernel_size, stride, ceil_mode)


def _lp_pool(
    n: int,
    input: jax.Array,
    norm_type: float,
    kernel_size: Size,
    stride: Size | None,
    ceil_mode: bool,
) -> jax.Array:
    p = float(norm_type)
    if math.isinf(p):
        sign = math.copysign(1, p)
        magnitude = sign * input * jnp.sign(input)  # |x| with the gradient 0 at 0, as in torch
        return sign * max_pool(n, magnitude, kernel_size, stride, 0, 1, ceil_mode, False)
    if p == 0:
        raise ValueError(f"lp_pool{n}d: norm_type 0; accepted are numbers other than 0")
    # torch too averages and multiplies by the whole window's size, which scales up the sum of
    # a window that extends past the end.
    mean = avg_pool(n, input**p, kernel_size, stride, 0, ceil_mode, True, None)
    whole = mean * math.prod(per_axis(f"lp_pool{n}d", "kernel_size", kernel_size, n))
    # The root has an infinite gradient at 0, and 0 times infinity is nan. So the root sees 1
    # where the sum is 0.
    return jnp.where(whole == 0, 0, jnp.where(whole == 0, 1, whole) ** (1 / p))


class _LPPool(Module):
    """The constructor and the call of the three power-average pooling layers."""

    _axes: ClassVar[int]

    def __init__(
        self,
        norm_type: float,
        kernel_size: Size,
        stride: Size | None = None,
        ceil_mode: bool = False,
    ) -> None:
        self.norm_type = norm_type
        self.kernel_size = as_given(kernel_size)
        self.stride = as_given(stride)
        self.ceil_mode = ceil_mode

    def __call__(self, input: Float[Array, "..."]) -> Float[Array, "..."]:
        """Pools (N, C, ...) or (C, ...) to the same number of axes."""
        check_axes(self, input, self._axes)
        return _lp_pool(
            self._axes, input, self.norm_type, self.kernel_size, self.stride, self.ceil_mode
        )

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """The p-norm of each window of a sequence: torch.nn.LPPool1d. As in `lp_pool2d`."""

    _axes = 1


class LPPool2d(_LPPool):
    """The p-norm of each window of an image: torch.nn.LPPool2d. As in `lp_pool2d`."""

    _axes = 2


class LPPool3d(_LPPool):
    """The p-norm of each window of a volume: torch.nn.LPPool3d. As in `lp_pool2d`."""

    _axes = 3
