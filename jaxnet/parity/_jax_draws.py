"""Recorded draws for programs that draw with jax.random, as plain flax does."""

import dataclasses
import functools
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap

from jaxnet._keys import Asked, Take, taking_draws
from jaxnet.parity._draws import DrawsError
from jaxnet.parity._layouts import channels_last

_lock = threading.RLock()


@dataclasses.dataclass(frozen=True)
class Layouts:
    """How a program of plain flax lays its data out beside torch's.

    A recorded draw tells its layout by its shape, but where two axes are of one size. Then these
    decide, which are the layouts that the program's layers declare.

    Attributes:
        images: Whether it has layers of images, whose channels are the last axis.
        lines: Whether it has layers of lines (N, L, C), and none of the sequences that follow.
        swapped: Whether its sequences are (N, L, E) where torch's are (L, N, E), or the other way
            round; None where some of its layers have the same order as torch's and some have not.
        batch_first: Whether its recurrent layers have the batch first. Between the layers of one
            of torch's the time comes first, whatever its batch_first says.
    """

    images: bool = False
    lines: bool = False
    swapped: bool | None = False
    batch_first: bool | None = False

    def is_swapped(self, inside: bool) -> bool | None:
        """Whether batch and time of a draw are swapped; None where that is not known.

        Args:
            inside: Whether torch made it within a recurrent layer.
        """
        return self.batch_first if inside else self.swapped


PLAIN = Layouts()


@contextmanager
def supplied(
    take: Take,
    foreign: bool,
    layouts: Layouts = PLAIN,
    inside: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Supplies the draws inside by a function.

    Args:
        take: The function, as in `taking_draws`.
        foreign: Whether jax.random's own functions are given them too. What they draw is then
            taken from a recorded draw of the same layout, or of torch's (N, C, H, W).
        layouts: The layouts that the program's layers declare.
        inside: A function that says whether torch made the draw that was taken last within a
            recurrent layer.
    """
    with taking_draws(take):
        if not foreign:
            yield
            return
        with _lock:
            made = _replacements(take, layouts, inside)
            before = {name: getattr(jax.random, name) for name in made}
            try:
                for name, function in made.items():
                    setattr(jax.random, name, function)
                yield
            finally:
                for name, function in before.items():
                    setattr(jax.random, name, function)


def is_batched(x: Any) -> bool:
    """Whether an array is that of one example, inside of jax.vmap over several."""
    return getattr(x, "batch_dim", None) is not None


def _of_batch(draw: Callable[..., Any], key: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """A draw whose key is of one example: torch draws for the whole batch at once.

    Args:
        draw: A function of the keys and of the shape that draws for all examples.
        key: The key.
        shape: The shape of one example.
        dtype: The dtype.
    """

    @custom_vmap
    def one(key: Any) -> Any:
        return jnp.zeros(shape, dtype)

    @one.def_vmap
    def batch(size: int, mapped: Any, keys: Any) -> Any:
        return draw(keys, (size, *shape)), True

    return one(key)


class _Fewer(tuple[tuple[int, ...], ...]):
    """Shapes that are also in any larger one where they have an axis of one number."""

    def __contains__(self, shape: object) -> bool:
        return isinstance(shape, tuple) and any(_fits(shape, own) for own in self)


def _fits(shape: tuple[int, ...], own: tuple[int, ...]) -> bool:
    return len(shape) == len(own) and all(n in (1, m) for m, n in zip(shape, own, strict=True))


def _replacements(
    take: Take, layouts: Layouts, inside: Callable[[], bool]
) -> dict[str, Callable[..., Any]]:
    def draw(name: str, kind: str, key: Any, shape: Any, dtype: Any, **arguments: float) -> Any:
        shape = tuple(shape)
        if is_batched(key):
            again = functools.partial(draw, name, kind, dtype=dtype, **arguments)
            return _of_batch(again, key, shape, dtype)
        forms: dict[tuple[int, ...], Callable[[Any], Any]] = {shape: lambda x: x}
        if len(shape) > 2:
            view = channels_last(len(shape))
            first = (shape[0], shape[-1], *shape[1:-1])
            # The weights of an attention have the same layout in both.
            attention = "attention" in sys._getframe(2).f_code.co_filename
            last = layouts.images if len(shape) > 3 else layouts.lines
            if first != shape or (last and not attention):
                forms[first] = view.model
            if len(shape) == 4:  # torch's attention keeps rows and heads in one axis
                heads = (math.prod(shape[:2]), *shape[2:])
                forms.setdefault(heads, lambda x: x.reshape(shape))
        asked = Asked(kind, arguments, lambda values: "")
        owner = f"jax.random.{name}"
        if len(shape) == 3 and kind == "mask":
            return sequence(owner, shape, forms, asked, dtype)
        try:
            found = jnp.asarray(take(owner, tuple(forms), asked))
        except DrawsError:
            if kind != "mask" or len(shape) < 3:
                raise
            return fewer(owner, forms, asked).astype(dtype)
        return forms[found.shape](found).astype(dtype)

    def sequence(owner: str, shape: Any, forms: Any, asked: Asked, dtype: Any) -> Any:
        """A mask (N, L, E) or (L, N, E), of which the shape may not say which it is."""

        def ordered(found: Any) -> Any:
            if found.shape[:2] != shape[:2] or found.shape[0] != found.shape[1]:
                return found
            swapped = layouts.is_swapped(inside())
            if swapped is None:
                raise DrawsError(
                    f"{owner} draws a mask of shape {shape}, whose first two axes, batch and time, "
                    f"are both {shape[0]}, and the layers of the model have them in both orders "
                    "beside torch's: it is not known which order the mask has. Record the program "
                    "with a batch of another size"
                )
            return found.swapaxes(0, 1) if swapped else found

        try:
            found = jnp.asarray(take(owner, tuple(forms), asked))
        except DrawsError:
            # Between torch's recurrent layers the time comes first.
            forms.setdefault((shape[1], shape[0], shape[2]), lambda x: x.swapaxes(0, 1))
            return fewer(owner, forms, asked, ordered).astype(dtype)
        return forms[found.shape](ordered(found)).astype(dtype)

    def fewer(owner: str, forms: Any, asked: Asked, ordered: Any = lambda x: x) -> Any:
        """One number for several of torch's: the first of them, which shows in the numbers."""
        found = ordered(jnp.asarray(take(owner, _Fewer(forms), asked)))
        form = next(form for form in forms if _fits(found.shape, form))
        return forms[form](found[tuple(slice(n) for n in form)])

    def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, *_: Any, **__: Any) -> Any:
        shape = np.shape(p) if shape is None else shape
        return draw("bernoulli", "mask", key, shape, bool, p=p)

    def uniform(
        key: Any, shape: Any = (), dtype: Any = float, minval: Any = 0.0, maxval: Any = 1.0,
        **_: Any,
    ) -> Any:  # fmt: skip
        return draw("uniform", "uniform", key, shape, dtype, low=minval, high=maxval)

    def normal(key: Any, shape: Any = (), dtype: Any = float, **_: Any) -> Any:
        return draw("normal", "normal", key, shape, dtype, mean=0.0, std=1.0)

    def exponential(key: Any, shape: Any = (), dtype: Any = float, **_: Any) -> Any:
        return draw("exponential", "exponential", key, shape, dtype, lambd=1.0)

    def randint(key: Any, shape: Any, minval: Any, maxval: Any, dtype: Any = int, **_: Any) -> Any:
        return draw("randint", "integers", key, shape, dtype, low=minval, high=maxval)

    return {f.__name__: f for f in (bernoulli, uniform, normal, exponential, randint)}
