"""scaled_dot_product_attention, and the choice of how it is computed."""

import enum
import math
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxnet.backend import Operation, is_wanted
from jaxnet.nn._dropout import dropout
from jaxnet.precision import full_float32, promoted


class SDPBackend(enum.Enum):
    """How scaled_dot_product_attention computes: torch.nn.attention.SDPBackend, those there are."""

    MATH = "math"
    CUDNN_ATTENTION = "cudnn"


# JAX's own kind of context: what was traced outside of it is traced anew inside.
_backend = jax.make_user_context(SDPBackend.MATH)


@contextmanager
def sdpa_kernel(backends: SDPBackend) -> Iterator[None]:
    """Chooses the form of scaled_dot_product_attention: torch.nn.attention.sdpa_kernel.

    Torch chooses a fused form by itself; here `MATH` runs unless another is asked for, since
    it is the one that runs everywhere.

    Args:
        backends: `SDPBackend.MATH`, products and a softmax that XLA compiles, or
            `SDPBackend.CUDNN_ATTENTION`, cuDNN's fused kernel: for an NVIDIA GPU, all three of
            one dtype, bfloat16 or float16, (N, heads, length, features) with the same N,
            heads and features, no attn_mask and no dropout. What `jax.jit` compiled before
            is compiled anew inside.

    Raises:
        TypeError: it is none of these.

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
    """softmax(scale Q K^T + mask) V: torch.nn.functional.scaled_dot_product_attention.

    Args:
        query: (..., L, E).
        key: (..., S, E).
        value: (..., S, Ev). The leading axes of all three broadcast.
        attn_mask: broadcasts to (..., L, S). Booleans say which positions take part
            (the opposite of MultiheadAttention's masks); floats are added to the scores.
        dropout_p: probability of zeroing a weight. As in torch it acts whenever it is
            not 0; pass 0 outside of training. The random numbers come from the open
            `nn.keys` context.
        is_causal: whether position i sees positions 0 to i only; excludes attn_mask.
        scale: 1 / sqrt(E) if it is not given.
        enable_gqa: whether axis -3 of key and value (the heads) is repeated to query's.

    Returns:
        (..., L, Ev) in query's dtype. Half precision is computed in float32, but for the
        factors of the two products on a GPU, which are in half precision as in torch's
        fused kernels. A row whose positions are all masked is 0, as in torch, and so is
        its gradient.

    Raises:
        ValueError: shapes do not fit, or both attn_mask and is_causal are given.
        TypeError: attn_mask has neither booleans nor floats.
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
    if half:  # the factors stay as they are: whether they are rounded is the platform's matter
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


# A product of two factors that are meant in half precision, in float32. A GPU's matrix units
# multiply in half precision and sum in float32, so all factors are rounded to it, also those
# of the gradients, as in torch's fused kernels. A CPU has no such units and rounds nothing,
# as torch's CPU kernels do.
_half_product = Operation(
    "half_product",
    native=_half_native,
    loop=_half_on_cpu,
    jvp=_half_tangents,
    transpose=_half_transpose,
)


def _by_cudnn(name, query, key, value, attn_mask, dropout_p, is_causal, scale) -> jax.Array:
    """The same by cuDNN's fused kernel, which never writes the (L, S) scores to memory."""
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
    except RuntimeError as error:  # there is no cuDNN, or an old one
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
    """The softmax of the last axis; zeros where everything is -inf."""
    largest = jax.lax.stop_gradient(scores.max(-1, keepdims=True, initial=-jnp.inf))
    powers = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0, largest))
    total = powers.sum(-1, keepdims=True)
    return powers / jnp.where(total == 0, 1, total)
