"""Multi-head attention with the masks and keys that torch takes."""

from tests.table import Case, functional


def masked(module, q, k, v, attn_mask, key_padding_mask, **call):
    return module(q, k, v, attn_mask=attn_mask, key_padding_mask=key_padding_mask, **call)


def only_output(result):
    return result[0]


def some(*shape):
    """A boolean mask of a third of the positions, never of the first."""

    def make(rng):
        mask = rng.random_sample(shape) < 0.3
        mask[..., 0] = False
        return mask

    return make


def forward(module, q, k, v, w_q, w_k, w_v, bias, row, w_out):
    call = functional(
        "multi_head_attention_forward", embed_dim_to_check=4, num_heads=2, in_proj_weight=None,
        in_proj_bias=bias, bias_k=row, bias_v=row, add_zero_attn=True, dropout_p=0.5,
        out_proj_weight=w_out, out_proj_bias=None, training=False, use_separate_proj_weight=True,
        q_proj_weight=w_q, k_proj_weight=w_k, v_proj_weight=w_v,
    )  # fmt: skip
    return call(module, q, k, v)


CASES = [
    Case("MultiheadAttention", (4, 2), inputs=[(3, 2, 4), (5, 2, 4), (5, 2, 4)]),
    Case(
        "MultiheadAttention", (6, 3), {"add_bias_kv": True, "add_zero_attn": True, "vdim": 5},
        inputs=[(4, 2, 6), (3, 2, 6), (3, 2, 5), some(4, 3), some(2, 3)], apply=masked,
        call={"average_attn_weights": False},
    ),
    Case(
        "MultiheadAttention", (4, 2), {"batch_first": True, "bias": False},
        inputs=[(2, 3, 4), (2, 4, 4), (2, 4, 4), (4, 3, 4), (2, 4)], apply=masked,
        call={"need_weights": False}, output=only_output,
    ),
    Case(
        "MultiheadAttention", (4, 1), {"kdim": 3},
        inputs=[(3, 4), (2, 3), (2, 4), (3, 2), (2,)], apply=masked,
    ),
    Case(
        "Identity", apply=forward, id="multi_head_attention_forward",
        inputs=[(3, 2, 4), (5, 2, 3), (5, 2, 4), (4, 4), (4, 3), (4, 4), (12,), (1, 1, 4), (4, 4)],
    ),
    Case(
        "Identity", apply=functional("scaled_dot_product_attention", enable_gqa=True, scale=0.4),
        id="scaled_dot_product_attention", inputs=[(2, 4, 3, 2), (2, 2, 5, 2), (2, 2, 5, 3)],
    ),
]  # fmt: skip
