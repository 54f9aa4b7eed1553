"""Loops of JAX whose bodies call layers or draw: they are run step by step, as PyTorch's loops.

`jax.lax.scan` traces its body once for all steps, so that the calls of a layer inside could not
be told apart, nor the random draws of the steps.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

# A longer loop stays one, since each of its steps would be compiled.
LONGEST = 256

_lock = threading.RLock()
# Whether the body that is being looked at calls a layer or draws.
_found: ContextVar[list[bool] | None] = ContextVar("parity_loop_body", default=None)


def looked_at() -> bool:
    """Whether the caller, a layer or a draw, is run only to see whether a loop has such."""
    found = _found.get()
    if found is not None:
        found.append(True)
    return found is not None


def level() -> Any:
    """What the program is traced in now; it is another inside of a loop, a cond or a jit."""
    return get_opaque_trace_state(convention="nnx")


@contextmanager
def unrolled() -> Iterator[None]:
    """Inside, each step of a `jax.lax.scan` that calls layers or draws is a computation apart."""
    with _lock:
        original = jax.lax.scan

        def scan(
            f: Any, init: Any, xs: Any = None, length: Any = None, reverse: Any = False,
            *args: Any, **kwargs: Any,
        ) -> Any:  # fmt: skip
            leaves = jax.tree.leaves(xs)
            count = len(leaves[0]) if leaves else length
            if not count or count > LONGEST or not _concerns(f, init, xs):
                return original(f, init, xs, length, reverse, *args, **kwargs)
            outputs: list[Any] = [None] * count
            for i in reversed(range(count)) if reverse else range(count):
                init, outputs[i] = f(init, jax.tree.map(lambda x, i=i: x[i], xs))
            return init, jax.tree.map(lambda *each: jnp.stack(each), *outputs)

        jax.lax.scan = scan
        try:
            yield
        finally:
            jax.lax.scan = original


def _concerns(f: Any, init: Any, xs: Any) -> bool:
    if _found.get() is not None:
        return False  # a loop in a loop that is being looked at
    found: list[bool] = []
    token = _found.set(found)
    try:
        jax.eval_shape(f, init, jax.tree.map(lambda x: x[0], xs))
    except Exception:  # what is wrong is said when the loop is run
        return False
    finally:
        _found.reset(token)
    return bool(found)
