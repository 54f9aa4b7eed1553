"""Loops of the checked program, traced one iteration after the other.

A module that is called in the body of `jax.lax.scan` is called by torch's program once an
iteration. JAX traces the body once, apart from the rest, so that neither torch's numbers nor its
random draws of each iteration could take their place.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp

# Longer loops take too long to compile.
MOST = 64
_lock = threading.RLock()


class _BodyError(Exception):
    """The body of a loop cannot be traced, which is said when the loop is run."""


@contextmanager
def one_by_one(concerns: Callable[[Callable[[], Any], int], bool]) -> Iterator[None]:
    """Inside, `jax.lax.scan` and `fori_loop` run one by one, `jax.checkpoint` changes nothing.

    Args:
        concerns: A function that says of a function without arguments, which traces the body of
            a loop, and of the number of iterations, whether the loop is meant. Others stay as
            they are.
    """
    scan, loop = jax.lax.scan, jax.lax.fori_loop
    trying = False

    def is_meant(times: int, body: Callable[..., Any], *args: Any) -> bool:
        nonlocal trying
        if trying:  # the loop is in the body of one that is being tried
            return False
        trying = True

        def traced() -> Any:
            try:
                return jax.eval_shape(body, *args)
            except Exception as error:
                raise _BodyError from error

        try:
            return concerns(traced, times)
        except _BodyError:
            return False
        finally:
            trying = False

    def own_scan(
        f: Any,
        init: Any,
        xs: Any = None,
        length: Any = None,
        reverse: Any = False,
        unroll: Any = 1,
        **rest: Any,
    ) -> Any:
        # The body may use methods of arrays, also where it is given numbers or NumPy's arrays.
        carry, rows = jax.tree.map(jnp.asarray, (init, xs))
        lengths = {x.shape[:1] for x in jax.tree.leaves(rows)} or {(length or 0,)}
        count = int(*min(lengths))

        def row(i: int) -> Any:
            return jax.tree.map(lambda x: x[i], rows)

        known = len(lengths) == 1 and 0 < count <= MOST and length in (None, count)
        if not known or not is_meant(count, f, carry, row(0)):
            return scan(f, init, xs, length, reverse, unroll, **rest)
        made = []
        for i in reversed(range(count)) if reverse else range(count):
            carry, y = f(carry, row(i))
            made.append(y)
        made = made[::-1] if reverse else made
        return carry, jax.tree.map(lambda *ys: jnp.stack(ys), *made)

    def own_loop(lower: Any, upper: Any, body_fun: Any, init_val: Any, **rest: Any) -> Any:
        known = isinstance(lower, int) and isinstance(upper, int) and 0 < upper - lower <= MOST
        carry = jax.tree.map(jnp.asarray, init_val)
        if not known or not is_meant(upper - lower, body_fun, jnp.asarray(lower), carry):
            return loop(lower, upper, body_fun, init_val, **rest)
        for i in range(lower, upper):
            carry = body_fun(jnp.asarray(i), carry)
        return carry

    def own_checkpoint(fun: Any = None, **_: Any) -> Any:
        return own_checkpoint if fun is None else fun

    own: tuple[tuple[Any, str, Any], ...] = (
        (jax.lax, "scan", own_scan),
        (jax.lax, "fori_loop", own_loop),
        (jax, "checkpoint", own_checkpoint),
        (jax, "remat", own_checkpoint),
    )
    with _lock:
        before = [getattr(module, name) for module, name, _ in own]
        try:
            for module, name, function in own:
                setattr(module, name, function)
            yield
        finally:
            for (module, name, _), function in zip(own, before, strict=True):
                setattr(module, name, function)
