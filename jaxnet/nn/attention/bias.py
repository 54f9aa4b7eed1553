"""The two causal masks of queries and keys of different lengths: torch.nn.attention.bias."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from jaxnet._hints import module_getattr

__all__ = ["causal_lower_right", "causal_upper_left"]

if not TYPE_CHECKING:  # so that type checkers know which names are there
    __getattr__ = module_getattr("jaxnet.nn.attention.bias")
del TYPE_CHECKING, module_getattr


def causal_upper_left(*size: int) -> jax.Array:
    """The mask with which query i attends to the keys 0 to i, as with is_causal=True.

    Args:
        *size: The number of queries L and the number of keys S.

    Returns:
        Booleans (L, S), the attn_mask of `scaled_dot_product_attention`. torch returns a tensor
        of a class of its own, which stands for this mask.

    Raises:
        ValueError: There are not two sizes.

    >>> causal_upper_left(2, 3).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0]]
    """
    queries, keys = _sizes("causal_upper_left", size)
    return jnp.tri(queries, keys, dtype=bool)


def causal_lower_right(*size: int) -> jax.Array:
    """The mask with which the last query attends to all keys, and each before to one less.

    It is the mask of a query that continues a sequence whose keys are kept. If there are more
    queries than keys, the first queries attend to nothing, and their attention is 0.

    Args:
        *size: The number of queries L and the number of keys S.

    Returns:
        Booleans (L, S), as in `causal_upper_left`.

    Raises:
        ValueError: There are not two sizes.

    >>> causal_lower_right(2, 3).astype(int).tolist()
    [[1, 1, 0], [1, 1, 1]]
    """
    queries, keys = _sizes("causal_lower_right", size)
    return jnp.tri(queries, keys, keys - queries, dtype=bool)


def _sizes(name: str, size: tuple[int, ...]) -> tuple[int, int]:
    if len(size) != 2:
        raise ValueError(f"{name}: sizes {size}; accepted are two, of the queries and of the keys")
    return size
