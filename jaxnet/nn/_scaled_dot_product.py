"""scaled_dot_product_attention, and the choice between its two implementations."""

import enum
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxnet._hints import SDP_BACKEND, missing_attribute
from jaxnet.backend import Operation, is_wanted
from jaxnet.nn._dropout import dropout
from jaxnet.precision import full_float32, promoted


class _Backends(enum.EnumMeta):
    def __getattr__(cls, name: str) -> Any:
        # Python calls this method only for a member that does not exist.
        raise missing_attribute(cls, name, SDP_BACKEND)


class SDPBackend(enum.Enum, metaclass=_Backends):
    """The implementations of scaled_dot_product_attention: torch.nn.attention.SDPBackend.

    Of torch's members there are those that JAX supports, MATH and CUDNN_ATTENTION.
    """

    MATH = "math"
    CUDNN_ATTENTION = "cudnn"


# A context of JAX's own kind, so that jit traces a function again when the choice differs.
_backend = jax.make_user_context(SDPBackend.MATH)


@contextmanager
def sdpa_kernel(backends: SDPBackend) -> Iterator[None]:
    """Chooses the implementation of scaled_dot_product_attention: torch.nn.attention.sdpa_kernel.

    torch chooses a fused kernel by itself. Here `MATH`, which runs everywhere, is used unless
    another implementation is chosen. Inside the context, functions that `jax.jit` compiled
    before are compiled again.

    Args:
        backends: The implementation. `SDPBackend.MATH` is matrix products and a softmax that
            XLA compiles. `SDPBackend.CUDNN_ATTENTION` is cuDNN's fused kernel, for an NVIDIA
            GPU. It accepts query, key and value of shape (N, heads, length, features) with the
            same N, heads and features, all bfloat16 or all float16, without attn_mask and
            dropout.

    Raises:
        TypeError: The argument is not one of the implementations; torch also takes a list.

    >>> x = jnp.ones((1, 1, 2, 4))
    >>> with sdpa_kernel(SDPBackend.MATH):
    ...     print(scaled_dot_product_attention(x, x, x).shape)
    (1, 1, 2, 4)
    """
    if not isinstance(backends, SDPBackend):
        raise TypeError(
            f"backends: {backends!r}; accepted are {', '.join(map(str, SDPBackend))}, one of them"
        )
    with _backend(backends):
        yield


@full_float32()
def scaled_dot_product_attention(
    query: Float[Array, "... L E"],
    key: Float[Array, "... S E"],
    value: Float[Array, "... S Ev"],
    attn_mask: Float[Array, "..."] | Bool[Array, "..."] | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Array, "... L Ev"]:
    """Computes softmax(scale Q K^T + mask) V.

    Equivalent of torch.nn.functional.scaled_dot_product_attention.

    Args:
        query: The queries Q, (..., L, E).
        key: The keys K, (..., S, E).
        value: The values V, (..., S, Ev). The leading axes of all three are broadcast.
        attn_mask: A mask that is broadcast to (..., L, S). A boolean True lets a position take
            part (the opposite of the masks of MultiheadAttention); floats are added to the
            scores.
        dropout_p: The probability of zeroing a weight. As in torch it applies whenever it is
            not 0; pass 0 outside of training. The random numbers come from the open `nn.keys`
            context.
        is_causal: Whether position i attends to positions 0 to i only; not with attn_mask.
        scale: The factor of the scores; 1 / sqrt(E) by default.
        enable_gqa: Whether axis -3 of key and value, the heads, is repeated to the size of
            the query's.

    Returns:
        The attended values, (..., L, Ev), with the dtype of the query. Half precision is
        computed in float32, except that on a GPU the factors of the two products are in half
        precision, as in torch's fused kernels. As in torch a query whose positions are all
        masked gives 0, and its gradient is 0.

    Raises:
        ValueError: The shapes do not fit each other, or both attn_mask and is_causal are
            given.
        TypeError: The mask is neither boolean nor float.
    """
    name = "scaled_dot_product_attention"
    if min(query.ndim, key.ndim, value.ndim) < 2:
        raise ValueError(
            f"{name}: query {query.shape}, key {key.shape}, value {value.shape}; each needs at "
            "least 2 axes, (..., length, features)"
        )
    if enable_gqa:
        key, value = (_repeated(name, x, query) for x in (key, value))
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ValueError(
            f"{name}: query {query.shape}, key {key.shape}, value {value.shape} do not fit; "
            "accepted are (..., L, E), (..., S, E), (..., S, Ev)"
        )
    if is_causal and attn_mask is not None:
        raise ValueError(f"{name}: give attn_mask or is_causal, not both")
    if scale is None:
        scale = 1 / math.sqrt(query.shape[-1])
    if _backend.value is SDPBackend.CUDNN_ATTENTION:
        return _by_cudnn(name, query, key, value, attn_mask, dropout_p, is_causal, scale)
    dtype = query.dtype
    lead = jnp.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query, key, value = (jnp.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (query, key, value))
    half = promoted(dtype, jnp.float32) != dtype
    # In half precision the operation rounds its factors or not, depending on the platform.
    if half:
        scores = _half_product(query, jnp.swapaxes(key, -1, -2), half=dtype)[0] * scale
    else:
        query, key, value = (x.astype(dtype) for x in (query, key, value))
        scores = (query * scale) @ jnp.swapaxes(key, -1, -2)  # (..., L, S)
    if is_causal:
        attn_mask = jnp.tri(scores.shape[-2], scores.shape[-1], dtype=bool)
    if attn_mask is not None:
        scores = _masked(name, scores, attn_mask)
    weights = dropout(_softmax_or_zero(scores), dropout_p)
    out = _half_product(weights, value, half=dtype)[0] if half else weights @ value
    return out.astype(dtype)


def _half_native(a, b, *, half):
    return [jnp.matmul(a.astype(half), b.astype(half), preferred_element_type=jnp.float32)]


def _half_on_cpu(a, b, *, half):
    return [jnp.matmul(a.astype(jnp.float32), b.astype(jnp.float32))]


def _half_tangents(arguments, tangents, *, half):
    (a, b), (da, db) = arguments, tangents
    parts = []
    if da is not None:
        parts += _half_product(da, b, half=half)
    if db is not None:
        parts += _half_product(a, db, half=half)
    return _half_product(a, b, half=half), [sum(parts[1:], parts[0])]


def _half_transpose(arguments, slopes, *, half):
    (a, b), (dy,) = arguments, slopes
    if is_wanted(a):
        return _half_product(dy, jnp.swapaxes(b, -1, -2), half=half)[0].astype(a.dtype), None
    return None, _half_product(jnp.swapaxes(a, -1, -2), dy, half=half)[0].astype(b.dtype)


# The float32 product of two factors in half precision. The matrix units of a GPU multiply in
# half precision and sum in float32. So on a GPU all factors are rounded to half precision, also
# in the gradients, as in torch's fused kernels. A CPU has no such units, so there nothing is
# rounded, as in torch's CPU kernels.
_half_product = Operation(
    "half_product",
    native=_half_native,
    loop=_half_on_cpu,
    jvp=_half_tangents,
    transpose=_half_transpose,
)


def _by_cudnn(name, query, key, value, attn_mask, dropout_p, is_causal, scale) -> jax.Array:
    """The attention by cuDNN's fused kernel, which never writes the (L, S) scores to memory."""
    arrays = {"query": query, "key": key, "value": value}
    given = ", ".join(f"{which} {x.shape} of {x.dtype}" for which, x in arrays.items())
    alike = {(*x.shape[:-2], x.shape[-1], x.dtype) for x in arrays.values()}
    if query.ndim != 4 or query.dtype not in (jnp.bfloat16, jnp.float16) or len(alike) > 1:
        raise ValueError(
            f"{name}: {given}; SDPBackend.CUDNN_ATTENTION accepts (N, heads, length, features) in "
            "bfloat16 or float16, all three with the same N, heads, features and dtype; leave "
            "sdpa_kernel out for others"
        )
    if attn_mask is not None or dropout_p or (is_causal and query.shape[-2] != key.shape[-2]):
        raise ValueError(
            f"{name}: SDPBackend.CUDNN_ATTENTION accepts neither attn_mask nor dropout_p, and "
            f"is_causal for equal lengths only; {given}; leave sdpa_kernel out for these"
        )
    turned = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))  # (N, length, heads, features)
    try:
        out = jax.nn.dot_product_attention(
            *turned, scale=scale, is_causal=is_causal, implementation="cudnn"
        )
    except RuntimeError as error:  # cuDNN is missing or too old
        raise RuntimeError(
            f"{name}: SDPBackend.CUDNN_ATTENTION needs cuDNN and an NVIDIA GPU ({error}); leave "
            "sdpa_kernel out where there is none"
        ) from error
    return jnp.swapaxes(out, 1, 2)


def _repeated(name: str, x: jax.Array, query: jax.Array) -> jax.Array:
    if query.ndim < 3 or x.ndim < 3 or x.shape[-3] == 0 or query.shape[-3] % x.shape[-3]:
        raise ValueError(
            f"{name}: enable_gqa needs heads on axis -3, as many in query {query.shape} as in "
            f"{x.shape} or a multiple of it"
        )
    return jnp.repeat(x, query.shape[-3] // x.shape[-3], axis=-3)


def _masked(name: str, scores: jax.Array, mask: jax.Array) -> jax.Array:
    try:
        mask = jnp.broadcast_to(mask, scores.shape)
    except ValueError:
        raise ValueError(
            f"{name}: attn_mask {mask.shape} does not broadcast to the scores {scores.shape}"
        ) from None
    if mask.dtype == jnp.bool_:
        return jnp.where(mask, scores, -jnp.inf)
    if not jnp.issubdtype(mask.dtype, jnp.floating):
        raise TypeError(f"{name}: attn_mask of {mask.dtype}; accepted are booleans and floats")
    return scores + mask.astype(scores.dtype)


def _softmax_or_zero(scores: jax.Array) -> jax.Array:
    """The softmax over the last axis, or zeros where all scores are -inf."""
    # The largest score is subtracted against overflow. Where it is -inf, -inf minus -inf would
    # be nan, so 0 is subtracted and every power is 0.
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True, initial=-jnp.inf))
    powers = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0, largest))
    total = powers.sum(-1, keepdims=True)
    return powers / jnp.where(total == 0, 1, total)
