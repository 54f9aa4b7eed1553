"""Functions of torch that jnp has not in one call, written out."""

import math
import typing
from typing import Any

import jax
import jax.numpy as jnp


class ValuesIndices(typing.NamedTuple):
    """What torch.max and its like return."""

    values: jax.Array
    indices: jax.Array


def picked(x: jax.Array, indices: jax.Array, dim: int, keepdim: bool) -> ValuesIndices:
    values = jnp.take_along_axis(x, indices, axis=dim)
    if keepdim:
        return ValuesIndices(values, indices)
    return ValuesIndices(values.squeeze(dim), indices.squeeze(dim))


def max_along(x: jax.Array, dim: Any, keepdim: bool = False) -> Any:
    """The greatest numbers along an axis, and where they are; of two arrays the greater ones."""
    if not isinstance(dim, int):
        return jnp.maximum(x, dim)
    return picked(x, jnp.argmax(x, axis=dim, keepdims=True), dim, keepdim)


def min_along(x: jax.Array, dim: Any, keepdim: bool = False) -> Any:
    """The least numbers along an axis, and where they are; of two arrays the lesser ones."""
    if not isinstance(dim, int):
        return jnp.minimum(x, dim)
    return picked(x, jnp.argmin(x, axis=dim, keepdims=True), dim, keepdim)


def sort(
    x: jax.Array, dim: int = -1, descending: bool = False, stable: bool = False
) -> ValuesIndices:
    indices = jnp.argsort(x, axis=dim, descending=descending)
    return picked(x, indices, dim, True)


def topk(
    x: jax.Array, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> ValuesIndices:
    indices = jnp.argsort(x, axis=dim, descending=largest)
    return picked(x, jnp.take(indices, jnp.arange(k), axis=dim), dim, True)


def median(x: jax.Array, dim: int | None = None, keepdim: bool = False) -> Any:
    """The lower of the two numbers in the middle, as in PyTorch."""
    if dim is None:
        return jnp.sort(x.ravel())[(x.size - 1) // 2]
    indices = jnp.argsort(x, axis=dim)
    middle = (x.shape[dim] - 1) // 2
    return picked(x, jnp.take(indices, jnp.array([middle]), axis=dim), dim, keepdim)


def chunk(x: jax.Array, chunks: int, dim: int = 0) -> list[jax.Array]:
    """At most `chunks` parts, of which the last may be smaller."""
    size = -(-x.shape[dim] // chunks)
    return jnp.split(x, list(range(size, x.shape[dim], size)), axis=dim)


def split(x: jax.Array, split_size_or_sections: Any, dim: int = 0) -> list[jax.Array]:
    """Parts of a size, of which the last may be smaller, or of the sizes that are given."""
    sizes = split_size_or_sections
    if isinstance(sizes, int):
        return jnp.split(x, list(range(sizes, x.shape[dim], sizes)), axis=dim)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return jnp.split(x, ends, axis=dim)


def unbind(x: jax.Array, dim: int = 0) -> list[jax.Array]:
    """The parts of an array along an axis, without that axis."""
    return list(jnp.moveaxis(x, dim, 0))


def squeeze(x: jax.Array, dim: Any = None) -> jax.Array:
    """Without the axes of size 1; an axis of another size stays."""
    if dim is None:
        return jnp.squeeze(x)
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    return jnp.squeeze(x, tuple(d for d in dims if x.shape[d] == 1))


def flatten(x: jax.Array, start_dim: int = 0, end_dim: int = -1) -> jax.Array:
    """Makes one axis of several."""
    if x.ndim == 0:
        return x.reshape(1)
    start, end = start_dim % x.ndim, end_dim % x.ndim
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


def unflatten(x: jax.Array, dim: int, sizes: Any) -> jax.Array:
    """Makes several axes of one."""
    return x.reshape(*x.shape[: dim % x.ndim], *sizes, *x.shape[dim % x.ndim + 1 :])


def expand(x: jax.Array, *sizes: Any) -> jax.Array:
    """Repeats axes of size 1; -1 leaves an axis as it is."""
    sizes = tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    shape = (1,) * (len(sizes) - x.ndim) + x.shape
    return jnp.broadcast_to(x, [m if n == -1 else n for n, m in zip(sizes, shape, strict=True)])


def narrow(x: jax.Array, dim: int, start: Any, length: int) -> jax.Array:
    """`length` places of an axis."""
    return jax.lax.dynamic_slice_in_dim(x, start, length, dim)


def windows_along(x: jax.Array, dimension: int, size: int, step: int) -> jax.Array:
    """Windows of an axis as a new last axis: Tensor.unfold."""
    dim = dimension % x.ndim
    starts = jnp.arange(0, x.shape[dim] - size + 1, step)
    found = jnp.take(x, starts[:, None] + jnp.arange(size), axis=dim)
    return jnp.moveaxis(found, dim + 1, -1)


def clamp(x: Any, min: Any = None, max: Any = None) -> jax.Array:
    """Between `min` and `max`; unlike in jnp.clip the gradient is 1 at both of them."""
    x = x if min is None else jnp.where(x < min, min, x)
    return x if max is None else jnp.where(x > max, max, x)


def clamp_min(x: Any, min: Any) -> jax.Array:
    return clamp(x, min)


def clamp_max(x: Any, max: Any) -> jax.Array:
    return clamp(x, None, max)


def gather(x: jax.Array, dim: int, index: jax.Array) -> jax.Array:
    """x[index[i, j], j] for dim=0; `index` may be smaller than `x`."""
    places = list(jnp.indices(index.shape, sparse=True))
    places[dim] = index
    return x[tuple(places)]


def scatter(x: jax.Array, dim: int, index: jax.Array, src: Any) -> jax.Array:
    """x with src[i, j] at [index[i, j], j] for dim=0."""
    places = list(jnp.indices(index.shape, sparse=True))
    places[dim] = index
    if hasattr(src, "shape") and jnp.ndim(src):
        src = src[tuple(slice(n) for n in index.shape)]
    return x.at[tuple(places)].set(src)


def scatter_add(x: jax.Array, dim: int, index: jax.Array, src: jax.Array) -> jax.Array:
    """x to which src[i, j] is added at [index[i, j], j] for dim=0."""
    places = list(jnp.indices(index.shape, sparse=True))
    places[dim] = index
    return x.at[tuple(places)].add(src[tuple(slice(n) for n in index.shape)])


def index_add(x: jax.Array, dim: int, index: jax.Array, source: Any, alpha: Any = 1) -> jax.Array:
    """x to whose rows `index` along an axis those of `source` are added."""
    return x.at[(slice(None),) * (dim % x.ndim) + (index,)].add(alpha * source)


def norm(
    x: jax.Array, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> jax.Array:
    """The p-norm of the numbers along axes, or of all; its gradient is 0 where it is 0."""
    x = jnp.abs(x if dtype is None else x.astype(dtype))
    axis = tuple(dim) if isinstance(dim, list) else dim
    if p == math.inf:
        return jnp.max(x, axis=axis, keepdims=keepdim)
    if p == -math.inf:
        return jnp.min(x, axis=axis, keepdims=keepdim)
    if p == 0:
        return jnp.sum(x != 0, axis=axis, keepdims=keepdim).astype(x.dtype)
    p = 2 if p in ("fro", None) else p
    if isinstance(p, str):
        raise NotImplementedError(f"p={p!r} is not written here; write jnp.linalg.norm")
    total = jnp.sum(x**p, axis=axis, keepdims=keepdim)
    is_zero = total == 0
    return jnp.where(is_zero, 0, jnp.where(is_zero, 1, total) ** (1 / p))


def vector_norm(
    x: jax.Array, ord: Any = 2, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> jax.Array:
    return norm(x, ord, dim, keepdim, dtype)


def linalg_norm(
    x: jax.Array, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> jax.Array:
    """The norm of a matrix, of two axes, or of a vector: torch.linalg.norm."""
    pair = x.ndim == 2 if dim is None else hasattr(dim, "__len__") and len(dim) == 2
    if ord in (None, "fro") or not (pair or isinstance(ord, str)):
        return norm(x, 2 if ord is None else ord, dim, keepdim, dtype)
    x = x if dtype is None else x.astype(dtype)
    return jnp.linalg.norm(x, ord, (-2, -1) if dim is None else tuple(dim), keepdim)


def normalize(x: jax.Array, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> jax.Array:
    """Divided by the norm along an axis, or by `eps` where that is greater."""
    return x / clamp(norm(x, p, dim, True), eps)


def cosine_similarity(x1: jax.Array, x2: jax.Array, dim: int = 1, eps: float = 1e-8) -> jax.Array:
    """The product of two vectors that are divided by their lengths."""
    one = x1 / jnp.expand_dims(clamp(norm(x1, 2, dim), eps), dim)
    return jnp.sum(one * (x2 / jnp.expand_dims(clamp(norm(x2, 2, dim), eps), dim)), axis=dim)


def var_mean(
    x: jax.Array, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False,
    *, correction: Any = None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The variance and the mean; var_mean(x, False) says `unbiased`, as in PyTorch."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    ddof = 1 if unbiased is None else int(unbiased)
    ddof = ddof if correction is None else correction
    axis = tuple(dim) if isinstance(dim, list) else dim
    mean = jnp.mean(x, axis=axis, keepdims=keepdim)
    return jnp.var(x, axis=axis, ddof=ddof, keepdims=keepdim), mean


def safe_sqrt(x: jax.Array) -> jax.Array:
    """The square root whose gradient at 0 is 0."""
    zero = x == 0
    return jnp.where(zero, x, jnp.sqrt(jnp.where(zero, 1, x)))


def std_mean(
    x: jax.Array, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False,
    *, correction: Any = None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The standard deviation, whose gradient is 0 where it is 0, and the mean."""
    variance, mean = var_mean(x, dim, unbiased, keepdim, correction=correction)
    return safe_sqrt(variance), mean


def var(
    x: jax.Array, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False,
    *, correction: Any = None,
) -> jax.Array:  # fmt: skip
    """The variance, with the arguments of `var_mean`."""
    return var_mean(x, dim, unbiased, keepdim, correction=correction)[0]


def std(
    x: jax.Array, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False,
    *, correction: Any = None,
) -> jax.Array:  # fmt: skip
    """The standard deviation, whose gradient is 0 where it is 0."""
    return std_mean(x, dim, unbiased, keepdim, correction=correction)[0]


def pairwise_distances(
    x1: jax.Array, x2: jax.Array, p: float = 2.0, compute_mode: str | None = None
) -> jax.Array:
    """The distance of each row of `x1` to each of `x2`: torch.cdist."""
    return norm(x1[..., :, None, :] - x2[..., None, :, :], p, -1)


def pad(x: jax.Array, pad: Any, mode: str = "constant", value: Any = None) -> jax.Array:
    """Adds to the ends of axes; the pairs of numbers begin with the last axis."""
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)]
    cut = [(max(-a, 0), max(-b, 0)) for a, b in pairs]  # a number below 0 takes away
    places = [slice(None)] * (x.ndim - len(pairs))
    lasts = zip(cut, x.shape[::-1], strict=False)
    places += [slice(a, n - b) for (a, b), n in lasts][::-1]
    around = [(0, 0)] * (x.ndim - len(pairs)) + [(max(a, 0), max(b, 0)) for a, b in pairs][::-1]
    if mode == "constant":
        return jnp.pad(x[tuple(places)], around, constant_values=0 if value is None else value)
    modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    return jnp.pad(x[tuple(places)], around, mode=modes[mode])


def interpolate(
    x: jax.Array,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> jax.Array:
    """Resizes (N, C, ...): "nearest", and "linear", "bilinear" and "trilinear"."""
    if mode not in ("nearest", "linear", "bilinear", "trilinear"):
        raise NotImplementedError(f"mode={mode!r} is not written here; write jax.image.resize")
    rank = x.ndim - 2
    if size is None:
        factors = (scale_factor,) * rank if not hasattr(scale_factor, "__len__") else scale_factor
        sizes = [math.floor(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]
        steps = [1 / f for f in factors]
    else:
        sizes = [size] * rank if isinstance(size, int) else list(size)
        steps = [n / m for n, m in zip(x.shape[2:], sizes, strict=True)]
    for axis, m, step in zip(range(2, x.ndim), sizes, steps, strict=True):
        n, places = x.shape[axis], jnp.arange(m)
        if mode == "nearest":
            x = jnp.take(x, jnp.minimum(jnp.floor(places * step).astype(int), n - 1), axis=axis)
            continue
        if align_corners:
            at = places * ((n - 1) / (m - 1) if m > 1 else 0.0)
        else:
            at = jnp.maximum((places + 0.5) * step - 0.5, 0)
        low = jnp.minimum(jnp.floor(at).astype(int), n - 1)
        share = (at - low).reshape(-1, *[1] * (x.ndim - 1 - axis)).astype(x.dtype)
        first = jnp.take(x, low, axis=axis)
        second = jnp.take(x, jnp.minimum(low + 1, n - 1), axis=axis)
        x = first * (1 - share) + second * share
    return x


def layer_norm(
    x: jax.Array, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> jax.Array:
    """Normalizes the last axes."""
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    axes = tuple(range(-count, 0))
    centred = x - jnp.mean(x, axis=axes, keepdims=True)
    y = centred / jnp.sqrt(jnp.mean(centred**2, axis=axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def rms_norm(
    x: jax.Array, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> jax.Array:
    """Divides by the root of the mean square of the last axes."""
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    small = jnp.finfo(x.dtype).eps if eps is None else eps
    square = jnp.mean(x**2, axis=tuple(range(-count, 0)), keepdims=True)
    y = x * jax.lax.rsqrt(square + small)
    return y if weight is None else y * weight


def group_norm(
    x: jax.Array, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> jax.Array:
    """Normalizes groups of the channels of (N, C, ...)."""
    y = x.reshape(x.shape[0], num_groups, -1)
    y = (y - jnp.mean(y, axis=-1, keepdims=True)) / jnp.sqrt(
        jnp.var(y, axis=-1, keepdims=True) + eps
    )
    shape = (1, -1, *[1] * (x.ndim - 2))
    y = y.reshape(x.shape)
    y = y if weight is None else y * weight[...].reshape(shape)
    return y if bias is None else y + bias[...].reshape(shape)


def per_axis(value: Any, rank: int) -> tuple[Any, ...]:
    """A number for each of the axes of space."""
    return (value,) * rank if isinstance(value, int) else tuple(value)


def conv(
    x: jax.Array, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> jax.Array:
    """A convolution of (N, C, ...) with a kernel (O, C / groups, ...)."""
    rank = weight.ndim - 2
    if x.ndim == rank + 1:
        return conv(x[None], weight, bias, stride, padding, dilation, groups)[0]
    steps = per_axis(dilation, rank)
    reach = [d * (k - 1) for d, k in zip(steps, weight.shape[2:], strict=True)]
    if padding == "same":
        pads = [(n // 2, n - n // 2) for n in reach]
    else:
        pads = [(n, n) for n in ([0] * rank if padding == "valid" else per_axis(padding, rank))]
    y = jax.lax.conv_general_dilated(
        x, weight[...], per_axis(stride, rank), pads, rhs_dilation=steps, feature_group_count=groups
    )
    return y if bias is None else y + bias[...].reshape(-1, *[1] * rank)


def conv1d(
    x: jax.Array, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> jax.Array:  # fmt: skip
    return conv(x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: jax.Array, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> jax.Array:  # fmt: skip
    return conv(x, weight, bias, stride, padding, dilation, groups)


def pixel_shuffle(x: jax.Array, upscale_factor: int) -> jax.Array:
    """(N, C r r, H, W) as (N, C, H r, W r)."""
    r, (*n, c, h, w) = upscale_factor, x.shape
    y = x.reshape(*n, c // r**2, r, r, h, w)
    y = jnp.moveaxis(y, (-4, -3), (-3, -1))
    return y.reshape(*n, c // r**2, h * r, w * r)


def pixel_unshuffle(x: jax.Array, downscale_factor: int) -> jax.Array:
    """(N, C, H r, W r) as (N, C r r, H, W)."""
    r, (*n, c, h, w) = downscale_factor, x.shape
    y = x.reshape(*n, c, h // r, r, w // r, r)
    y = jnp.moveaxis(y, (-3, -1), (-4, -3))
    return y.reshape(*n, c * r**2, h // r, w // r)


def channel_shuffle(x: jax.Array, groups: int) -> jax.Array:
    """(N, groups, C / groups, ...) with both axes exchanged, as (N, C, ...)."""
    y = x.reshape(x.shape[0], groups, -1, *x.shape[2:])
    return y.swapaxes(1, 2).reshape(x.shape)


def dropout(
    x: jax.Array, p: float = 0.5, training: bool = True, inplace: bool = False, *, rngs: Any
) -> jax.Array:
    """Sets numbers to 0 at random, and divides the others by 1 - p."""
    if not training or p == 0:
        return x
    kept = jax.random.bernoulli(rngs.dropout(), 1 - p, x.shape)
    return jnp.where(kept, x / (1 - p), jnp.zeros_like(x)) if p < 1 else jnp.zeros_like(x)


def dropout2d(
    x: jax.Array, p: float = 0.5, training: bool = True, inplace: bool = False, *, rngs: Any
) -> jax.Array:
    """Sets whole channels of (N, C, H, W) to 0 at random."""
    if not training or p == 0:
        return x
    kept = jax.random.bernoulli(rngs.dropout(), 1 - p, (*x.shape[:-2], 1, 1))
    return jnp.where(kept, x / (1 - p), jnp.zeros_like(x)) if p < 1 else jnp.zeros_like(x)
