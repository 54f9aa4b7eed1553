"""How numbers are rounded."""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["unfused_jit"]


def unfused_jit(fun: Callable[..., Any], **kwargs: Any) -> Any:
    """`jax.jit` that rounds after every operation, as PyTorch's eager kernels do.

    XLA fuses operations and then lets the processor compute a * b + c with one
    rounding instead of two. That is as accurate, but not the same number, and a
    long iteration can carry the last bit into the printed digits. Without fusion
    every operation is rounded on its own. It costs speed: use it to compare runs
    digit by digit.

    Args:
        fun: what to compile.
        **kwargs: for `jax.jit`.

    Checked on the CPU backend.

    >>> import jax.numpy as jnp
    >>> a = jnp.float32(1 + 2**-12)
    >>> float(unfused_jit(lambda a: a * a - (1 + 2**-11))(a))
    0.0
    """
    return jax.jit(fun, compiler_options={"xla_disable_hlo_passes": "fusion"}, **kwargs)
