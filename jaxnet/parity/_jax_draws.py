"""Recorded draws for programs that draw with jax.random, as plain flax does."""

import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._keys import Asked, Take, taking_draws
from jaxnet.parity._draws import DrawsError
from jaxnet.parity._layouts import channels_last

_lock = threading.RLock()


@contextmanager
def supplied(take: Take, foreign: bool, images: bool = False) -> Iterator[None]:
    """Supplies the draws inside by a function.

    Args:
        take: The function, as in `taking_draws`.
        foreign: Whether jax.random's own functions are given them too. What they draw is then
            taken from a recorded draw of the same layout, or of torch's (N, C, H, W).
        images: Whether the program has layers whose channels are the last axis, so that a draw
            that fits both layouts is taken to have torch's.
    """
    with taking_draws(take):
        if not foreign:
            yield
            return
        with _lock:
            made = _replacements(take, images)
            before = {name: getattr(jax.random, name) for name in made}
            try:
                for name, function in made.items():
                    setattr(jax.random, name, function)
                yield
            finally:
                for name, function in before.items():
                    setattr(jax.random, name, function)


class _Fewer(tuple[tuple[int, ...], ...]):
    """Shapes that are also in any larger one where they have an axis of one number."""

    def __contains__(self, shape: object) -> bool:
        return isinstance(shape, tuple) and any(_fits(shape, own) for own in self)


def _fits(shape: tuple[int, ...], own: tuple[int, ...]) -> bool:
    return len(shape) == len(own) and all(n in (1, m) for m, n in zip(shape, own, strict=True))


def _replacements(take: Take, images: bool) -> dict[str, Callable[..., Any]]:
    def draw(name: str, kind: str, shape: Any, dtype: Any, **arguments: float) -> Any:
        shape = tuple(shape)
        forms: dict[tuple[int, ...], Callable[[Any], Any]] = {shape: lambda x: x}
        if len(shape) > 2:
            view = channels_last(len(shape))
            first = (shape[0], shape[-1], *shape[1:-1])
            # The weights of an attention have the same layout in both.
            attention = "attention" in sys._getframe(2).f_code.co_filename
            if first != shape or (images and len(shape) > 3 and not attention):
                forms[first] = view.model
            if len(shape) == 4:  # torch's attention keeps rows and heads in one axis
                heads = (math.prod(shape[:2]), *shape[2:])
                forms.setdefault(heads, lambda x: x.reshape(shape))
        asked = Asked(kind, arguments, lambda values: "")
        owner = f"jax.random.{name}"
        try:
            found = jnp.asarray(take(owner, tuple(forms), asked))
        except DrawsError:
            if kind != "mask" or len(shape) < 3:
                raise
            if len(shape) == 3:  # between torch's recurrent layers the time comes first
                forms.setdefault((shape[1], shape[0], shape[2]), lambda x: x.swapaxes(0, 1))
            # One number for several of torch's: the first of them, which shows in the numbers.
            found = jnp.asarray(take(owner, _Fewer(forms), asked))
            fewer = next(form for form in forms if _fits(found.shape, form))
            found = found[tuple(slice(n) for n in fewer)]
            return forms[fewer](found).astype(dtype)
        return forms[found.shape](found).astype(dtype)

    def bernoulli(key: Any, p: Any = 0.5, shape: Any = None, *_: Any, **__: Any) -> Any:
        shape = np.shape(p) if shape is None else shape
        return draw("bernoulli", "mask", shape, bool, p=p)

    def uniform(
        key: Any, shape: Any = (), dtype: Any = float, minval: Any = 0.0, maxval: Any = 1.0,
        **_: Any,
    ) -> Any:  # fmt: skip
        return draw("uniform", "uniform", shape, dtype, low=minval, high=maxval)

    def normal(key: Any, shape: Any = (), dtype: Any = float, **_: Any) -> Any:
        return draw("normal", "normal", shape, dtype, mean=0.0, std=1.0)

    def exponential(key: Any, shape: Any = (), dtype: Any = float, **_: Any) -> Any:
        return draw("exponential", "exponential", shape, dtype, lambd=1.0)

    def randint(key: Any, shape: Any, minval: Any, maxval: Any, dtype: Any = int, **_: Any) -> Any:
        return draw("randint", "integers", shape, dtype, low=minval, high=maxval)

    return {f.__name__: f for f in (bernoulli, uniform, normal, exponential, randint)}
