"""Pooling of (N, C, ...), as PyTorch computes it."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.port._flax.functions import per_axis


def windows(
    shape: Any, rank: int, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool
) -> tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]:
    """The sizes of PyTorch's windows, their steps, and how much is added at each end."""
    size = per_axis(kernel_size, rank)
    step = size if stride is None else per_axis(stride, rank)
    pads = []
    for n, k, s, p in zip(shape[-rank:], size, step, per_axis(padding, rank), strict=True):
        rest = n + 2 * p - k
        count = (-(-rest // s) if ceil_mode else rest // s) + 1
        if ceil_mode and (count - 1) * s >= n + p:  # no window begins behind the input
            count -= 1
        pads.append((p, max((count - 1) * s + k - n - p, 0)))
    return size, step, pads


def max_pool(
    x: jax.Array,
    rank: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    """The greatest numbers of windows in the last axes; what is added around them never wins."""
    one, size = per_axis(dilation, rank), per_axis(kernel_size, rank)
    stride = size if stride is None else stride
    reach = tuple(d * (k - 1) + 1 for d, k in zip(one, size, strict=True))
    _, step, pads = windows(x.shape, rank, reach, stride, padding, ceil_mode)
    rest = x.ndim - rank
    around = [(0, 0)] * rest + pads
    least = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    if all(d == 1 for d in one):
        first = x.dtype.type(least)
        return jax.lax.reduce_window(
            x, first, jax.lax.max, (1,) * rest + size, (1,) * rest + step, around
        )
    # JAX has no gradient of windows with gaps.
    x = jnp.pad(x, around, constant_values=least)
    parts = []
    for offset in itertools.product(*(range(k) for k in size)):
        starts = [d * i for d, i in zip(one, offset, strict=True)]
        ends = [n - r + 1 + i for n, r, i in zip(x.shape[rest:], reach, starts, strict=True)]
        window = [slice(*part) for part in zip(starts, ends, step, strict=True)]
        parts.append(x[(..., *window)])
    found = jnp.stack(parts, -1)
    places = jnp.argmax(found, axis=-1, keepdims=True)
    return jnp.take_along_axis(found, places, axis=-1).squeeze(-1)


def max_pool1d(
    x: jax.Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    return max_pool(x, 1, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: jax.Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    return max_pool(x, 2, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d(
    x: jax.Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> jax.Array:
    return max_pool(x, 3, kernel_size, stride, padding, dilation, ceil_mode)


def avg_pool(
    x: jax.Array,
    rank: int,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    """The means of windows in the last axes."""
    size, step, pads = windows(x.shape, rank, kernel_size, stride, padding, ceil_mode)
    rest = x.ndim - rank

    def total(values: jax.Array, around: list[tuple[int, int]]) -> jax.Array:
        return jax.lax.reduce_window(
            values,
            values.dtype.type(0),
            jax.lax.add,
            (1,) * rest + size,
            (1,) * rest + step,
            [(0, 0)] * rest + around,
        )

    sums = total(x, pads)
    if divisor_override is not None:
        return sums / divisor_override
    inside = jnp.ones((1,) * rest + x.shape[rest:], x.dtype)
    if count_include_pad:  # what `padding` adds counts, and what ceil_mode adds does not
        added = per_axis(padding, rank)
        low = [(p, p) for p in added]
        inside = jnp.pad(inside, [(0, 0)] * rest + low, constant_values=1)
        pads = [(0, max(high - p, 0)) for (_, high), p in zip(pads, added, strict=True)]
    return sums / total(inside, pads)


def avg_pool1d(
    x: jax.Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> jax.Array:
    return avg_pool(x, 1, kernel_size, stride, padding, ceil_mode, count_include_pad)


def avg_pool2d(
    x: jax.Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    return avg_pool(
        x, 2, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def avg_pool3d(
    x: jax.Array,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> jax.Array:
    return avg_pool(
        x, 3, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


def adaptive_pool(
    x: jax.Array, rank: int, output_size: Any, reduce: Callable[..., jax.Array]
) -> jax.Array:
    """Windows of which there are `output_size`, from floor(i n / m) to ceil((i + 1) n / m)."""
    wanted = (output_size,) * rank if isinstance(output_size, int | None) else tuple(output_size)
    given = x.shape[x.ndim - rank :]
    sizes = [n if m is None else m for n, m in zip(given, wanted, strict=True)]
    if all(n % m == 0 for n, m in zip(given, sizes, strict=True)):
        pairs = [(m, n // m) for n, m in zip(given, sizes, strict=True)]
        x = x.reshape(*x.shape[: x.ndim - rank], *itertools.chain(*pairs))
        return reduce(x, axis=tuple(range(-1, -2 * rank, -2)))
    ranges = [
        [slice(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
        for n, m in zip(given, sizes, strict=True)
    ]
    axes = tuple(range(-rank, 0))
    parts = [reduce(x[(..., *window)], axis=axes) for window in itertools.product(*ranges)]
    return jnp.stack(parts, -1).reshape(*x.shape[: x.ndim - rank], *sizes)


def first_max(x: jax.Array, axis: Sequence[int]) -> jax.Array:
    """The greatest numbers over axes; of equal ones the first has the gradient."""
    axes = sorted(n % x.ndim for n in axis)
    x = jnp.moveaxis(x, axes, range(-len(axes), 0))
    flat = x.reshape(*x.shape[: x.ndim - len(axes)], -1)
    places = jnp.argmax(flat, axis=-1, keepdims=True)
    return jnp.take_along_axis(flat, places, axis=-1).squeeze(-1)


def adaptive_avg_pool1d(x: jax.Array, output_size: Any) -> jax.Array:
    return adaptive_pool(x, 1, output_size, jnp.mean)


def adaptive_avg_pool2d(x: jax.Array, output_size: Any) -> jax.Array:
    return adaptive_pool(x, 2, output_size, jnp.mean)


def adaptive_avg_pool3d(x: jax.Array, output_size: Any) -> jax.Array:
    return adaptive_pool(x, 3, output_size, jnp.mean)


def adaptive_max_pool1d(x: jax.Array, output_size: Any) -> jax.Array:
    return adaptive_pool(x, 1, output_size, first_max)


def adaptive_max_pool2d(x: jax.Array, output_size: Any) -> jax.Array:
    return adaptive_pool(x, 2, output_size, first_max)


def adaptive_max_pool3d(x: jax.Array, output_size: Any) -> jax.Array:
    return adaptive_pool(x, 3, output_size, first_max)


class MaxPoolNd(nnx.Module):
    """The greatest numbers of windows."""

    rank = 0

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation, self.ceil_mode = padding, dilation, ceil_mode

    def __call__(self, x: jax.Array) -> jax.Array:
        return max_pool(
            x, self.rank, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode
        )


class MaxPool1d(MaxPoolNd):
    rank = 1


class MaxPool2d(MaxPoolNd):
    rank = 2


class MaxPool3d(MaxPoolNd):
    rank = 3


class AvgPoolNd(nnx.Module):
    """The means of windows."""

    rank = 0

    def __init__(
        self,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        stride = kernel_size if stride is None else stride
        if self.rank == 1:  # of which PyTorch keeps tuples
            kernel_size, stride = per_axis(kernel_size, 1), per_axis(stride, 1)
            padding = per_axis(padding, 1)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def __call__(self, x: jax.Array) -> jax.Array:
        return avg_pool(
            x, self.rank, self.kernel_size, self.stride, self.padding, self.ceil_mode,
            self.count_include_pad, self.divisor_override,
        )  # fmt: skip


class AvgPool1d(AvgPoolNd):
    rank = 1


class AvgPool2d(AvgPoolNd):
    rank = 2


class AvgPool3d(AvgPoolNd):
    rank = 3


class AdaptivePoolNd(nnx.Module):
    """Windows of which there are as many as is said."""

    rank = 0
    reduce: Any = staticmethod(jnp.mean)

    def __init__(self, output_size: Any, *, rngs: nnx.Rngs | None = None) -> None:
        self.output_size = output_size

    def __call__(self, x: jax.Array) -> jax.Array:
        return adaptive_pool(x, self.rank, self.output_size, self.reduce)


class AdaptiveAvgPool1d(AdaptivePoolNd):
    rank = 1


class AdaptiveAvgPool2d(AdaptivePoolNd):
    rank = 2


class AdaptiveAvgPool3d(AdaptivePoolNd):
    rank = 3


class AdaptiveMaxPool1d(AdaptivePoolNd):
    rank = 1
    reduce = staticmethod(first_max)


class AdaptiveMaxPool2d(AdaptivePoolNd):
    rank = 2
    reduce = staticmethod(first_max)


class AdaptiveMaxPool3d(AdaptivePoolNd):
    rank = 3
    reduce = staticmethod(first_max)
