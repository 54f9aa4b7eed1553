"""Multi-head attention. How attention is computed is chosen in `jaxnet.nn.attention`."""

import math

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxnet.nn._attention_forward import attended
from jaxnet.nn._linear import Linear
from jaxnet.nn._module import Module, Parameter
from jaxnet.nn._norm import value as value_of
from jaxnet.nn.init import Rngs, draw_normal, draw_uniform, fan_in_and_out, zeros_
from jaxnet.precision import full_float32


class NonDynamicallyQuantizableLinear(Linear):
    """`Linear` under the name with which torch prints it inside MultiheadAttention."""


class MultiheadAttention(Module):
    """Attention with several heads: torch.nn.MultiheadAttention.

    Each head h computes softmax(Q_h K_h^T / sqrt(E / num_heads) + mask) V_h, where Q, K and V
    are affine functions of query, key and value. The outputs of the heads are concatenated
    and go through `out_proj`.

    The parameters are named as in torch: `in_proj_weight` (3 E, E), or `q_proj_weight`,
    `k_proj_weight` and `v_proj_weight` if kdim or vdim is not E; `in_proj_bias` (3 E,);
    `bias_k` and `bias_v` (1, 1, E); `out_proj.weight` and `out_proj.bias`.

    Args:
        embed_dim: The number of features E of a query and of an output, a multiple of
            num_heads.
        num_heads: The number of heads, each with E / num_heads features.
        dropout: The probability of zeroing an attention weight in training mode. The random
            numbers come from the open `nn.keys` context.
        bias: Whether the projections have biases.
        add_bias_kv: Whether a trained key and a trained value are appended to the given ones.
        add_zero_attn: Whether a key and a value of zeros are appended to the given ones.
        kdim: The number of features of a key; E by default.
        vdim: The number of features of a value; E by default.
        batch_first: Whether a batch is laid out as (N, L, E) instead of (L, N, E).
        rngs: The source of the initial weights: Xavier uniform for the input projections,
            those of `Linear` for `out_proj.weight`, Xavier normal for `bias_k` and `bias_v`.
            The other biases are initially 0.
        dtype: The dtype of the parameters.

    Raises:
        ValueError: The argument embed_dim is not a positive multiple of num_heads.

    >>> from jaxnet.random import Generator
    >>> attention = MultiheadAttention(4, 2, batch_first=True, rngs=Generator(0))
    >>> x = jnp.ones((5, 3, 4))
    >>> output, weights = attention(x, x, x)
    >>> output.shape, weights.shape
    ((5, 3, 4), (5, 3, 3))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ValueError(
                f"MultiheadAttention: embed_dim {embed_dim} is no positive multiple of "
                f"num_heads {num_heads}"
            )
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.num_heads = num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        self.head_dim = embed_dim // num_heads
        # torch draws out_proj first, although it prints and stores it last.
        out_proj = NonDynamicallyQuantizableLinear(
            embed_dim, embed_dim, bias, rngs=rngs, dtype=dtype
        )
        # torch has a single weight for all three projections if their inputs have equal sizes.
        joint = self.kdim == embed_dim == self.vdim

        def weight(rows: int, columns: int, there: bool) -> Parameter | None:
            return _xavier_uniform(rngs, (rows, columns), dtype) if there else None

        self.q_proj_weight = weight(embed_dim, embed_dim, not joint)
        self.k_proj_weight = weight(embed_dim, self.kdim, not joint)
        self.v_proj_weight = weight(embed_dim, self.vdim, not joint)
        self.in_proj_weight = weight(3 * embed_dim, embed_dim, joint)
        self.in_proj_bias = Parameter(jnp.zeros((3 * embed_dim,), dtype)) if bias else None
        self.bias_k = _xavier_normal_row(rngs, embed_dim, dtype) if add_bias_kv else None
        self.bias_v = _xavier_normal_row(rngs, embed_dim, dtype) if add_bias_kv else None
        self.add_zero_attn = add_zero_attn
        self.out_proj = out_proj
        if out_proj.bias is not None:
            zeros_(out_proj.bias)

    @full_float32()
    def __call__(
        self,
        query: Float[Array, "*LN embed_dim"],
        key: Float[Array, "*SN kdim"],
        value: Float[Array, "*SN vdim"],
        key_padding_mask: Shaped[Array, "*N S"] | None = None,
        need_weights: bool = True,
        attn_mask: Shaped[Array, "*NH L S"] | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Float[Array, "*LN embed_dim"], Float[Array, "..."] | None]:
        """Computes the attention of the queries to the keys.

        Args:
            query: The queries, (L, N, E), or (N, L, E) with batch_first, or (L, E) without a
                batch.
            key: The keys, (S, N, kdim), (N, S, kdim) or (S, kdim), laid out like the query.
            value: The values, (S, N, vdim), (N, S, vdim) or (S, vdim), laid out like the query.
            key_padding_mask: A mask of shape (N, S), or (S,) without a batch. A boolean True
                hides a key; floats are added to the scores.
            need_weights: Whether the attention weights are returned too. As in torch, the
                heads of a query whose keys are all hidden are nan with True and 0 with False.
            attn_mask: A mask of shape (L, S) or (N * num_heads, L, S), boolean or float like
                key_padding_mask.
            average_attn_weights: Whether the returned weights are the mean over the heads.
            is_causal: A hint that attn_mask, which must be given too, is the causal mask. As
                in torch the mask itself is used if need_weights or key_padding_mask is given;
                otherwise position i attends to positions 0 to i.

        Returns:
            A pair of the outputs, shaped like the query, and the weights, or None without
            need_weights. The weights are (N, L, S), or (N, num_heads, L, S) if they are not
            averaged, without N if there is no batch. S includes the keys that add_bias_kv and
            add_zero_attn append.

        Raises:
            ValueError: A shape does not fit the layer or the other arguments, or is_causal is
                given without attn_mask.
            TypeError: A mask is neither boolean nor float.
        """
        apart = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        joint = self.in_proj_weight
        output, weights = attended(
            (self.embed_dim, self.kdim, self.vdim),
            self.num_heads,
            (query, key, value),
            [w[...] for w in apart if w is not None] if joint is None else joint[...],
            value_of(self.in_proj_bias),
            (value_of(self.bias_k), value_of(self.bias_v)),
            self.add_zero_attn,
            self.dropout if self.training else 0.0,
            key_padding_mask,
            need_weights,
            attn_mask,
            average_attn_weights,
            is_causal,
            self.batch_first,
        )
        return self.out_proj(output), weights


def _xavier_uniform(rngs: Rngs, shape: tuple[int, int], dtype: DTypeLike) -> Parameter:
    """A parameter from U(-bound, bound) with bound = sqrt(6 / (fan_in + fan_out)).

    The bound is computed in torch's order of operations, which gives torch's last bit.
    """
    bound = math.sqrt(3.0) * math.sqrt(2.0 / sum(fan_in_and_out(shape)))
    return Parameter(draw_uniform(rngs, shape, -bound, bound, dtype))


def _xavier_normal_row(rngs: Rngs, size: int, dtype: DTypeLike) -> Parameter:
    """A parameter (1, 1, size) from N(0, 2 / (fan_in + fan_out)), where both fans are `size`."""
    std = math.sqrt(2.0 / (2 * size))
    return Parameter(draw_normal(rngs, (1, 1, size), 0.0, std, dtype))
