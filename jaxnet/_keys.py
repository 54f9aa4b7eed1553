"""Random keys, or recorded masks, for the layers that draw random numbers.

A layer such as Dropout has no key of its own. The program that calls the model opens a context,

    with nn.keys(key):
        model(x)

and the n-th draw inside uses `fold_in(key, n)`. A training step of
`jaxnet.train.make_train_step` opens one with `fold_in(state.key, state.step)`,
so that a resumed run draws the same numbers as an uninterrupted one. A model that draws by
itself calls `nn.next_key()`.

`with nn.masks([...])` supplies recorded masks instead, to replay another program's dropout.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

_WAY_OUT = (
    "write `with nn.keys(jax.random.key(0)):` around the call, or `model.eval()` before it, "
    "or use a step from make_train_step, which opens the context itself"
)

# A part of the key under which JAX caches traced functions. A function that was traced once
# and is called again would repeat the draws of its first trace; under another mark it is
# traced again and draws anew.
_trace_mark = jax.make_user_context(None)
_marks = itertools.count(1)
# Contexts outside of any trace share one mark, because under a new mark every operation
# compiles again. The mark changes (downwards) once a trace has recorded draws under it.
_shared_mark = 0


class _Source:
    """An open context, which supplies keys or masks."""

    def __init__(self) -> None:
        self.traced = tracing()
        self.entered = ExitStack()


class _Keys(_Source):
    def __init__(self, key: jax.Array) -> None:
        super().__init__()
        self.key = key
        self.count = itertools.count()


class _Masks(_Source):
    def __init__(self, masks: Sequence[ArrayLike]) -> None:
        super().__init__()
        self.masks = [_checked_mask(i, mask) for i, mask in enumerate(masks)]
        self.used = 0


_open: ContextVar[tuple[_Source, ...]] = ContextVar("jaxnet_open_sources", default=())


def tracing() -> bool:
    """Whether operations are being traced (by jit, checkpoint or scan) rather than run."""
    return isinstance(lax.add(np.float32(0), np.float32(0)), jax.core.Tracer)


def _mark(innermost: _Source) -> None:
    """Separates functions that are traced from here on from those that were traced before."""
    mark = next(_marks) if innermost.traced else _shared_mark
    innermost.entered.enter_context(_trace_mark(mark))


def _note_draw(source: _Source) -> None:
    global _shared_mark
    if tracing():
        if not source.traced:
            _shared_mark -= 1
        _mark(_open.get()[-1])


@contextmanager
def _opened(source: _Source) -> Iterator[None]:
    outer = _open.get()
    token = _open.set((*outer, source))
    try:
        with source.entered:
            _mark(source)
            yield
    finally:
        _open.reset(token)
        if outer:
            _mark(outer[-1])


@contextmanager
def keys(key: jax.Array) -> Iterator[None]:
    """Gives every random layer inside a key of its own: fold_in(key, n) for the n-th draw.

    Contexts nest: the innermost one gives the keys, and the outer one goes on
    counting where it stopped. A context belongs to its thread.

    Open the context inside the function that is compiled, with the key as an argument.
    Around a compiled function it gives the right numbers too, but compiles the
    function again for every context. The body of a `lax.scan` is traced once: a
    context around the loop gives every iteration the same draws; a context in the body that
    is opened with `fold_in(key, i)` does not. Likewise `jax.vmap` over inputs
    shares the draws unless it maps over keys as well.

    Args:
        key: One random key, from `jax.random.key` or `jax.random.split`.

    Raises:
        TypeError: The key is not one random key.

    >>> import jax
    >>> from jaxnet import nn
    >>> with nn.keys(jax.random.key(0)):
    ...     y = nn.Dropout(0.5)(jax.numpy.ones(8))
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """
    with _opened(_Keys(_checked_key(key))):
        yield


@contextmanager
def masks(masks: Sequence[ArrayLike]) -> Iterator[None]:
    """Supplies recorded masks, in order, to the dropout layers inside.

    Masks take precedence over the keys of any `keys` context, inside or outside, so that a
    whole training step can replay the dropout of another program.

    Args:
        masks: An array for every dropout call in training mode with 0 < p < 1, with
            1 or True where a number is kept. Its shape is that of the input, or
            of the drawn numbers ((N, C, 1, 1) for Dropout2d).

    Raises:
        ValueError: A mask does not fit its layer, contains other values than 0 and 1, is
            missing, or is left over at the end.

    >>> import jax
    >>> from jaxnet import nn
    >>> with nn.masks([[1, 0, 1]]):
    ...     nn.Dropout(0.5)(jax.numpy.ones(3)).tolist()
    [2.0, 0.0, 2.0]
    """
    source = _Masks(masks)
    with _opened(source):
        yield
    left = len(source.masks) - source.used
    if left:
        raise ValueError(
            f"masks: {left} of {len(source.masks)} were not used; give one for every dropout "
            "call in training mode with 0 < p < 1"
        )


def next_key() -> jax.Array:
    """The next key of the innermost `nn.keys` context, for models that draw by themselves.

    Raises:
        ValueError: No `nn.keys` context is open.

    >>> from jaxnet import nn
    >>> with nn.keys(jax.random.key(0)):
    ...     noise = jax.random.normal(nn.next_key(), (3,))
    >>> noise.shape
    (3,)
    """
    key = _next_key()
    if key is None:
        raise ValueError(f"next_key: no random key is at hand; {_WAY_OUT}")
    return key


def _next_key() -> jax.Array | None:
    for source in reversed(_open.get()):
        if isinstance(source, _Keys):
            key = jax.random.fold_in(source.key, next(source.count))
            _note_draw(source)
            return key
    return None


def keep_mask(
    name: str,
    shape: tuple[int, ...],
    keep: float,
    key: jax.Array | None = None,
    full_shape: tuple[int, ...] | None = None,
) -> jax.Array:
    """Draws True with probability `keep`: the mask of one dropout call.

    The mask is the same in float32 and float64 programs, because 32 random bits are
    compared with an integer.

    Args:
        name: The name of the layer, for errors.
        shape: The shape of the mask.
        keep: The probability, strictly between 0 and 1.
        key: The key to draw from; without a key the mask comes from the open `masks` or
            `keys` context.
        full_shape: Another shape that a recorded mask may have.

    Returns:
        Booleans of `shape`, or of `full_shape` if a recorded mask has that shape.

    Raises:
        ValueError: There is neither a key nor a context, or the recorded mask does not fit.
    """
    if key is None:
        for source in reversed(_open.get()):
            if isinstance(source, _Masks):
                return _recorded(source, name, shape, full_shape)
        key = _next_key()
        if key is None:
            raise ValueError(f"{name}: no random key is at hand; {_WAY_OUT}")
    limit = min(round(keep * 2**32), 2**32 - 1)
    return jax.random.bits(_checked_key(key), shape, jnp.uint32) < np.uint32(limit)


def _recorded(
    source: _Masks, name: str, shape: tuple[int, ...], full_shape: tuple[int, ...] | None
) -> jax.Array:
    number = source.used
    if number == len(source.masks):
        raise ValueError(
            f"masks: all {number} are used, and {name} asks for another of shape {shape}"
        )
    mask = source.masks[number]
    if mask.shape not in (shape, full_shape):
        also = "" if full_shape in (None, shape) else f" or {full_shape}"
        raise ValueError(
            f"masks: number {number} has shape {mask.shape}; {name} takes {shape}{also}"
        )
    source.used += 1
    _note_draw(source)
    return mask


def _checked_key(key: jax.Array) -> jax.Array:
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = getattr(key, "dtype", None) == np.uint32 and getattr(key, "ndim", 0) == 1
    if (typed and key.ndim == 0) or raw:
        return key
    given = f"shape {key.shape} of {key.dtype}" if isinstance(key, jax.Array) else repr(key)
    raise TypeError(f"key: {given} is not one random key; give jax.random.key(0) or the like")


def _checked_mask(number: int, mask: ArrayLike) -> jax.Array:
    if not isinstance(mask, jax.core.Tracer):
        values = np.asarray(mask)
        if values.dtype != np.bool_ and not np.isin(values, (0, 1)).all():
            raise ValueError(
                f"masks: number {number} holds other values than 0 and 1; "
                "give the mask itself, without the factor 1 / (1 - p)"
            )
    return jnp.asarray(mask).astype(bool)
