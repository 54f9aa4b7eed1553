"""Plain flax in float64, where it says float32 by itself."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet.parity._foreign_model import ForeignModel, float32_names

_lock = threading.RLock()


def widened(model: nnx.Module) -> None:
    """Makes layers that name float32, as flax's do, compute in float64."""
    if isinstance(model, ForeignModel):
        model.double = nnx.static(True)
    for _, module in nnx.iter_modules(model):
        for name in float32_names(module):
            setattr(module, name, jnp.float64)


@contextmanager
def wide_attention() -> Iterator[None]:
    """Lets jax.nn.dot_product_attention compute float64 in float64 inside.

    Its softmax is in float32 whatever it is given (jax 0.10), which in a float64 program is an
    error of the size of float32's rounding.
    """
    with _lock:
        original = jax.nn.dot_product_attention

        def attention(
            query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, *,
            scale: float | None = None, is_causal: bool = False, **rest: Any,
        ) -> Any:  # fmt: skip
            same_heads = query.ndim == 4 and query.shape[2] == key.shape[2]
            if query.dtype != jnp.float64 or not same_heads or any(rest.values()):
                return original(
                    query, key, value, bias, mask, scale=scale, is_causal=is_causal, **rest
                )
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            logits = jnp.einsum("btnh,bsnh->bnts", query, key) * scale
            logits = logits if bias is None else logits + bias
            seen = jnp.ones(logits.shape[-2:], bool)
            seen = jnp.tril(seen) if is_causal else seen
            seen = seen if mask is None else seen & mask
            logits = jnp.where(seen, logits, -0.7 * float(np.finfo(np.float32).max))
            return jnp.einsum("bnts,bsnh->btnh", jax.nn.softmax(logits, -1), value)

        jax.nn.dot_product_attention = attention
        try:
            yield
        finally:
            jax.nn.dot_product_attention = original
