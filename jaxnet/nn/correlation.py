"""Correlation, the arithmetic under every convolution, in the form that XLA runs fast.

Layers and functions call `correlate` and its transpose `spread`; only this file
knows in which form they run:

* "kernel" is jaxnet's own C (`jaxnet.kernels`), with the batch innermost: the choice on
  a CPU for float32 images in batches, undilated, at stride 1, in one group.
* "native" is `lax.conv_general_dilated` with the gradient that XLA finds itself.
* "loop" keeps its speed inside `lax.scan` on a CPU, where XLA's own backward
  convolutions are about 20 times slower (jax issue 12868): what a CPU does with all the rest.

"kernel" and "loop" write the backward passes by hand, so forward-mode differentiation
does not pass through.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet import kernels
from jaxnet.nn.layout import chosen_form, current_form, prefers_kernel

__all__ = ["convolution_form", "correlate", "spread"]

_Sizes = tuple[int, ...]
_Pads = tuple[tuple[int, int], ...]

_FORMS = ("kernel", "loop", "native")

# Up to 16 parts of the batch have a weight gradient of their own, so the largest go to XLA.
_KERNEL_WEIGHTS = 2**20

# From this many input channels in a group, one convolution a group is faster
# than one product of patches for all groups.
_WIDE_GROUP = 8


@contextmanager
def convolution_form(form: str) -> Iterator[None]:
    """Runs what is traced inside in one form, whatever the backend would choose.

    Args:
        form: "native" (needed for `jax.jvp` and `jax.jacfwd` on a CPU), "loop", or
            "kernel" where it applies and "loop" for the rest. A function that was
            compiled before keeps its form.

    >>> conv = lambda x: correlate(x, jnp.ones((1, 1, 2)), (1,), ((0, 0),), (1,))
    >>> with convolution_form("native"):
    ...     print(jax.jvp(conv, [jnp.ones((1, 1, 3))], [jnp.ones((1, 1, 3))])[1])
    [[[2. 2.]]]
    """
    if form not in _FORMS:
        raise ValueError(f"form: {form!r}; accepted are {', '.join(map(repr, _FORMS))}")
    token = chosen_form.set(form)
    try:
        yield
    finally:
        chosen_form.reset(token)


def _for_kernel(x, w, stride, dilation, groups) -> bool:
    return (
        groups == 1
        and (*stride, *dilation) == (1, 1, 1, 1)
        and w.dtype == jnp.float32
        and 0 < w.size <= _KERNEL_WEIGHTS
        and prefers_kernel(x)
    )


def correlate(
    x: jax.Array,
    w: jax.Array,
    stride: _Sizes,
    pads: _Pads,
    dilation: _Sizes,
    groups: int = 1,
    bias: jax.Array | None = None,
) -> jax.Array:
    """y[n, o, m] = bias[o] + sum over c, k of x[n, c, m * stride + k * dilation - low] w[o, c, k].

    Args:
        x: (N, groups * C, ...).
        w: (O, C, ...); output channel o sees the C inputs of its group.
        stride, dilation: one number for each spatial axis.
        pads: (low, high) zeros for each spatial axis.
        groups: into how many parts the channels fall.
        bias: (O,) or None.

    Returns:
        (N, O, ...).
    """
    if _for_kernel(x, w, stride, dilation, groups):
        return kernels.correlate2d(x, w, bias, pads)
    return _shifted(_without_bias(x, w, stride, pads, dilation, groups), bias)


def _shifted(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """One number more in each channel of (N, O, ...)."""
    if bias is None:
        return y
    return y + jnp.broadcast_to(bias.reshape(-1, *(1,) * (y.ndim - 2)), y.shape)


def _without_bias(x, w, stride, pads, dilation, groups):
    if current_form() == "native":
        return lax.conv_general_dilated(
            x, w, stride, pads, rhs_dilation=dilation, feature_group_count=groups
        )
    if groups == 1:
        return _correlate(x, w, stride, pads, dilation)
    if w.shape[1] < _WIDE_GROUP:
        return _correlate_narrow(x, w, stride, pads, dilation, groups)
    parts = zip(jnp.split(x, groups, 1), jnp.split(w, groups, 0), strict=True)
    return jnp.concatenate([_correlate(a, b, stride, pads, dilation) for a, b in parts], 1)


def spread(
    y: jax.Array,
    w: jax.Array,
    sizes: _Sizes,
    stride: _Sizes,
    low: _Sizes,
    dilation: _Sizes,
    groups: int = 1,
    bias: jax.Array | None = None,
) -> jax.Array:
    """The transpose of `correlate` in x: adds y, times the window, into each place it came from.

    Args:
        y: (N, O, ...).
        w: (O, C, ...).
        sizes: the spatial sizes of the result.
        stride, dilation, groups: as in `correlate`.
        low: the zeros that `correlate` puts before each spatial axis.
        bias: (groups * C,), added to the result, or None.

    Returns:
        (N, groups * C, *sizes).
    """
    if _for_kernel(y, w, stride, dilation, groups):
        pads = _spread_pads(y, w, sizes, stride, low, dilation)
        return kernels.correlate2d(y, _flipped(w, 1), bias, pads)
    return _shifted(_spread_without_bias(y, w, sizes, stride, low, dilation, groups), bias)


def _spread_without_bias(y, w, sizes, stride, low, dilation, groups):
    if current_form() == "native":
        return lax.conv_general_dilated(
            y,
            _flipped(w, groups),
            (1,) * len(stride),
            _spread_pads(y, w, sizes, stride, low, dilation),
            lhs_dilation=stride,
            rhs_dilation=dilation,
            feature_group_count=groups,
        )
    if groups == 1:
        return _spread(y, w, sizes, stride, low, dilation)
    if w.shape[1] == 1 and w.shape[0] == groups:
        steps = [(0, 0, 0), (0, 0, 0), *((0, 0, s - 1) for s in stride)]
        apart = lax.pad(y, jnp.zeros((), y.dtype), steps)
        pads = _spread_pads(y, w, sizes, stride, low, dilation)
        ones = (1,) * len(stride)
        return _correlate_narrow(apart, jnp.flip(w, range(2, w.ndim)), ones, pads, dilation, groups)
    parts = zip(jnp.split(y, groups, 1), jnp.split(w, groups, 0), strict=True)
    return jnp.concatenate([_spread(a, b, sizes, stride, low, dilation) for a, b in parts], 1)


def _flipped(w: jax.Array, groups: int) -> jax.Array:
    """(groups * O, C, ...) to (groups * C, O, ...), the window back to front."""
    parts = jnp.flip(w, tuple(range(2, w.ndim))).reshape(groups, -1, *w.shape[1:])
    return jnp.swapaxes(parts, 1, 2).reshape(-1, w.shape[0] // groups, *w.shape[2:])


def _spans(w: jax.Array, dilation: _Sizes) -> list[int]:
    return [(k - 1) * d for k, d in zip(w.shape[2:], dilation, strict=True)]


def _high_pads(sizes, y, w, stride, low, dilation) -> _Pads:
    """The pads that make x of these sizes as long as the windows of y need; may be negative."""
    axes = zip(sizes, y.shape[2:], _spans(w, dilation), stride, low, strict=True)
    return tuple((p, (m - 1) * s + 1 + span - n - p) for n, m, span, s, p in axes)


def _spread_pads(y, w, sizes, stride, low, dilation) -> _Pads:
    axes = zip(sizes, y.shape[2:], _spans(w, dilation), stride, low, strict=True)
    return tuple((span - p, n + p - (m - 1) * s - 1) for n, m, span, s, p in axes)


# One group: both directions and the weight's gradient with channels last. These
# are the dimension numbers that XLA's CPU backend knows; the gradients that JAX
# derives have others. `_correlate` and `_spread` are each other's backward pass.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _correlate(x, w, stride, pads, dilation):
    return _channels_last_conv(x, w, stride, pads, rhs_dilation=dilation)


def _correlate_forward(x, w, stride, pads, dilation):
    return _correlate(x, w, stride, pads, dilation), (x, w)


def _correlate_backward(stride, pads, dilation, saved, dy):
    x, w = saved
    low = tuple(p for p, _ in pads)
    dx = _spread(dy, w, x.shape[2:], stride, low, dilation)
    return dx, _weight_gradient(x, dy, w, stride, low, dilation)


_correlate.defvjp(_correlate_forward, _correlate_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _spread(y, w, sizes, stride, low, dilation):
    return _channels_last_conv(
        y,
        _flipped(w, 1),
        (1,) * len(stride),
        _spread_pads(y, w, sizes, stride, low, dilation),
        lhs_dilation=stride,
        rhs_dilation=dilation,
    )


def _spread_forward(y, w, sizes, stride, low, dilation):
    return _spread(y, w, sizes, stride, low, dilation), (y, w)


def _spread_backward(sizes, stride, low, dilation, saved, dx):
    y, w = saved
    dy = _correlate(dx, w, stride, _high_pads(sizes, y, w, stride, low, dilation), dilation)
    return dy, _weight_gradient(dx, y, w, stride, low, dilation)


_spread.defvjp(_spread_forward, _spread_backward)


def _weight_gradient(x, y, w, stride, low, dilation):
    """x against y with channels and batch trading places, (O, C, ...)."""
    pads = _high_pads(x.shape[2:], y, w, stride, low, dilation)
    return jnp.swapaxes(
        _channels_last_conv(
            jnp.swapaxes(x, 0, 1), jnp.swapaxes(y, 0, 1), dilation, pads, rhs_dilation=stride
        ),
        0,
        1,
    )


def _channels_last_conv(x, w, stride, pads, lhs_dilation=None, rhs_dilation=None):
    spatial = "DHW"[-(x.ndim - 2) :]
    numbers = (f"N{spatial}C", f"{spatial}IO", f"N{spatial}C")
    y = lax.conv_general_dilated(
        jnp.moveaxis(x, 1, -1),
        jnp.moveaxis(w, (0, 1), (-1, -2)),
        stride,
        pads,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers=numbers,
    )
    return jnp.moveaxis(y, -1, 1)


# Several groups of few channels: XLA's grouped convolutions are slow on a CPU,
# with canonical numbers too, so these are written as shifted copies of x.


@partial(jax.jit, static_argnums=(2, 3, 4, 5), inline=True)
def _correlate_narrow(x, w, stride, pads, dilation, groups):
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (0, 0, 0), *((*p, 0) for p in pads)))
    axes = zip(padded.shape[2:], _spans(w, dilation), stride, strict=True)
    sizes = tuple((n - span - 1) // s + 1 for n, span, s in axes)
    ends = [(m - 1) * s + 1 for m, s in zip(sizes, stride, strict=True)]

    def shifted(offset):
        starts = [k * d for k, d in zip(offset, dilation, strict=True)]
        limits = [a + b for a, b in zip(starts, ends, strict=True)]
        return lax.slice(
            padded, (0, 0, *starts), (*x.shape[:2], *limits), (1, 1, *stride)
        )  # (N, groups * C, *sizes)

    offsets = list(itertools.product(*map(range, w.shape[2:])))
    n, (o, c) = x.shape[0], w.shape[:2]
    if c == 1 and o == groups:
        column = (1, o) + (1,) * len(sizes)
        terms = [shifted(k) * w[(slice(None), 0, *k)].reshape(column) for k in offsets]
        return sum(terms[1:], terms[0])

    copies = [jnp.swapaxes(shifted(k), 0, 1).reshape(groups, c, -1) for k in offsets]
    patches = jnp.stack(copies, 2).reshape(groups, c * len(offsets), -1)
    kernel = w.reshape(groups, o // groups, -1)  # (groups, O / groups, C * window)
    y = kernel @ patches  # (groups, O / groups, N * sizes)
    return jnp.swapaxes(y.reshape(o, n, *sizes), 0, 1)
