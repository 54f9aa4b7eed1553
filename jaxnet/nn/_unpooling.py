"""The partial inverse of max pooling: numbers at the positions that max pooling found."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from jaxnet.nn._module import Module
from jaxnet.nn._window import Size, batched, check_axes, check_float, per_axis


def max_unpool1d(
    input: Float[Array, "*N C L"],
    indices: Integer[Array, "*N C L"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Float[Array, "*N C L_out"]:
    """Undoes max_pool1d of (N, C, L) or (C, L): torch.nn.functional.max_unpool1d.

    The arguments are those of `max_unpool2d`.
    """
    return max_unpool(1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Float[Array, "*N C H W"],
    indices: Integer[Array, "*N C H W"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Float[Array, "*N C H_out W_out"]:
    """Puts the numbers of max pooling back, among zeros: torch.nn.functional.max_unpool2d.

    As in torch, each number gets the gradient of its position, even if several numbers share one.

    Args:
        input: The largest numbers, (N, C, H, W) or (C, H, W), with a float dtype.
        indices: Their positions, with the shape of the input, as `max_pool2d` returns them with
            return_indices.
        kernel_size: The height and width of the windows of the pooling, or one number for both.
        stride: The step of the pooling; by default the size of the window.
        padding: The padding of the pooling.
        output_size: The size (H', W') of the result, or its shape (N, C, H', W'). It may differ
            by less than the stride from the default, (H - 1) * stride - 2 * padding + window.

    Returns:
        The images, (N, C, H', W') or (C, H', W').

    Raises:
        ValueError: Shapes or sizes do not fit each other, or an index lies outside the result.
            Under `jax.jit` the indices are not known, and such an index makes its whole channel
            nan.
        TypeError: The input has no float dtype, or indices no integer dtype.

    >>> from jaxnet.nn import functional as F
    >>> largest, where = F.max_pool2d(jnp.arange(4.0).reshape(1, 2, 2), 2, return_indices=True)
    >>> max_unpool2d(largest, where, 2)
    Array([[[0., 0.],
            [0., 3.]]], dtype=float32)
    """
    return max_unpool(2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Float[Array, "*N C D H W"],
    indices: Integer[Array, "*N C D H W"],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    output_size: Sequence[int] | None = None,
) -> Float[Array, "*N C D_out H_out W_out"]:
    """Undoes max_pool3d of (N, C, D, H, W) or (C, D, H, W): torch.nn.functional.max_unpool3d.

    The arguments are those of `max_unpool2d`.
    """
    return max_unpool(3, input, indices, kernel_size, stride, padding, output_size)


def max_unpool(
    n: int,
    input: jax.Array,
    indices: jax.Array,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    output_size: Sequence[int] | None,
) -> jax.Array:
    name = f"max_unpool{n}d"
    check_float(name, batched(name, input, n))
    if not jnp.issubdtype(indices.dtype, jnp.integer):
        raise TypeError(f"{name}: indices of dtype {indices.dtype}; accepted are integers")
    if indices.shape != input.shape:
        raise ValueError(
            f"{name}: indices of shape {indices.shape} for an input of shape {input.shape}; "
            "accepted is the same shape"
        )
    if 0 in input.shape[-n - 1 :]:
        raise ValueError(f"{name}: only the batch of an input may be empty; it got {input.shape}")
    sizes = _output_size(name, input, kernel_size, stride, padding, output_size, n)
    _check_indices(name, indices, sizes)
    return _unpooled(input, indices, sizes)


# The jit makes one program of the many small steps.
@partial(jax.jit, static_argnums=2, inline=True)
def _unpooled(input: jax.Array, indices: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    lead, total = input.shape[: -len(sizes)], math.prod(sizes)
    count = math.prod(input.shape[-len(sizes) :])
    values, places = input.reshape(*lead, count), indices.astype(int).reshape(*lead, count)
    outside = ((places < 0) | (places >= total)).any(-1, keepdims=True)
    placed = _placed(values, places, total)
    return jnp.where(outside, jnp.nan, placed).reshape(*lead, *sizes)


def _output_size(
    name: str,
    input: jax.Array,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    output_size: Sequence[int] | None,
    n: int,
) -> tuple[int, ...]:
    window = per_axis(name, "kernel_size", kernel_size, n, least=1)
    steps = window if stride is None else per_axis(name, "stride", stride, n, least=1)
    pads = per_axis(name, "padding", padding, n)
    default = tuple(
        (size - 1) * s - 2 * p + k
        for size, k, s, p in zip(input.shape[-n:], window, steps, pads, strict=True)
    )
    if output_size is None:
        sizes = default
    else:
        given = tuple(output_size)
        sizes = per_axis(name, "output_size", given[2:] if len(given) == n + 2 else given, n)
    for size, usual, step in zip(sizes, default, steps, strict=True):
        if size < 1 or not usual - step < size < usual + step:
            raise ValueError(
                f"{name}: an output of {sizes}; accepted is {default}, or less than stride "
                f"{steps} away from it, and at least 1"
            )
    return sizes


def _check_indices(name: str, indices: jax.Array, sizes: tuple[int, ...]) -> None:
    if isinstance(indices, jax.core.Tracer) or indices.size == 0:
        return
    numbers = np.asarray(indices)  # of which JAX would make unknown ones inside jax.jit
    least, most, last = numbers.min(), numbers.max(), math.prod(sizes) - 1
    if least < 0 or most > last:
        raise ValueError(
            f"{name}: indices from {least} to {most}; accepted are 0 to {last}, the positions in "
            f"an output of {sizes}"
        )


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _placed(values: jax.Array, places: jax.Array, size: int) -> jax.Array:
    """Zeros with `values` at `places` of the last axis; one of them where several share a place.

    The tangents of several numbers in one place add up, so that each gets its gradient.
    """
    return _rows(values, places, size, "set")


@_placed.defjvp
def _placed_jvp(size: int, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (values, places), (slopes, _) = primals, tangents
    return _placed(values, places, size), _rows(slopes, places, size, "add")


def _rows(values: jax.Array, places: jax.Array, size: int, how: str) -> jax.Array:
    def row(values: jax.Array, places: jax.Array) -> jax.Array:
        at = jnp.zeros(size, values.dtype).at[places]
        return at.set(values, mode="drop") if how == "set" else at.add(values, mode="drop")

    rows: Callable[..., jax.Array] = row
    for _ in range(values.ndim - 1):
        rows = jax.vmap(rows)
    return rows(values, places)


class _MaxUnpool(Module):
    """The constructor and the call of the three layers."""

    _axes: ClassVar[int]

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        name, n = type(self).__name__, self._axes
        self.kernel_size = per_axis(name, "kernel_size", kernel_size, n, least=1)
        steps = kernel_size if stride is None else stride
        self.stride = per_axis(name, "stride", steps, n, least=1)
        self.padding = per_axis(name, "padding", padding, n)

    def __call__(
        self,
        input: Float[Array, "..."],
        indices: Integer[Array, "..."],
        output_size: Sequence[int] | None = None,
    ) -> Float[Array, "..."]:
        """Turns (N, C, ...) or (C, ...) into an array with the same number of axes."""
        check_axes(self, input, self._axes)
        return max_unpool(
            self._axes, input, indices, self.kernel_size, self.stride, self.padding, output_size
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxUnpool1d(_MaxUnpool):
    """Undoes `MaxPool1d`: torch.nn.MaxUnpool1d. As in `MaxUnpool2d`."""

    _axes = 1


class MaxUnpool2d(_MaxUnpool):
    """Puts the numbers of `MaxPool2d` back, among zeros: torch.nn.MaxUnpool2d.

    The layer is called with the input, the indices and perhaps output_size, as `max_unpool2d`.

    Args:
        kernel_size: The height and width of the windows of the pooling, or one number for both.
        stride: The step of the pooling; by default the size of the window.
        padding: The padding of the pooling.
    """

    _axes = 2


class MaxUnpool3d(_MaxUnpool):
    """Undoes `MaxPool3d`: torch.nn.MaxUnpool3d. As in `MaxUnpool2d`."""

    _axes = 3
