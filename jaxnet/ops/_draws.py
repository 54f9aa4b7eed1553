"""Random arrays: torch's own numbers from a generator, or JAX's from the open key.

With `generator=jaxnet.random.Generator(seed)` a function gives the numbers that torch gives
for `generator=torch.Generator().manual_seed(seed)` on a CPU. It draws on the host, for
initial values and data. Without one, it draws from the next key of the `nn.keys` context, which
a training step opens: inside a model's call, and compiled. `nn.draws` replays recorded numbers.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from jaxnet import _keys as keys
from jaxnet._arrays import as_jax
from jaxnet._checks import check_integer
from jaxnet._keys import next_key, tracing
from jaxnet.ops._arguments import broadcast, dtype_of, floating, is_traced, long, new_shape, op
from jaxnet.random import Generator

Size = int | Sequence[int]


def _source(function: str, generator: Generator | None) -> Generator | None:
    """The generator, or None for a key; see the module."""
    if generator is None:
        return None
    if not isinstance(generator, Generator):
        raise TypeError(
            f"generator: {type(generator).__name__}; accepted is jaxnet.random.Generator(seed), "
            f"or nothing inside `with nn.keys(jax.random.key(0)):`"
        )
    if tracing():
        raise ValueError(
            f"{function}: a generator inside a compiled function would draw once, when it is "
            "compiled, and every call would repeat the numbers; leave generator= out"
        )
    return generator


def _no_generator(function: str, generator: Generator | None, why: str) -> None:
    if _source(function, generator) is not None:
        raise ValueError(f"{function}: {why}; leave generator= out, and open nn.keys")


def _float_dtype(dtype: DTypeLike | None, like: Any = np.float32) -> np.dtype[Any]:
    kind = dtype_of("dtype", dtype) or np.dtype(like)
    if not jnp.issubdtype(kind, jnp.floating):
        raise ValueError(f"dtype: {kind}; accepted are floats")
    return kind


def _uniform(function: str, shape: Any, kind: Any, generator: Generator | None) -> jax.Array:
    source = _source(function, generator)
    if source is None:
        return keys.uniform(function, shape, 0.0, 1.0, kind)
    return jnp.asarray(source.rand(shape, dtype=kind))


def _normal(function: str, shape: Any, kind: Any, generator: Generator | None) -> jax.Array:
    source = _source(function, generator)
    if source is None:
        return keys.normal(function, shape, kind)
    return jnp.asarray(source.randn(shape, dtype=kind))


@op
def rand(
    *size: Size, generator: Generator | None = None, dtype: DTypeLike | None = None
) -> jax.Array:
    """Uniform numbers in [0, 1), float32 unless a dtype is given.

    >>> rand(2, generator=Generator(1)).tolist() == Generator(1).rand(2).tolist()
    True
    """
    return _uniform("rand", new_shape("size", size), _float_dtype(dtype), generator)


@op
def rand_like(
    input: ArrayLike, *, generator: Generator | None = None, dtype: DTypeLike | None = None
) -> jax.Array:
    """Uniform numbers in [0, 1) in the shape and dtype of an array."""
    x = as_jax("input", input)
    return _uniform("rand_like", x.shape, _float_dtype(dtype, x.dtype), generator)


@op
def randn(
    *size: Size, generator: Generator | None = None, dtype: DTypeLike | None = None
) -> jax.Array:
    """Standard normal numbers, float32 unless a dtype is given."""
    return _normal("randn", new_shape("size", size), _float_dtype(dtype), generator)


@op
def randn_like(
    input: ArrayLike, *, generator: Generator | None = None, dtype: DTypeLike | None = None
) -> jax.Array:
    """Standard normal numbers in the shape and dtype of an array."""
    x = as_jax("input", input)
    return _normal("randn_like", x.shape, _float_dtype(dtype, x.dtype), generator)


def _integers(
    function: str, low: int, high: int, shape: Any, kind: Any, generator: Generator | None
) -> jax.Array:
    source = _source(function, generator)
    if source is not None:
        return jnp.asarray(source.randint(low, high, shape, kind))
    for name, value in (("low", low), ("high", high)):
        check_integer(name, value)
    return keys.integers(function, shape, low, high).astype(kind)


@op
def randint(
    low: int,
    high: int | Sequence[int] | None = None,
    size: Sequence[int] | None = None,
    *,
    generator: Generator | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Integers in [low, high): `randint(low, high, size)` or `randint(high, size)`.

    The dtype is int64 as far as JAX has it, unless one is given.
    """
    if isinstance(high, Sequence) and size is None:
        return randint(0, low, high, generator=generator, dtype=dtype)
    if size is None or isinstance(high, Sequence) or high is None:
        raise TypeError("randint: give randint(high, size) or randint(low, high, size)")
    kind = dtype_of("dtype", dtype) or long()
    return _integers("randint", low, high, new_shape("size", size), kind, generator)


@op
def randint_like(
    input: ArrayLike,
    low: int,
    high: int | None = None,
    *,
    generator: Generator | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Integers in [low, high), or [0, low) if one number is given, in the shape of an array."""
    x = as_jax("input", input)
    first, last = (0, low) if high is None else (low, high)
    kind = dtype_of("dtype", dtype) or x.dtype
    return _integers("randint_like", first, last, x.shape, kind, generator)


@op
def randperm(
    n: int, *, generator: Generator | None = None, dtype: DTypeLike | None = None
) -> jax.Array:
    """The numbers 0 to n - 1 in random order, int64 as far as JAX has it."""
    kind, source = dtype_of("dtype", dtype) or long(), _source("randperm", generator)
    check_integer("n", n, least=0)
    if source is not None:
        return jnp.asarray(source.randperm(n), kind)
    return jax.random.permutation(next_key(), n).astype(kind)


@op
def normal(
    mean: ArrayLike,
    std: ArrayLike = 1.0,
    size: Sequence[int] | None = None,
    *,
    generator: Generator | None = None,
    dtype: DTypeLike | None = None,
) -> jax.Array:
    """Normal numbers: `normal(mean, std, size)`, or with arrays for mean and std their shape.

    Args:
        mean: The mean or means.
        std: The standard deviation or deviations, at least 0.
        size: The shape, if mean and std are numbers.
        generator: The generator whose numbers torch gives.
        dtype: The dtype, float32 unless the arrays have another.
    """
    if not is_traced(std) and not bool((np.asarray(std) >= 0).all()):
        raise ValueError(f"std: {std}; accepted are numbers of at least 0")
    if np.ndim(mean) == 0 == np.ndim(std) and size is not None:
        kind = _float_dtype(dtype)
        source = _source("normal", generator)
        if source is not None:
            drawn = source.normal(float(np.asarray(mean)), float(np.asarray(std)), size, kind)
            return jnp.asarray(drawn)
        center, spread = jnp.asarray(mean, kind), jnp.asarray(std, kind)
        return keys.normal("normal", new_shape("size", size), kind) * spread + center
    if size is not None:
        raise ValueError("size: mean and std have a shape of their own; leave size out")
    center, spread = floating("mean", mean), floating("std", std)
    center, spread = broadcast(("mean", "std"), [center, spread.astype(center.dtype)])
    kind = _float_dtype(dtype, center.dtype)
    return (_normal("normal", center.shape, kind, generator) * spread + center).astype(kind)


@op
def bernoulli(
    input: ArrayLike, p: float | None = None, *, generator: Generator | None = None
) -> jax.Array:
    """Zeros and ones, in the shape and dtype of an array.

    Args:
        input: The probabilities of a one; with `p` only its shape and dtype count.
        p: One probability for all. Torch draws those from a vendor library, so that a generator
            cannot give its numbers.
        generator: The generator whose numbers torch gives.
    """
    x = as_jax("input", input)
    if p is not None:
        _no_generator("bernoulli", generator, "for one p torch draws from a vendor library")
        if not 0 <= p <= 1:
            raise ValueError(f"p: {p}; accepted is a probability, 0 to 1")
        return jax.random.bernoulli(next_key(), p, x.shape).astype(x.dtype)
    kind = _float_dtype(None, x.dtype)
    source = _source("bernoulli", generator)
    if source is not None:
        return jnp.asarray(source.bernoulli(np.asarray(x)))
    if not is_traced(x) and not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError("input: a probability lies outside [0, 1]")
    return jax.random.bernoulli(next_key(), x, x.shape).astype(kind)


@op
def multinomial(
    input: ArrayLike,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator | None = None,
) -> jax.Array:
    """Indices drawn by weights, for a vector or for each row of a matrix.

    Args:
        input: The weights, at least 0, which need not add up to 1.
        num_samples: How many indices.
        replacement: Whether an index can be drawn twice.
        generator: The generator whose numbers torch gives, with replacement and more than one
            sample. Else torch draws exponential numbers from a vendor library.

    Returns:
        Integers of shape (num_samples,) or (rows, num_samples), int64 as far as JAX has it.
    """
    x = floating("input", input)
    check_integer("num_samples", num_samples, least=1)
    if x.ndim not in (1, 2):
        raise ValueError(f"input: shape {x.shape}; accepted are a vector and a matrix")
    few = x.shape[-1] < num_samples
    if not is_traced(x):
        host = np.asarray(x, np.float64)
        if not (np.isfinite(host).all() and (host >= 0).all() and (host.sum(-1) > 0).all()):
            raise ValueError("input: accepted are finite weights of at least 0 with a sum above 0")
        few |= bool(((host > 0).sum(-1) < num_samples).any())
    if few and not replacement:
        raise ValueError(
            f"num_samples: {num_samples} without replacement, and there are fewer weights above 0"
        )
    if replacement and num_samples > 1:
        source = _source("multinomial", generator)
        if source is not None:
            return jnp.asarray(_replaced(np.asarray(x), num_samples, source), long())
    else:
        _no_generator("multinomial", generator, "torch draws these from a vendor library")
    logits = jnp.log(x)
    if replacement:
        rows = jax.random.categorical(
            next_key(), logits, shape=(num_samples, *x.shape[:-1]), axis=-1
        )
        return jnp.moveaxis(rows, 0, -1).astype(long())
    # Gumbel's trick: the order of noisy logarithms is a draw without replacement.
    noisy = logits + jax.random.gumbel(next_key(), x.shape, x.dtype)
    return jax.lax.top_k(noisy, num_samples)[1].astype(long())


def _replaced(weights: np.ndarray, count: int, source: Generator) -> np.ndarray:
    """torch's draw: 53-bit uniforms, looked up in the running sums of the weights."""
    rows = weights.reshape(-1, weights.shape[-1])
    found = []
    for row in rows:
        sums = np.cumsum(row, dtype=row.dtype)
        sums = sums / sums[-1]
        sums[-1] = 1
        uniforms = source.rand(count, dtype=np.float64)
        found.append(np.searchsorted(sums.astype(np.float64), uniforms, side="left"))
    return np.stack(found).reshape(*weights.shape[:-1], count)


@op
def uniform(
    input: ArrayLike, low: float = 0.0, high: float = 1.0, *, generator: Generator | None = None
) -> jax.Array:
    """Uniform numbers in [low, high) in the shape and dtype of an array: x.uniform_(low, high)."""
    x = as_jax("input", input)
    kind, source = _float_dtype(None, x.dtype), _source("uniform", generator)
    if not low <= high:
        raise ValueError(f"low, high: [{low}, {high}) is empty; low must not exceed high")
    if source is not None:
        return jnp.asarray(source.uniform(low, high, x.shape, kind))
    return keys.uniform("uniform", x.shape, low, high, kind)


@op
def exponential(
    input: ArrayLike, lambd: float = 1.0, *, generator: Generator | None = None
) -> jax.Array:
    """Exponential numbers of rate lambd in the shape and dtype of an array: x.exponential_()."""
    x = as_jax("input", input)
    _no_generator("exponential", generator, "torch draws these from a vendor library")
    if not lambd > 0:
        raise ValueError(f"lambd: {lambd}; accepted are numbers above 0")
    kind = _float_dtype(None, x.dtype)
    return keys.exponential("exponential", x.shape, kind) / jnp.asarray(lambd, kind)
