"""Random keys, or recorded draws, for the layers that draw random numbers.

A layer such as Dropout has no key of its own. The program that calls the model opens a context,

    with nn.keys(key):
        model(x)

and the n-th draw inside uses `fold_in(key, n)`. A training step of
`jaxnet.train.make_train_step` opens one with `fold_in(state.key, state.step)`,
so that a resumed run draws the same numbers as an uninterrupted one. A model that draws by
itself calls `ops.randn(3, 2)`, `ops.rand_like(x)` and the like, or takes a key from
`nn.next_key()` for JAX's own functions.

`with nn.draws([...])` supplies recorded numbers instead, to replay another program's dropout
or noise.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

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
    """An open context, which supplies keys or recorded draws."""

    def __init__(self) -> None:
        self.traced = tracing()
        self.entered = ExitStack()


class _Keys(_Source):
    def __init__(self, key: jax.Array) -> None:
        super().__init__()
        self.key = key
        self.count = itertools.count()


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is drawn.

    Attributes:
        kind: "mask", "uniform", "normal", "exponential" or "integers".
        arguments: What it is drawn with, by the names of `parity`: {"low": 0.0, "high": 1.0}.
        wrong: The function that says what is wrong with a recorded draw, "" for nothing.
    """

    kind: str
    arguments: Mapping[str, float]
    wrong: Callable[[np.ndarray], str]


Take = Callable[[str, tuple[tuple[int, ...], ...], Asked], ArrayLike]
"""A function that gives the next recorded draw: of who draws, of the shapes that fit, and of what
is drawn."""


class _Draws(_Source):
    def __init__(self, take: Take) -> None:
        super().__init__()
        self.take = take


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
def draws(recorded: Sequence[ArrayLike]) -> Iterator[None]:
    """Supplies recorded numbers, in order, to everything inside that draws random numbers.

    Recorded draws take precedence over the keys of any `keys` context, inside or outside, so
    that a whole training step can replay the dropout and the noise of another program.

    Args:
        recorded: An array for every draw, in order. Their shapes are those of the numbers that
            are drawn, and their kind depends on who draws:

            - dropout in training mode with 0 < p < 1: a mask, 1 or True where a number is kept.
              Its shape is that of the input, or that of the drawn numbers ((N, C, 1, 1) for
              Dropout2d);
            - `ops.randn`, `ops.randn_like`: normal numbers; `ops.rand`, `ops.rand_like`: uniform
              ones in [0, 1); `ops.randint`, `ops.randint_like`: integers;
            - `rrelu` in training mode: the slopes, with the shape of the input;
            - fractional max pooling: uniform numbers (N, C, 2), or (N, C, 3) in 3d;
            - `gumbel_softmax`: exponential numbers, torch.empty_like(logits).exponential_().

    Raises:
        ValueError: A draw does not fit what asks for it, in shape, kind or range; or draws are
            missing, or left over at the end.

    >>> import jax
    >>> from jaxnet import nn, ops
    >>> with nn.draws([[1, 0, 1], [0.5, -1.5]]):
    ...     nn.Dropout(0.5)(jax.numpy.ones(3)).tolist(), ops.randn(2).tolist()
    ([2.0, 0.0, 2.0], [0.5, -1.5])
    """
    given = list(recorded)
    used = 0

    def take(name: str, shapes: tuple[tuple[int, ...], ...], asked: Asked) -> ArrayLike:
        nonlocal used
        if used == len(given):
            raise ValueError(
                f"draws: all {used} are used, and {name} asks for another of shape {shapes[0]}"
            )
        values = given[used]
        if not isinstance(values, jax.core.Tracer):
            values = np.asarray(values)
        if values.shape not in shapes:
            accepted = " or ".join(str(shape) for shape in dict.fromkeys(shapes))
            raise ValueError(
                f"draws: number {used} has shape {values.shape}; {name} takes {accepted}"
            )
        if isinstance(values, np.ndarray) and (wrong := asked.wrong(values)):
            raise ValueError(f"draws: number {used}, for {name}, {wrong}")
        used += 1
        return values

    with taking_draws(take):
        yield
    if left := len(given) - used:
        raise ValueError(
            f"draws: {left} of {len(given)} were not used; give one for every draw, "
            "such as a mask for every dropout call in training mode with 0 < p < 1"
        )


@contextmanager
def taking_draws(take: Take) -> Iterator[None]:
    """Supplies the draws inside by a function, which may choose among them."""
    with _opened(_Draws(take)):
        yield


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
    key = key_at_hand()
    if key is None:
        raise ValueError(f"next_key: no random key is at hand; {_WAY_OUT}")
    return key


def key_at_hand() -> jax.Array | None:
    """The next key of the innermost `keys` context; None where there is none."""
    for source in reversed(_open.get()):
        if isinstance(source, _Keys):
            key = jax.random.fold_in(source.key, next(source.count))
            _note_draw(source)
            return key
    return None


def replaying() -> bool:
    """Whether recorded numbers are drawn, one after another."""
    return any(isinstance(source, _Draws) for source in _open.get())


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
        key: The key to draw from; without a key the mask comes from the open `draws` or
            `keys` context.
        full_shape: Another shape that a recorded mask may have.

    Returns:
        Booleans of `shape`, or of `full_shape` if a recorded mask has that shape.

    Raises:
        ValueError: There is neither a key nor a context, or the recorded mask does not fit.
    """

    def bits(key: jax.Array) -> jax.Array:
        limit = min(round(keep * 2**32), 2**32 - 1)
        return jax.random.bits(key, shape, jnp.uint32) < np.uint32(limit)

    shapes = (shape,) if full_shape is None else (shape, full_shape)
    asked = Asked("mask", {"p": keep}, _check_mask)
    return _draw(name, shapes, bits, key, asked).astype(bool)


def uniform(
    name: str,
    shape: tuple[int, ...],
    low: float,
    high: float,
    dtype: DTypeLike,
    key: jax.Array | None = None,
) -> jax.Array:
    """Draws uniform numbers from [low, high); the arguments are as in `keep_mask`.

    float64 numbers are drawn in float32, so that both programs draw the same.
    """

    def check(values: np.ndarray) -> str:
        inside = _is_float(values) and ((values >= low) & (values <= high)).all()
        return "" if inside else f"holds other numbers than floats from {low} to {high}"

    # Half precision is drawn as it is: rounding a float32 number could give `high`.
    drawn_in = jnp.float32 if jnp.dtype(dtype).itemsize > 2 else dtype
    asked = Asked("uniform", {"low": low, "high": high}, check)
    return _draw(
        name, (shape,), lambda k: jax.random.uniform(k, shape, drawn_in, low, high), key, asked
    ).astype(dtype)


def normal(
    name: str, shape: tuple[int, ...], dtype: DTypeLike, key: jax.Array | None = None
) -> jax.Array:
    """Draws numbers from N(0, 1); the arguments are as in `uniform`."""

    def check(values: np.ndarray) -> str:
        return "" if _is_float(values) else f"holds {values.dtype}, and not floats"

    asked = Asked("normal", {"mean": 0.0, "std": 1.0}, check)
    return _draw(
        name, (shape,), lambda k: jax.random.normal(k, shape, jnp.float32), key, asked
    ).astype(dtype)


def exponential(
    name: str, shape: tuple[int, ...], dtype: DTypeLike, key: jax.Array | None = None
) -> jax.Array:
    """Draws exponential numbers of rate 1, all above 0; the arguments are as in `uniform`."""

    def check(values: np.ndarray) -> str:
        return "" if _is_float(values) and (values > 0).all() else "holds numbers up to 0"

    def drawn(key: jax.Array) -> jax.Array:
        # jax.random.exponential gives 0 for one number in 8 million, and log(0) is infinite.
        smallest = float(np.finfo(np.float32).tiny)
        return jnp.maximum(jax.random.exponential(key, shape, jnp.float32), smallest)

    asked = Asked("exponential", {"lambd": 1.0}, check)
    return _draw(name, (shape,), drawn, key, asked).astype(dtype)


def integers(name: str, shape: tuple[int, ...], low: int, high: int) -> jax.Array:
    """Draws integers from [low, high), of JAX's default dtype; the rest is as in `uniform`."""
    if high <= low:
        raise ValueError(f"{name}: high {high}; accepted are integers above low, {low}")

    def check(values: np.ndarray) -> str:
        whole = np.issubdtype(values.dtype, np.integer)
        inside = whole and ((values >= low) & (values < high)).all()
        return "" if inside else f"holds other numbers than integers from {low} to {high - 1}"

    asked = Asked("integers", {"low": low, "high": high}, check)
    return _draw(
        name, (shape,), lambda k: jax.random.randint(k, shape, low, high), None, asked
    ).astype(int)


def _draw(
    name: str,
    shapes: tuple[tuple[int, ...], ...],
    drawn: Callable[[jax.Array], jax.Array],
    key: jax.Array | None,
    asked: Asked,
) -> jax.Array:
    """Numbers that are drawn with a key, or recorded ones from the innermost `draws` context.

    Args:
        name: Who draws, for errors.
        shapes: The shapes that a recorded draw may have.
        drawn: The function that draws with a key.
        key: The key; None for that of the context.
        asked: What is drawn, for recorded draws.
    """
    if key is None:
        for source in reversed(_open.get()):
            if isinstance(source, _Draws):
                values = jnp.asarray(source.take(name, shapes, asked))
                _note_draw(source)
                return values
        key = key_at_hand()
        if key is None:
            raise ValueError(f"{name}: no random key is at hand; {_WAY_OUT}")
    return drawn(_checked_key(key))


def _is_float(values: np.ndarray) -> bool:
    return bool(jnp.issubdtype(values.dtype, jnp.floating))


def _check_mask(values: np.ndarray) -> str:
    if values.dtype == np.bool_ or np.isin(values, (0, 1)).all():
        return ""
    return "holds other values than 0 and 1; give the mask itself, without the factor 1 / (1 - p)"


def _checked_key(key: jax.Array) -> jax.Array:
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = getattr(key, "dtype", None) == np.uint32 and getattr(key, "ndim", 0) == 1
    if (typed and key.ndim == 0) or raw:
        return key
    given = f"shape {key.shape} of {key.dtype}" if isinstance(key, jax.Array) else repr(key)
    raise TypeError(f"key: {given} is not one random key; give jax.random.key(0) or the like")
