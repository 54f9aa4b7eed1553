"""The functions of torch.nn.init that depend on the position or the value of an entry."""

import math
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxnet.nn._draw import Rngs, draw_normal, draw_permutation, fill, key
from jaxnet.random import Generator

_Array = nnx.Variable[Any]


def eye_(tensor: _Array) -> _Array:
    """Fills a matrix with ones on the diagonal and zeros elsewhere.

    Args:
        tensor: A `Parameter` or `Buffer` with 2 axes, which is changed in place.

    Returns:
        The tensor.

    Raises:
        ValueError: The tensor does not have 2 axes.
    """
    return fill(tensor, jnp.eye(*_matrix("eye_", tensor), dtype=tensor.dtype))


def dirac_(tensor: _Array, groups: int = 1) -> _Array:
    """Fills a convolution's weight so that the convolution returns its input channels.

    In each group, output channel d gets a one at the middle of input channel d.

    Args:
        tensor: A weight (out, in / groups, ...) with 1, 2 or 3 spatial axes, which is changed
            in place.
        groups: The number of groups of the convolution.

    Returns:
        The tensor.

    Raises:
        ValueError: The tensor has another number of axes, or groups does not divide the
            output channels.
    """
    shape = tensor.shape
    if len(shape) not in (3, 4, 5):
        raise ValueError(f"dirac_: shape {shape}; accepted are 3, 4 and 5 dimensions")
    if groups < 1 or shape[0] % groups:
        raise ValueError(f"dirac_: {shape[0]} output channels do not divide into {groups} groups")
    values = np.zeros(shape, np.float32)
    middle = tuple(size // 2 for size in shape[2:])
    per_group = shape[0] // groups
    for group in range(groups):
        for d in range(min(per_group, shape[1])):
            values[(group * per_group + d, d, *middle)] = 1
    return fill(tensor, values)


def orthogonal_(tensor: _Array, gain: float = 1, *, generator: Rngs) -> _Array:
    """Fills with a random matrix with orthogonal rows or columns, times `gain`.

    The matrix is the factor Q of the QR decomposition of a matrix of normal numbers, with
    the signs for which the diagonal of R is positive (Mezzadri, arXiv math-ph/0609050). It is
    equal to torch's up to the rounding of the QR decomposition.

    Args:
        tensor: A `Parameter` or `Buffer` with at least 2 axes, which is changed in place. The
            axes after the first are joined into the columns of the matrix.
        gain: The factor of the matrix.
        generator: The source of the random numbers.

    Returns:
        The tensor.

    Raises:
        ValueError: The tensor has fewer than 2 axes.
    """
    if len(tensor.shape) < 2:
        raise ValueError(f"orthogonal_: shape {tensor.shape}; at least 2 dimensions are needed")
    if tensor.size == 0:
        return tensor
    rows, cols = tensor.shape[0], tensor.size // tensor.shape[0]
    flat: Any = draw_normal(generator, (rows, cols), 0.0, 1.0, tensor.dtype)
    xp: Any = jnp
    # On the host the decomposition is done in float64, to the last digit, without compiling.
    if not isinstance(flat, jax.core.Tracer):
        xp, flat = np, np.asarray(flat, np.float64)
    q, r = xp.linalg.qr(flat.T if rows < cols else flat)
    q = q * xp.sign(xp.diag(r))[None, :]
    return fill(tensor, gain * (q.T if rows < cols else q).reshape(tensor.shape))


def sparse_(tensor: _Array, sparsity: float, std: float = 0.01, *, generator: Rngs) -> _Array:
    """Fills a matrix from N(0, std^2) and sets a fraction of each column to zero.

    Args:
        tensor: A `Parameter` or `Buffer` with 2 axes, which is changed in place.
        sparsity: The fraction of zeros in each column, rounded up to whole rows.
        std: The standard deviation of the other entries.
        generator: The source of the numbers and of the rows that are zero. torch draws the
            rows from its global generator even if another one is given; so the result is
            torch's if torch is seeded by `manual_seed` and given no generator.

    Returns:
        The tensor.

    Raises:
        ValueError: The tensor does not have 2 axes.
    """
    rows, cols = _matrix("sparse_", tensor)
    zeros = math.ceil(sparsity * rows)
    values = draw_normal(generator, (rows, cols), 0.0, std, tensor.dtype)
    keep = np.ones((rows, cols), bool)
    for column in range(cols):
        keep[np.asarray(draw_permutation(generator, rows))[:zeros], column] = False
    return fill(tensor, jnp.where(keep, values, 0))


def trunc_normal_(
    tensor: _Array,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    *,
    generator: Rngs,
) -> _Array:
    """Fills from N(mean, std^2), restricted to a <= value <= b.

    With a `Generator` the numbers are drawn as in torch. If [a, b] has a probability above
    0.3, normal numbers are drawn again until all are inside. Otherwise uniform candidates are
    drawn and accepted with a probability proportional to the normal density.

    Args:
        tensor: A `Parameter` or `Buffer`, which is changed in place.
        mean: The mean of the normal distribution.
        std: The standard deviation of the normal distribution.
        a: The smallest value.
        b: The largest value.
        generator: The source of the random numbers.

    Returns:
        The tensor.

    Raises:
        ValueError: The argument std is not positive, or a is not below b.
    """
    if not std > 0:
        raise ValueError(f"trunc_normal_: std {std}; accepted are positive numbers")
    if not a < b:
        raise ValueError(f"trunc_normal_: [{a}, {b}] is empty; a must be below b")
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_; "
            "the distribution of values may be incorrect",
            stacklevel=2,
        )
    shape, dtype = tensor.shape, tensor.dtype
    if not isinstance(generator, Generator):
        low, high = (a - mean) / std, (b - mean) / std
        values = jax.random.truncated_normal(key(generator), low, high, shape, dtype)
        return fill(tensor, jnp.clip(values * std + mean, a, b))
    if _normal_cdf((b - mean) / std) - _normal_cdf((a - mean) / std) > 0.3:
        return fill(tensor, _redrawn(generator, shape, mean, std, a, b, dtype))
    return fill(tensor, _accepted(generator, shape, mean, std, a, b, dtype))


def _redrawn(
    generator: Generator,
    shape: tuple[int, ...],
    mean: float,
    std: float,
    a: float,
    b: float,
    dtype: DTypeLike,
) -> np.ndarray:
    # torch draws a whole array in each round, so the numbers that are not needed are drawn too.
    low, high = np.asarray([a, b], dtype)
    values = generator.normal(mean, std, shape, dtype)
    while (outside := (values < low) | (values > high)).any():
        values = np.where(outside, generator.normal(mean, std, shape, dtype), values)
    return values


def _accepted(
    generator: Generator,
    shape: tuple[int, ...],
    mean: float,
    std: float,
    a: float,
    b: float,
    dtype: DTypeLike,
) -> np.ndarray:
    log_peak = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2
    mean, std, log_peak, half = np.asarray([mean, std, log_peak, -0.5], dtype)
    values = np.zeros(shape, dtype)
    pending = np.ones(shape, bool)
    while pending.any():
        candidates = np.asarray(generator.uniform(a, b, shape, dtype))
        values = np.where(pending, candidates, values)
        log_density = ((candidates - mean) / std) ** 2 * half - log_peak
        with np.errstate(divide="ignore"):  # a uniform number can be 0, whose log is -inf
            pending = pending & (np.log(generator.uniform(0, 1, shape, dtype)) > log_density)
    return values


def _normal_cdf(x: float) -> float:
    return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0


def _matrix(name: str, tensor: _Array) -> tuple[int, int]:
    if len(tensor.shape) != 2:
        raise ValueError(f"{name}: shape {tensor.shape}; accepted are 2 dimensions")
    return tensor.shape
