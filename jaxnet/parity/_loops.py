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


@contextmanager
def one_by_one(concerns: Callable[[Callable[[], Any]], bool]) -> Iterator[None]:
    """Inside, `jax.lax.scan` and `fori_loop` run one by one, `jax.checkpoint` changes nothing.

    Args:
        concerns: A function that says of a function without arguments, which traces the body of
            a loop, whether the loop is meant. Others stay as they are.
    """
    scan, loop = jax.lax.scan, jax.lax.fori_loop
    trying = False

    def is_meant(body: Callable[..., Any], *args: Any) -> bool:
        nonlocal trying
        if trying:  # the loop is in the body of one that is being tried
            return False
        trying = True
        try:
            return concerns(lambda: jax.eval_shape(body, *args))
        except Exception:  # it is said when the loop is run
            return False
        finally:
            trying = False

    def own_scan(
        f: Any, init: Any, xs: Any = None, length: Any = None, reverse: Any = False, **rest: Any
    ) -> Any:
        leaves = jax.tree.leaves(xs)
        count = int(leaves[0].shape[0]) if leaves else int(length)
        given = [jax.tree.map(lambda x, i=i: x[i], xs) for i in range(min(count, MOST))]
        if not 0 < count <= MOST or not is_meant(f, init, given[0]):
            return scan(f, init, xs, length, reverse, **rest)
        carry, made = init, []
        for x in reversed(given) if reverse else given:
            carry, y = f(carry, x)
            made.append(y)
        made = made[::-1] if reverse else made
        return carry, jax.tree.map(lambda *ys: jnp.stack(ys), *made)

    def own_loop(lower: Any, upper: Any, body_fun: Any, init_val: Any, **rest: Any) -> Any:
        known = isinstance(lower, int) and isinstance(upper, int) and upper - lower <= MOST
        if not known or not is_meant(body_fun, lower, init_val):
            return loop(lower, upper, body_fun, init_val, **rest)
        for i in range(lower, upper):
            init_val = body_fun(i, init_val)
        return init_val

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
