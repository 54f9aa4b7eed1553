"""Multi-head attention as a function of its weights."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxnet.nn._dropout import dropout
from jaxnet.nn._linear import linear
from jaxnet.nn._scaled_dot_product import scaled_dot_product_attention
from jaxnet.precision import full_float32


@full_float32()
def multi_head_attention_forward(
    query: Float[Array, "*LN embed_dim"],
    key: Float[Array, "*SN kdim"],
    value: Float[Array, "*SN vdim"],
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: jax.Array | None,
    in_proj_bias: jax.Array | None,
    bias_k: jax.Array | None,
    bias_v: jax.Array | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: jax.Array,
    out_proj_bias: jax.Array | None,
    training: bool = True,
    key_padding_mask: Shaped[Array, "*N S"] | None = None,
    need_weights: bool = True,
    attn_mask: Shaped[Array, "*NH L S"] | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: jax.Array | None = None,
    k_proj_weight: jax.Array | None = None,
    v_proj_weight: jax.Array | None = None,
    static_k: None = None,
    static_v: None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Float[Array, "*LN embed_dim"], Float[Array, "..."] | None]:
    """`MultiheadAttention` with its parameters as arguments.

    Equivalent of torch.nn.functional.multi_head_attention_forward.

    Args:
        query: The queries, (L, N, E) or (L, E).
        key: The keys, (S, N, kdim) or (S, kdim).
        value: The values, (S, N, vdim) or (S, vdim).
        embed_dim_to_check: The number of features E of a query.
        num_heads: The number of heads.
        in_proj_weight: The weight of all three projections, (3 E, E).
        in_proj_bias: The bias of the projections, (3 E,), or None.
        bias_k: The key that is appended, (1, 1, E), or None, and so is bias_v, a value.
        add_zero_attn: Whether a key and a value of zeros are appended.
        dropout_p: The probability of zeroing an attention weight in training.
        out_proj_weight: The weight of the last layer, (E, E), and out_proj_bias its bias.
        training: Whether attention weights are zeroed.
        key_padding_mask: As in a call of `MultiheadAttention`, and so are need_weights,
            attn_mask, average_attn_weights and is_causal.
        use_separate_proj_weight: Whether q_proj_weight (E, E), k_proj_weight (E, kdim) and
            v_proj_weight (E, vdim) take the place of in_proj_weight.
        static_k: None, and so is static_v.

    Returns:
        The outputs and the weights, as in a call of `MultiheadAttention`.

    Raises:
        ValueError: A shape does not fit, a weight is missing, or static_k or static_v is given.
        TypeError: A mask is neither boolean nor float.
    """
    name = "multi_head_attention_forward"
    if static_k is not None or static_v is not None:
        raise ValueError(f"{name}: static_k and static_v; accepted is None")
    if (bias_k is None) != (bias_v is None):
        raise ValueError(f"{name}: bias_k and bias_v; give both or neither")
    apart = (q_proj_weight, k_proj_weight, v_proj_weight)
    parts = [w for w in apart if w is not None] if use_separate_proj_weight else in_proj_weight
    if parts is None or (isinstance(parts, list) and len(parts) < 3):
        wanted = "q_proj_weight, k_proj_weight and v_proj_weight"
        wanted = wanted if use_separate_proj_weight else "in_proj_weight"
        raise ValueError(
            f"{name}: use_separate_proj_weight={use_separate_proj_weight} needs {wanted}"
        )
    embed_dim = embed_dim_to_check
    kdim, vdim = (
        (parts[1].shape[-1], parts[2].shape[-1])
        if isinstance(parts, list)
        else (embed_dim, embed_dim)
    )
    if num_heads <= 0 or embed_dim % num_heads:
        raise ValueError(f"{name}: num_heads {num_heads} does not divide {embed_dim}")
    output, weights = attended(
        (embed_dim, kdim, vdim),
        num_heads,
        (query, key, value),
        parts,
        in_proj_bias,
        (bias_k, bias_v),
        add_zero_attn,
        dropout_p if training else 0.0,
        key_padding_mask,
        need_weights,
        attn_mask,
        average_attn_weights,
        is_causal,
        False,
    )
    return linear(output, out_proj_weight, out_proj_bias), weights


def attended(
    sizes: tuple[int, int, int],
    num_heads: int,
    inputs: tuple[jax.Array, jax.Array, jax.Array],
    weight: jax.Array | list[jax.Array],
    bias: jax.Array | None,
    last: tuple[jax.Array | None, jax.Array | None],
    add_zero_attn: bool,
    p: float,
    key_padding_mask: jax.Array | None,
    need_weights: bool,
    attn_mask: jax.Array | None,
    average_attn_weights: bool,
    is_causal: bool,
    batch_first: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """The joined heads, laid out like the query, and the weights or None.

    Args:
        sizes: embed_dim, kdim and vdim.
        num_heads: The number of heads.
        inputs: The query, the key and the value.
        weight: The weight of all three projections, or a list of three.
        bias: The bias of the projections.
        last: The key and the value that are appended.
        p: The probability of zeroing an attention weight.

    The other arguments are those of a call of `MultiheadAttention`.
    """
    batched = _check(sizes, num_heads, inputs, key_padding_mask, attn_mask, batch_first)
    if is_causal and attn_mask is None:
        raise ValueError(
            "MultiheadAttention: is_causal says what attn_mask is; give attn_mask too, such as "
            "nn.Transformer.generate_square_subsequent_mask(L)"
        )
    embed_dim, head_dim = sizes[0], sizes[0] // num_heads
    q, k, v = _projected(inputs, weight, bias)
    if not batched:
        q, k, v = q[None], k[None], v[None]
        key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
    elif not batch_first:
        q, k, v = (jnp.swapaxes(x, 0, 1) for x in (q, k, v))  # (N, L, E)
    k, v = (_extended(x, row, add_zero_attn) for x, row in zip((k, v), last, strict=True))
    n, length, source = q.shape[0], q.shape[1], k.shape[1]
    # (N, L, E) to (N, heads, L, head_dim)
    q, k, v = (jnp.swapaxes(x.reshape(n, x.shape[1], num_heads, head_dim), 1, 2) for x in (q, k, v))
    # As in torch the hint replaces the mask only if the weights are not asked for and there
    # is no padding mask to add.
    only_causal = is_causal and key_padding_mask is None and not need_weights
    mask = None
    if not only_causal:
        mask = _mask(attn_mask, key_padding_mask, n, num_heads, source, q.dtype)
    weights = None
    if need_weights:
        scores = (q * math.sqrt(1.0 / head_dim)) @ jnp.swapaxes(k, -1, -2)
        if mask is not None:
            scores = scores + jnp.broadcast_to(mask, scores.shape)
        # JAX has no softmax over an empty axis.
        weights = jax.nn.softmax(scores, axis=-1) if source else scores
        # torch draws its dropout masks in this shape, and recorded masks are replayed.
        flat = weights.reshape(n * num_heads, length, source)
        weights = dropout(flat, p).reshape(weights.shape)
        heads = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    else:
        heads = scaled_dot_product_attention(q, k, v, mask, p, only_causal)
    output = jnp.swapaxes(heads, 1, 2).reshape(n, length, embed_dim)
    if not batched:
        return output[0], None if weights is None else weights[0]
    return (output if batch_first else jnp.swapaxes(output, 0, 1)), weights


def _projected(
    inputs: tuple[jax.Array, jax.Array, jax.Array],
    weight: jax.Array | list[jax.Array],
    bias: jax.Array | None,
) -> Sequence[jax.Array]:
    """Q, K and V, by a single product if query, key and value are the same array."""
    query, key, value = inputs
    if not isinstance(weight, list):
        if query is key and key is value:
            return jnp.split(linear(query, weight, bias), 3, axis=-1)
        weight = jnp.split(weight, 3)
    biases = [None] * 3 if bias is None else jnp.split(bias, 3)
    return list(map(linear, inputs, weight, biases))


def _extended(x: jax.Array, last: jax.Array | None, add_zero_attn: bool) -> jax.Array:
    """Keys or values (N, S, E) with the trained row and the row of zeros appended."""
    rows = [x]
    shape = (x.shape[0], 1, x.shape[2])
    if last is not None:
        rows.append(jnp.broadcast_to(last, shape))
    if add_zero_attn:
        rows.append(jnp.zeros(shape, x.dtype))
    return rows[0] if len(rows) == 1 else jnp.concatenate(rows, axis=1)


def _mask(
    attn_mask: jax.Array | None,
    key_padding_mask: jax.Array | None,
    n: int,
    num_heads: int,
    source: int,
    dtype: DTypeLike,
) -> jax.Array | None:
    """The sum of both masks, to be added to the scores (N, heads, L, S), or None."""
    total = None
    if attn_mask is not None:
        bias = _additive("attn_mask", attn_mask, dtype)
        # Either (L, S), or one mask (L, S) for each head of each example.
        shape = (n, num_heads) if bias.ndim == 3 else (1, 1)
        total = _widened(bias, source).reshape(*shape, bias.shape[-2], source)
    if key_padding_mask is not None:
        padding = _widened(_additive("key_padding_mask", key_padding_mask, dtype), source)
        padding = padding.reshape(n, 1, 1, source)
        total = padding if total is None else total + padding
    return total


def _check(
    sizes: tuple[int, int, int],
    num_heads: int,
    inputs: tuple[jax.Array, jax.Array, jax.Array],
    key_padding_mask: jax.Array | None,
    attn_mask: jax.Array | None,
    batch_first: bool,
) -> bool:
    """Checks all shapes and returns whether there is a batch axis."""
    query, key, value = inputs
    embed_dim, kdim, vdim = sizes

    def wrong(name: str, expected: str, given: jax.Array) -> ValueError:
        return ValueError(
            f"MultiheadAttention({embed_dim}, {num_heads}) expects {name} of shape "
            f"{expected}; it got {given.shape}"
        )

    batched = query.ndim == 3
    if query.ndim not in (2, 3) or query.shape[-1] != embed_dim:
        lead = "(N, L, " if batch_first else "(L, N, "
        raise wrong("query", f"{lead}{embed_dim}) or (L, {embed_dim})", query)
    time = 1 if batched and batch_first else 0
    source = key.shape[time] if key.ndim == query.ndim else 0
    lead_shape = list(query.shape[:-1])
    lead_shape[time] = source
    for name, x, size in (("key", key, kdim), ("value", value, vdim)):
        if x.shape != (*lead_shape, size):
            expected = [*map(str, lead_shape), str(size)]
            if name == "key":
                expected[time] = "S"
            raise wrong(name, f"({', '.join(expected)})", x)
    n = query.shape[1 - time] if batched else 1
    length = query.shape[time]
    if attn_mask is not None:
        many = (n * num_heads, length, source)
        if attn_mask.shape not in ((length, source), many):
            raise wrong("attn_mask", f"{(length, source)} or {many}", attn_mask)
    if key_padding_mask is not None:
        padding = (n, source) if batched else (source,)
        if key_padding_mask.shape != padding:
            raise wrong("key_padding_mask", f"{padding}", key_padding_mask)
    return batched


def _additive(name: str, mask: jax.Array, dtype: DTypeLike) -> jax.Array:
    """A mask as numbers to add to the scores: a boolean True becomes -inf, and False 0."""
    if mask.dtype == jnp.bool_:
        return jnp.where(mask, jnp.asarray(-jnp.inf, dtype), jnp.zeros((), dtype))
    if not jnp.issubdtype(mask.dtype, jnp.floating):
        raise TypeError(
            f"MultiheadAttention: {name} of {mask.dtype}; accepted are booleans and floats"
        )
    return mask.astype(dtype)


def _widened(mask: jax.Array, source: int) -> jax.Array:
    """A mask with zeros appended for the keys that the layer itself appends."""
    widths = [(0, 0)] * (mask.ndim - 1) + [(0, source - mask.shape[-1])]
    return jnp.pad(mask, widths)
