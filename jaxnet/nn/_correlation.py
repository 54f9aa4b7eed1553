"""Correlation, the arithmetic of every convolution.

Layers and functions call `correlate` and its transpose `spread`. Both, and the gradient of
the weight, are contractions of one trilinear form, and each is a derivative of the others.
They are three operations with the following forms, of which `jaxnet.backend` chooses one:

* "kernel" is jaxnet's own C code (`jaxnet._kernels`), with the batch as innermost axis in
  memory. It takes batches of float32 images, and volumes as the images of their depths.
* "native" is `lax.conv_general_dilated`, with the transposes that JAX derives.
* "loop" is for all other convolutions on a CPU. It is as fast inside `lax.scan` as outside,
  where XLA's own backward convolutions are about 20 times slower (jax issue 12868).

On a CPU, a correlation with a single window, as that of an image of 1x1 transposed, is a
matrix product, and windows of one pixel with a stride see only the pixels that are cut out first.
"""

import itertools
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet import _kernels as kernels
from jaxnet.backend import (
    Operation,
    batch_innermost,
    batch_is_large,
    is_between,
    is_wanted,
)

_Sizes = tuple[int, ...]
_Pads = tuple[tuple[int, int], ...]

# Each band of rows of up to 16 images gets a weight gradient of its own, which needs memory and
# a sum at the end. So the largest weights are left to XLA.
_KERNEL_WEIGHTS = 2**20

# From this number of input channels in a group on, one convolution for each group is faster
# than one matrix product of patches for all groups.
_WIDE_GROUP = 8


class _Geometry(NamedTuple):
    """The sizes of a correlation, which are known when it is traced.

    Attributes:
        sizes: The spatial sizes of x.
        window: The spatial sizes of the weight.
        stride: The step between windows for each spatial axis.
        pads: The (low, high) zeros for each spatial axis.
        dilation: The step inside a window for each spatial axis.
        groups: The number of groups of channels.
        one_by_one: Whether the "loop" form computes several groups as several convolutions
            instead of one product of patches.
        in_c: Whether the kernel accepts these sizes.
    """

    sizes: _Sizes
    window: _Sizes
    stride: _Sizes
    pads: _Pads
    dilation: _Sizes
    groups: int
    one_by_one: bool
    in_c: bool

    @property
    def low(self) -> _Sizes:
        """The number of zeros before each spatial axis."""
        return tuple(low for low, _ in self.pads)

    @property
    def counts(self) -> _Sizes:
        """The spatial sizes of y."""
        axes = zip(self.sizes, self.window, self.stride, self.pads, self.dilation, strict=True)
        return tuple((n + sum(p) - (k - 1) * d - 1) // s + 1 for n, k, s, p, d in axes)

    @property
    def one_window(self) -> bool:
        """Whether y has one pixel, the product of x, as far as the window covers it, and w."""
        dense = all(k == 1 or d == 1 for k, d in zip(self.window, self.dilation, strict=True))
        return self.groups == 1 and dense and all(is_between(n, 1, 1) for n in self.counts)

    @property
    def seen(self) -> tuple[tuple[int, int], ...]:
        """The first number of the window that lies on x, and the end, if y has one pixel."""
        axes = zip(self.sizes, self.window, self.low, strict=True)
        return tuple((min(max(p, 0), k), max(min(k, n + p), min(max(p, 0), k))) for n, k, p in axes)

    @property
    def pixels(self) -> bool:
        """Whether windows of one pixel leave pixels between them out."""
        unpadded = all(pad == (0, 0) for pad in self.pads)
        return unpadded and set(self.window) == {1} and max(self.stride) > 1


def correlate(
    x: jax.Array,
    w: jax.Array,
    stride: _Sizes,
    pads: _Pads,
    dilation: _Sizes,
    groups: int = 1,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Computes y[n, o, m] = bias[o] + sum of x[n, c, m stride + k dilation - low] w[o, c, k].

    The sum is over c and k, where m and k are positions with one index for each spatial axis.

    Args:
        x: The input, (N, groups * C, ...).
        w: The weight, (O, C, ...). An output channel is computed from the C input channels of
            its group.
        stride: The step between windows for each spatial axis.
        pads: The (low, high) zeros for each spatial axis.
        dilation: The step inside a window for each spatial axis.
        groups: The number of groups of channels.
        bias: A summand for each output channel, (O,), or None.

    Returns:
        The correlation y, (N, O, ...).
    """
    one_by_one = w.shape[1] >= _WIDE_GROUP
    geometry = _geometry(x, x.shape[2:], w, stride, pads, dilation, groups, one_by_one)
    return _CORRELATE(x, w, bias, geometry=geometry)[0]


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
    """The transpose of `correlate` with respect to x.

    Each number of y, times the window, is added to the numbers of x that it was computed from.

    Args:
        y: The output of a correlation, (N, O, ...).
        w: The weight, (O, C, ...).
        sizes: The spatial sizes of the result.
        stride: The step between windows for each spatial axis.
        low: The number of zeros that `correlate` adds before each spatial axis.
        dilation: The step inside a window for each spatial axis.
        groups: The number of groups of channels.
        bias: A summand for each channel of the result, (groups * C,), or None.

    Returns:
        The result, (N, groups * C, *sizes).
    """
    # cuDNN accepts only as many zeros after an axis as before it. So `after` is made equal to
    # `before` where this does not change the number of windows.
    exact = _high_pads(sizes, y, w, stride, low, dilation)
    pads = tuple(
        (before, max(after, min(before, after + step - 1)))
        for (before, after), step in zip(exact, stride, strict=True)
    )
    one_by_one = w.shape[:2] != (groups, 1)
    geometry = _geometry(y, tuple(sizes), w, stride, pads, dilation, groups, one_by_one)
    return _shifted(_SPREAD(y, w, geometry=geometry)[0], bias)


def _geometry(images, sizes, w, stride, pads, dilation, groups, one_by_one) -> _Geometry:
    places = tuple(sizes), w.shape[2:], tuple(stride), tuple(map(tuple, pads)), tuple(dilation)
    geometry = _Geometry(*places, groups, one_by_one, False)
    in_c = (
        not geometry.one_window
        and images.dtype == w.dtype == jnp.float32
        and max(stride) <= kernels.MOST_STRIDE
        and max(_spans(w, dilation)) <= kernels.MOST_SPAN
        and 0 < w.size <= _KERNEL_WEIGHTS
        and (batch_innermost(images) or _in_c_by_depths(images.shape[0], geometry))
    )
    return geometry._replace(in_c=in_c)


def _in_c_by_depths(batch: int, geometry: _Geometry) -> bool:
    """Whether volumes are computed by the kernel for images."""
    if len(geometry.sizes) != 3 or set(geometry.window) == {1}:
        return False
    # One after another, since a symbolic size cannot be compared.
    depths = geometry.counts[0]
    return is_between(batch, 1) and is_between(depths, 1) and batch_is_large(batch * depths)


def _shifted(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """Adds one number to each channel of (N, O, ...)."""
    if bias is None:
        return y
    return y + jnp.broadcast_to(bias.reshape(-1, *(1,) * (y.ndim - 2)), y.shape)


# The "native" form: JAX's convolution, and the transposes that JAX derives from it.


def _rows(images, *weights, geometry):
    return (0, *(None for each in weights if each is not None)), (0,)


def _correlate_shapes(x, w, bias, geometry):
    return [(x.shape[0], w.shape[0], *geometry.counts)]


def _spread_shapes(y, w, geometry):
    return [(y.shape[0], geometry.groups * w.shape[1], *geometry.sizes)]


def _weight_gradient_shapes(x, y, geometry):
    weight = (y.shape[1], x.shape[1] // geometry.groups, *geometry.window)
    return [weight, y.shape[1:2]]


def _conv(x, w, g):
    return lax.conv_general_dilated(
        x, w, g.stride, g.pads, rhs_dilation=g.dilation, feature_group_count=g.groups
    )


def _native_correlate(x, w, bias, geometry):
    return [_shifted(_conv(x, w, geometry), bias)]


def _native_spread(y, w, geometry):
    x = _inputs(y, w, geometry)
    return jax.linear_transpose(lambda x: _conv(x, w, geometry), x)(y)


def _native_weight_gradient(x, y, geometry):
    w = _weights(x, y, geometry)
    return [*jax.linear_transpose(lambda w: _conv(x, w, geometry), w)(y), _bias_gradient(y)]


def _inputs(y, w, g):
    """The type of x, which is that of y with another shape."""
    return jax.typeof(y).update(shape=_spread_shapes(y, w, g)[0])


def _weights(x, y, g):
    """The type of the weight."""
    return jax.typeof(x).update(shape=_weight_gradient_shapes(x, y, g)[0])


def _bias_gradient(y):
    return y.sum((0, *range(2, y.ndim)))


# The "loop" form: what XLA runs fast on a CPU, also inside a loop.


def _loop_correlate(x, w, bias, geometry):
    return [_shifted(_correlate(x, w, geometry), bias)]


def _correlate(x, w, g):
    if g.one_window:
        y = _seen_of_x(x, g) @ _seen_of_w(w, g).T
        return y.reshape(*y.shape, *g.counts)
    if g.pixels:
        x, g = _only_seen(x, g)
    if g.groups == 1:
        return _channels_last_conv(x, w, g.stride, g.pads, rhs_dilation=g.dilation)
    if not g.one_by_one:
        return _correlate_narrow(x, w, g.stride, g.pads, g.dilation, g.groups)
    parts = zip(jnp.split(x, g.groups, 1), jnp.split(w, g.groups, 0), strict=True)
    one = g._replace(groups=1)
    return jnp.concatenate([_correlate(a, b, one) for a, b in parts], 1)


def _loop_spread(y, w, geometry):
    return [_spread(y, w, geometry)]


def _spread(y, w, g):
    if g.one_window:
        x = y.reshape(y.shape[:2]) @ _seen_of_w(w, g)
        sizes = [end - first for first, end in g.seen]
        ends = zip(g.sizes, g.low, g.seen, strict=True)
        around = [(a - p, n - (b - p), 0) for n, p, (a, b) in ends]
        return _padded(x.reshape(x.shape[0], w.shape[1], *sizes), around)
    if g.pixels:
        return _all_pixels(_spread(y, w, _seen_geometry(g)), g)
    if g.groups == 1:
        return _channels_last_conv(
            y,
            _flipped(w, 1),
            (1,) * len(g.stride),
            _spread_pads(y, w, g.sizes, g.stride, g.low, g.dilation),
            lhs_dilation=g.stride,
            rhs_dilation=g.dilation,
        )
    if g.one_by_one:
        parts = zip(jnp.split(y, g.groups, 1), jnp.split(w, g.groups, 0), strict=True)
        one = g._replace(groups=1)
        return jnp.concatenate([_spread(a, b, one) for a, b in parts], 1)
    if w.shape[:2] == (g.groups, 1):
        # One channel in each group: the transpose is itself a correlation of y, with
        # stride - 1 zeros between its numbers, with the flipped window.
        steps = [(0, 0, 0), (0, 0, 0), *((0, 0, s - 1) for s in g.stride)]
        apart = lax.pad(y, jnp.zeros((), y.dtype), steps)
        pads = _spread_pads(y, w, g.sizes, g.stride, g.low, g.dilation)
        ones = (1,) * len(g.stride)
        flipped = jnp.flip(w, range(2, w.ndim))
        return _correlate_narrow(apart, flipped, ones, pads, g.dilation, g.groups)
    x = _inputs(y, w, g)
    return jax.linear_transpose(lambda x: _correlate(x, w, g), x)(y)[0]


def _loop_weight_gradient(x, y, geometry):
    return [_weight_gradient(x, y, geometry), _bias_gradient(y)]


def _weight_gradient(x, y, g):
    """The gradient of the weight, (O, C, ...): the correlation of x with y over the batch.

    For a single group the batch is exchanged with the channels, so that a convolution sums
    over the batch; stride and dilation are exchanged too.
    """
    w = _weights(x, y, g)
    if g.one_window:
        found = y.reshape(y.shape[:2]).T @ _seen_of_x(x, g)
        sizes = [end - first for first, end in g.seen]
        around = [(a, k - b, 0) for k, (a, b) in zip(g.window, g.seen, strict=True)]
        return _padded(found.reshape(*w.shape[:2], *sizes), around)
    if g.pixels:
        x, g = _only_seen(x, g)
    if g.groups == 1:
        pads = _high_pads(g.sizes, y, w, g.stride, g.low, g.dilation)
        turned = jnp.swapaxes(x, 0, 1), jnp.swapaxes(y, 0, 1)
        found = _channels_last_conv(*turned, g.dilation, pads, rhs_dilation=g.stride)
        return jnp.swapaxes(found, 0, 1)
    if not g.one_by_one:
        return jax.linear_transpose(lambda w: _correlate(x, w, g), w)(y)[0]
    parts = zip(jnp.split(x, g.groups, 1), jnp.split(y, g.groups, 1), strict=True)
    one = g._replace(groups=1)
    return jnp.concatenate([_weight_gradient(a, b, one) for a, b in parts], 0)


def _seen_of_x(x, g):
    """The rows (N, C * window) of what a single window sees of x."""
    axes = zip(g.seen, g.low, strict=True)
    cut = x[(..., *(slice(a - p, b - p) for (a, b), p in axes))]
    return cut.reshape(x.shape[0], -1)


def _seen_of_w(w, g):
    """The part of w that a single window has on x, as (O, C * window)."""
    return w[(..., *(slice(a, b) for a, b in g.seen))].reshape(w.shape[0], -1)


def _padded(x, spatial):
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), (0, 0, 0), *spatial])


def _seen_geometry(g):
    """The geometry of windows of one pixel after the others were left out."""
    return g._replace(sizes=g.counts, stride=(1,) * len(g.stride))


def _only_seen(x, g):
    steps = (slice(None, None, step) for step in g.stride)
    return x[(slice(None), slice(None), *steps)], _seen_geometry(g)


def _all_pixels(x, g):
    """The transpose of `_only_seen`: zeros for what no window sees."""
    axes = zip(g.sizes, g.counts, g.stride, strict=True)
    return _padded(x, [(0, n - (m - 1) * s - 1, s - 1) for n, m, s in axes])


def _flipped(w: jax.Array, groups: int) -> jax.Array:
    """Turns (groups * O, C, ...) into (groups * C, O, ...) and reverses the spatial axes."""
    parts = jnp.flip(w, tuple(range(2, w.ndim))).reshape(groups, -1, *w.shape[1:])
    return jnp.swapaxes(parts, 1, 2).reshape(-1, w.shape[0] // groups, *w.shape[2:])


def _spans(w: Any, dilation: _Sizes) -> list[int]:
    return [(k - 1) * d for k, d in zip(w.shape[2:], dilation, strict=True)]


def _high_pads(sizes, y, w, stride, low, dilation) -> _Pads:
    """The pads for which x of the given sizes fits the windows of y exactly, maybe negative."""
    axes = zip(sizes, y.shape[2:], _spans(w, dilation), stride, low, strict=True)
    return tuple((p, (m - 1) * s + 1 + span - n - p) for n, m, span, s, p in axes)


def _spread_pads(y, w, sizes, stride, low, dilation) -> _Pads:
    axes = zip(sizes, y.shape[2:], _spans(w, dilation), stride, low, strict=True)
    # A full correlation: span zeros on each side of y, less those that `correlate` had added.
    return tuple((span - p, n + p - (m - 1) * s - 1) for n, m, span, s, p in axes)


# XLA's CPU backend has fast code only for convolutions with channels last. The gradients that
# JAX derives have other dimension numbers, so the "loop" form writes all three itself.


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


# Several groups of few channels: XLA's grouped convolutions are slow on a CPU even with
# channels last, so these are sums of shifted copies of x.


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
        # A depthwise convolution: a weighted sum of the shifted copies.
        column = (1, o) + (1,) * len(sizes)
        terms = [shifted(k) * w[(slice(None), 0, *k)].reshape(column) for k in offsets]
        return sum(terms[1:], terms[0])

    copies = [jnp.swapaxes(shifted(k), 0, 1).reshape(groups, c, -1) for k in offsets]
    patches = jnp.stack(copies, 2).reshape(groups, c * len(offsets), -1)
    kernel = w.reshape(groups, o // groups, -1)  # (groups, O / groups, C * window)
    y = kernel @ patches  # (groups, O / groups, N * sizes)
    return jnp.swapaxes(y.reshape(o, n, *sizes), 0, 1)


# The "kernel" form, in C.


def _in_c(*arrays, geometry):
    return geometry.in_c


def _kernel_correlate(x, w, bias, geometry):
    if geometry.pixels:
        x, geometry = _only_seen(x, geometry)
    if len(geometry.sizes) == 3:
        pictures, by_depth = _by_depths(x, geometry), _of_a_depth(geometry)
        y = kernels.correlate2d(pictures, _of_all_depths(w), *_places(by_depth))
        y = _volumes(y, x.shape[0])
    else:
        y = kernels.correlate2d(x, w, *_places(geometry))
    # XLA adds the bias, which is free when it is fused into the activation that follows.
    return [_shifted(y, bias)]


def _kernel_spread(y, w, geometry):
    if geometry.pixels:
        return [_all_pixels(_kernel_spread(y, w, _seen_geometry(geometry))[0], geometry)]
    if len(geometry.sizes) == 3:
        g = _of_a_depth(geometry)
        x = kernels.spread2d(_pictures(y), _of_all_depths(w), g.sizes, *_places(g))
        return [_from_depths(_volumes(x, y.shape[0]), geometry)]
    pads, steps = _places(geometry)
    if steps == kernels.Steps():
        pads = _spread_pads(y, w, geometry.sizes, geometry.stride, geometry.low, geometry.dilation)
        return [kernels.correlate2d(y, _flipped(w, 1), pads, steps)]
    return [kernels.spread2d(y, w, geometry.sizes, pads, steps)]


def _kernel_weight_gradient(x, y, geometry):
    shape = _weight_gradient_shapes(x, y, geometry)[0]
    if geometry.pixels:
        x, geometry = _only_seen(x, geometry)
    if len(geometry.sizes) == 3:
        x, y, geometry = _by_depths(x, geometry), _pictures(y), _of_a_depth(geometry)
    dw, db = kernels.correlate2d_gradient(x, y, geometry.window, *_places(geometry))
    return [dw.reshape(shape), db]


def _places(g):
    return g.pads, kernels.Steps(g.stride, g.dilation, g.groups)


# Volumes (N, C, D, H, W) as images (N * D', C * kD, H, W): the depths that a window sees are
# channels beside one another.


def _of_a_depth(g):
    axes = g.sizes, g.window, g.stride, g.pads, g.dilation
    return _Geometry(*(axis[1:] for axis in axes), g.groups, g.one_by_one, g.in_c)


def _by_depths(x, g):
    count, step, apart = g.counts[0], g.stride[0], g.dilation[0]
    padded = _padded(x, [(*g.pads[0], 0), (0, 0, 0), (0, 0, 0)])
    seen = [
        lax.slice_in_dim(padded, k * apart, k * apart + (count - 1) * step + 1, step, axis=2)
        for k in range(g.window[0])
    ]
    return _pictures(jnp.concatenate([each[:, :, None] for each in seen], 2))


def _from_depths(x, g):
    """The transpose of `_by_depths`, from (N, C * kD, D', H, W)."""
    x = x.reshape(x.shape[0], -1, g.window[0], *x.shape[2:])
    length = (g.counts[0] - 1) * g.stride[0] + 1
    firsts = [k * g.dilation[0] - g.low[0] for k in range(g.window[0])]
    places = [(first, g.sizes[0] - first - length, g.stride[0] - 1) for first in firsts]
    parts = [_padded(x[:, :, k], [place, (0, 0, 0), (0, 0, 0)]) for k, place in enumerate(places)]
    return sum(parts[1:], parts[0])


def _pictures(x):
    """(N, C, D, H, W) or (N, C, kD, D, H, W) as (N * D, C * kD, H, W)."""
    x = jnp.moveaxis(x, -3, 1)
    return x.reshape(x.shape[0] * x.shape[1], -1, *x.shape[-2:])


def _volumes(y, batch):
    y = y.reshape(batch, -1, *y.shape[1:])  # (N, D', O, H', W')
    return jnp.moveaxis(y, 1, 2)


def _of_all_depths(w):
    return w.reshape(w.shape[0], -1, *w.shape[3:])


# Derivatives. The correlation is linear in x, and linear in weight and bias together, whose
# gradients the kernel computes in one pass. So an operation's tangents are operations again,
# and derivatives of every order exist.


def _correlate_jvp(arguments, tangents, geometry):
    (x, w, bias), (dx, dw, db) = arguments, tangents
    y = _CORRELATE(x, w, bias, geometry=geometry)[0]
    parts = []
    if dx is not None:
        parts += _CORRELATE(dx, w, None, geometry=geometry)
    if dw is not None:
        parts += _CORRELATE(x, dw, db, geometry=geometry)
    elif db is not None:
        parts.append(_shifted(jnp.zeros_like(y), db))
    return [y], [sum(parts[1:], parts[0])]


def _correlate_transpose(arguments, slopes, geometry):
    (x, w, _), (dy,) = arguments, slopes
    if is_wanted(x):
        return _SPREAD(dy, w, geometry=geometry)[0], None, None
    return None, *_WEIGHT_GRADIENT(x, dy, geometry=geometry)


def _spread_jvp(arguments, tangents, geometry):
    (y, w), (dy, dw) = arguments, tangents
    parts = [] if dy is None else _SPREAD(dy, w, geometry=geometry)
    parts += [] if dw is None else _SPREAD(y, dw, geometry=geometry)
    return _SPREAD(y, w, geometry=geometry), [sum(parts[1:], parts[0])]


def _spread_transpose(arguments, slopes, geometry):
    (y, w), (dx,) = arguments, slopes
    if is_wanted(y):
        return _CORRELATE(dx, w, None, geometry=geometry)[0], None
    return None, _WEIGHT_GRADIENT(dx, y, geometry=geometry)[0]


def _weight_gradient_jvp(arguments, tangents, geometry):
    (x, y), (dx, dy) = arguments, tangents
    moved: list[Any] = [None, None] if dy is None else _WEIGHT_GRADIENT(x, dy, geometry=geometry)
    if dx is not None:
        along = _WEIGHT_GRADIENT(dx, y, geometry=geometry)[0]
        moved[0] = along if dy is None else moved[0] + along
    return _WEIGHT_GRADIENT(x, y, geometry=geometry), moved


def _weight_gradient_transpose(arguments, slopes, geometry):
    (x, y), (dw, db) = arguments, slopes
    if is_wanted(x):
        return _SPREAD(y, dw, geometry=geometry)[0], None
    if dw is None:
        return None, _shifted(jnp.zeros(y.shape, y.dtype), db)
    return None, _CORRELATE(x, dw, db, geometry=geometry)[0]


_CORRELATE = Operation(
    "correlate",
    native=_native_correlate,
    loop=_loop_correlate,
    kernel=_kernel_correlate,
    in_c=_in_c,
    rows=_rows,
    shapes=_correlate_shapes,
    jvp=_correlate_jvp,
    transpose=_correlate_transpose,
)
_SPREAD = Operation(
    "spread",
    native=_native_spread,
    loop=_loop_spread,
    kernel=_kernel_spread,
    in_c=_in_c,
    rows=_rows,
    shapes=_spread_shapes,
    jvp=_spread_jvp,
    transpose=_spread_transpose,
)
_WEIGHT_GRADIENT = Operation(
    "weight_gradient",
    native=_native_weight_gradient,
    loop=_loop_weight_gradient,
    kernel=_kernel_weight_gradient,
    in_c=_in_c,
    shapes=_weight_gradient_shapes,
    jvp=_weight_gradient_jvp,
    transpose=_weight_gradient_transpose,
)
