"""The rounding of float32: in matrix products, after every operation, and beside nan."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

__all__ = [
    "amax",
    "amin",
    "check_x64",
    "full_float32",
    "matmul_precision",
    "promoted",
    "set_float32_matmul_precision",
    "unfused_jit",
]

Axis = int | tuple[int, ...] | None

_MATMUL = {"highest": "highest", "high": "tensorfloat32", "medium": "bfloat16"}


def set_float32_matmul_precision(precision: str) -> None:
    """Sets the precision of all matrix products and convolutions of float32, as in torch.

    Plain JAX lets a GPU round the factors to TF32, 10 bits instead of 23. Torch
    multiplies in full float32, and so do jaxnet's layers, losses, optimizers and training
    steps as long as nothing is chosen. This function chooses for the whole process, JAX's
    own functions included: it sets `jax_default_matmul_precision`. For a part of a program
    there is the context `jax.default_matmul_precision("tensorfloat32")`.

    Args:
        precision: The precision of the factors: "highest" (float32), "high" (TF32), or
            "medium" (bfloat16). A CPU multiplies in float32 whatever is chosen.

    Raises:
        ValueError: The precision is none of these.
    """
    if precision not in _MATMUL:
        raise ValueError(f"precision: {precision!r}; accepted are {', '.join(map(repr, _MATMUL))}")
    jax.config.update("jax_default_matmul_precision", _MATMUL[precision])


def matmul_precision() -> str:
    """The precision of jaxnet's products here: the one chosen for JAX, by default "highest"."""
    # The value inside a context of jax.default_matmul_precision, as well as the global one.
    return getattr(jax.config, "jax_default_matmul_precision") or "highest"  # noqa: B009


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiplies in full float32 inside, unless a precision has been chosen for JAX.

    The layers, losses, optimizers and steps of jaxnet do so by themselves; the context is
    for your own products outside of them. It acts on products that are traced inside: use it
    around the call of a compiled function or within the function, as a context or as a
    decorator. The gradient of a product has the precision of the product.

    >>> import jax.numpy as jnp
    >>> @jax.jit
    ... @full_float32()
    ... def gram(x):
    ...     return x @ x.T
    >>> gram(jnp.ones((2, 3))).shape
    (2, 2)
    """
    with jax.default_matmul_precision(matmul_precision()):
        yield


def unfused_jit(fun: Callable[..., Any], **kwargs: Any) -> Any:
    """`jax.jit` that rounds after every operation, as PyTorch's eager kernels do.

    XLA fuses operations and then lets the processor compute a * b + c with one
    rounding instead of two. The result is as accurate, but not the same number, and a
    long iteration can carry the last bit into the printed digits. Without fusion
    every operation is rounded on its own. The program is slower; use it to compare runs
    digit by digit. Only the CPU backend has been checked.

    Args:
        fun: The function to be compiled.
        **kwargs: Further arguments of `jax.jit`.

    Returns:
        The compiled function, as `jax.jit` returns it.

    >>> import jax.numpy as jnp
    >>> a = jnp.float32(1 + 2**-12)
    >>> float(unfused_jit(lambda a: a * a - (1 + 2**-11))(a))
    0.0
    """
    return jax.jit(fun, compiler_options={"xla_disable_hlo_passes": "fusion"}, **kwargs)


def amax(x: jax.Array, axis: Axis = None, keepdims: bool = False, **kwargs: Any) -> jax.Array:
    """The largest number, nan if there is one: torch.amax.

    XLA's reduction on a CPU can lose a nan under `jax.jit` (jax 0.10.2), and with it the
    only sign that a run has gone wrong.

    Args:
        x: An array of any shape and dtype.
        axis: The axis, or several, along which the largest is taken; None means all axes.
        keepdims: Whether the axis stays, with size 1.
        **kwargs: Further arguments of `jnp.max`.

    Returns:
        An array of x's dtype, without the axis unless `keepdims`.

    >>> float(jax.jit(amax)(jnp.array([1.0, jnp.nan, 2.0])))
    nan
    """
    return _keeping_nan(jnp.max, x, axis, keepdims, kwargs)


def amin(x: jax.Array, axis: Axis = None, keepdims: bool = False, **kwargs: Any) -> jax.Array:
    """The smallest number, nan if there is one: torch.amin.

    The arguments are those of `amax`.
    """
    return _keeping_nan(jnp.min, x, axis, keepdims, kwargs)


def _keeping_nan(
    reduce: Callable[..., jax.Array], x: jax.Array, axis: Axis, keepdims: bool, kwargs: Any
) -> jax.Array:
    found = reduce(x, axis, keepdims=keepdims, **kwargs)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return found
    return jnp.where(jnp.isnan(x).any(axis, keepdims=keepdims), jnp.nan, found)


def check_x64(name: str, dtype: DTypeLike | None) -> None:
    """Refuses a dtype of 64 bits where JAX would take 32 bits instead.

    Args:
        name: The name of the argument, for the error.
        dtype: The dtype, or None.

    Raises:
        ValueError: It has 64 bits (complex128: 128), and jax_enable_x64 is not set.
    """
    wide = dtype is not None and jnp.dtype(dtype).name in ("float64", "complex128")
    if wide and not getattr(jax.config, "jax_enable_x64"):  # noqa: B009
        raise ValueError(
            f"{name}: {jnp.dtype(dtype)}, of which JAX would make 32 bits; run "
            'jax.config.update("jax_enable_x64", True) first'
        )


def promoted(*dtypes: ArrayLike | DTypeLike) -> jnp.dtype[Any]:
    """The dtype that arrays and dtypes promote to by JAX's usual rules.

    Where jaxnet takes arguments of several dtypes it casts them to this dtype, so that it
    works under `jax_numpy_dtype_promotion="strict"` as well.

    Args:
        *dtypes: Arrays, numbers or dtypes.

    >>> promoted(jnp.bfloat16, jnp.float32)
    dtype('float32')
    """
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*dtypes)
