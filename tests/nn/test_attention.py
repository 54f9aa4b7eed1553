"""jaxnet/nn/_attention.py"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn, weights
from jaxnet.nn.attention import SDPBackend, sdpa_kernel
from jaxnet.nn.functional import scaled_dot_product_attention
from jaxnet.random import Generator
from tests.table import table
from tests.tolerances import distance, tolerance

TestAttention = table("nn_attention")


def arrays(*shapes, seed=0):
    g = Generator(seed)
    return [g.randn(*shape, dtype=np.float64) for shape in shapes]


def small(seed=0, **kwargs):
    return nn.MultiheadAttention(4, 2, **kwargs, rngs=Generator(seed))


def run(attention, *inputs, **call):
    return jax.jit(lambda *inputs: attention(*inputs, **call))(*inputs)


HIDDEN = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], bool)
FLOATS = np.where(HIDDEN, np.linspace(-2, 2, 12).reshape(4, 3), -np.inf)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("lead", "mask", "kwargs"),
    [
        ((2, 3), None, {}),
        ((), None, {"is_causal": True}),
        ((2,), HIDDEN, {"scale": 0.3}),
        ((1, 2), FLOATS, {}),
    ],
)
def test_sdpa_is_torchs(lead, mask, kwargs):
    import torch

    q, k, v = given = arrays((*lead, 4, 5), (*lead[1:], 3, 5), (*lead, 3, 2))
    (cotangent,) = arrays((*lead, 4, 2), seed=1)
    theirs = [torch.tensor(a, requires_grad=True) for a in given]
    out = torch.nn.functional.scaled_dot_product_attention(
        *theirs, attn_mask=None if mask is None else torch.tensor(mask), **kwargs
    )
    (out * torch.tensor(cotangent)).sum().backward()
    with jax.enable_x64(True):
        bias = None if mask is None else jnp.asarray(mask)

        @jax.jit
        def total(q, k, v):
            ours = scaled_dot_product_attention(q, k, v, bias, **kwargs)
            return (ours * cotangent).sum(), ours

        with_output = jax.value_and_grad(total, (0, 1, 2), has_aux=True)
        (_, ours), grads = with_output(*map(jnp.asarray, (q, k, v)))
    assert distance("forward", ours, out.detach()) < tolerance("forward", "float64")
    for ours, x in zip(grads, theirs, strict=True):
        assert distance("gradient", ours, x.grad) < tolerance("gradient", "float64")


@pytest.mark.parametrize("mask", [HIDDEN, FLOATS.astype(np.float32)])
def test_sdpa_gives_zeros_where_all_is_masked(mask):
    q, k, v = (jnp.asarray(a, jnp.float32) for a in arrays((4, 5), (3, 5), (3, 2)))
    out = scaled_dot_product_attention(q, k, v, mask)
    assert not out[1].any()
    assert out[0].any()
    grads = jax.grad(
        lambda *a: scaled_dot_product_attention(*a, mask).sum(), (0, 1, 2)
    )(q, k, v)  # fmt: skip
    assert all(np.isfinite(g).all() for g in grads)
    assert not grads[0][1].any()


def test_sdpa_repeats_the_heads_of_keys_and_values():
    q, k, v = arrays((1, 4, 3, 2), (1, 2, 3, 2), (1, 2, 3, 2))
    grouped = scaled_dot_product_attention(*map(jnp.asarray, (q, k, v)), enable_gqa=True)
    apart = scaled_dot_product_attention(jnp.asarray(q[:, 3]), jnp.asarray(k[:, 1]), v[:, 1])
    np.testing.assert_allclose(grouped[:, 3], apart, rtol=1e-6)


HALF = [(2, 3, 50, 16), (2, 3, 60, 16), (2, 3, 60, 8)]


def test_sdpa_of_half_precision_is_computed_in_float32_on_a_cpu():
    q, k, v = (jnp.asarray(a, jnp.bfloat16) for a in arrays(*HALF))
    out = scaled_dot_product_attention(q, k, v)
    exact = scaled_dot_product_attention(*(x.astype(jnp.float32) for x in (q, k, v)))
    assert out.dtype == jnp.bfloat16
    gap = np.abs(np.asarray(out, np.float64) - np.asarray(exact))
    assert (gap <= 2.0**-8 * 1.01 * np.abs(exact)).all()  # half of bfloat16's last digit


def test_sdpa_of_a_half_precision_query_rounds_no_other_input_on_a_cpu():
    q, k, v = (jnp.asarray(a, jnp.float32) for a in arrays(*HALF))
    out = scaled_dot_product_attention(q.astype(jnp.bfloat16), k, v)
    exact = scaled_dot_product_attention(q.astype(jnp.bfloat16).astype(jnp.float32), k, v)
    assert out.dtype == jnp.bfloat16
    gap = np.abs(np.asarray(out, np.float64) - np.asarray(exact))
    assert (gap <= 2.0**-8 * 1.01 * np.abs(exact)).all()


def half_gradient(q, k, v):
    return jax.grad(
        lambda *x: scaled_dot_product_attention(*x).astype(jnp.float32).sum(), (0, 1, 2)
    )(q, k, v)


def test_sdpa_of_half_precision_multiplies_in_half_precision_on_a_gpu():
    given = [jnp.asarray(a, jnp.bfloat16) for a in arrays(*HALF)]
    text = jax.jit(half_gradient).trace(*given).lower(lowering_platforms=("cuda",)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 5  # the scores, and the four of the gradients
    assert all(re.search(r"\(tensor<\S+bf16>, tensor<\S+bf16>\)", line) for line in products)


def test_sdpa_of_half_precision_has_all_derivatives():
    given = [jnp.asarray(a, jnp.bfloat16) for a in arrays(*HALF)]
    along = [jnp.asarray(a, jnp.bfloat16) for a in arrays(*HALF, seed=1)]
    _, forward = jax.jvp(
        lambda *x: scaled_dot_product_attention(*x).astype(jnp.float32).sum(), given, along
    )
    backward = sum(
        jnp.vdot(g.astype(jnp.float32), d.astype(jnp.float32))
        for g, d in zip(half_gradient(*given), along, strict=True)
    )
    assert abs(forward - backward) < 0.02 * abs(backward)
    mapped = jax.vmap(half_gradient)(*given)
    for a, b in zip(mapped, half_gradient(*given), strict=True):
        assert distance("gradient", a, b) < 2.0**-7


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("is_causal", [False, True])
def test_sdpa_in_half_precision_is_as_exact_as_torchs(dtype, is_causal):
    import torch

    shapes = [HALF[1], HALF[1], HALF[2]] if is_causal else HALF
    given = [np.asarray(jnp.asarray(a, dtype).astype(jnp.float32)) for a in arrays(*shapes)]

    def theirs(kind):
        leaves = [torch.tensor(a).to(kind).requires_grad_() for a in given]
        out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=is_causal)
        out.sum().backward()
        return [x.detach().double().numpy() for x in (out, *(leaf.grad for leaf in leaves))]

    def value(*leaves):
        out = scaled_dot_product_attention(*leaves, is_causal=is_causal)
        return out.sum(dtype=jnp.float32), out

    leaves = [jnp.asarray(a, dtype) for a in given]
    gradients, out = jax.grad(value, (0, 1, 2), has_aux=True)(*leaves)
    exact, half = theirs(torch.float64), theirs(getattr(torch, dtype))
    for ours, other, right in zip([out, *gradients], half, exact, strict=True):
        ours = np.asarray(ours, np.float64)
        assert np.sqrt(np.mean((ours - right) ** 2)) <= 1.1 * np.sqrt(np.mean((other - right) ** 2))


def test_sdpa_kernel_reaches_what_was_compiled_before():
    x = jnp.ones((1, 2, 4, 8), jnp.float32)

    def attention(x):
        return scaled_dot_product_attention(x, x, x)

    compiled = jax.jit(attention)
    compiled(x)
    with (
        sdpa_kernel(SDPBackend.CUDNN_ATTENTION),
        pytest.raises(ValueError, match="CUDNN_ATTENTION accepts"),
    ):
        compiled(x)
    compiled(x)


def test_sdpa_kernel_says_what_cudnn_takes():
    x = jnp.ones((1, 2, 4, 8), jnp.bfloat16)
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        for given, options in (
            ([x.astype(jnp.float32)] * 3, {}),
            ([x[0]] * 3, {}),
            ([x] * 3, {"attn_mask": jnp.ones((4, 4), bool)}),
            ([x] * 3, {"dropout_p": 0.5}),
            ([x, x[:, :, :2], x[:, :, :2]], {"is_causal": True}),
            ([x, x[:, :1], x[:, :1]], {}),
            ([x, x, x[..., :4]], {}),
            ([x, x.astype(jnp.float32), x], {}),
        ):
            with pytest.raises(ValueError, match=r"CUDNN_ATTENTION accepts .*leave sdpa_kernel"):
                scaled_dot_product_attention(*given, **options)
    scaled_dot_product_attention(x, x, x)  # the choice ends with its context
    with pytest.raises(TypeError, match=r"backends: 'cudnn'; accepted are SDPBackend\.MATH"):
        sdpa_kernel("cudnn").__enter__()


def test_sdpa_drops_weights_and_not_outputs():
    q, k, v = jnp.ones((2, 4)), jnp.ones((3, 4)), jnp.eye(3)
    with nn.draws([np.array([[1, 0, 1], [0, 0, 0]])]):
        out = scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    np.testing.assert_allclose(out, np.array([[1, 0, 1], [0, 0, 0]]) * 2 / 3, rtol=1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("lengths", [(2, 3), (3, 3), (4, 2)])
@pytest.mark.filterwarnings("ignore:Lower right causal bias will produce NaNs")
def test_causal_masks_are_torchs(lengths):
    import torch
    from torch.nn.attention import bias as theirs

    from jaxnet.nn.attention import bias as ours

    q, k, v = arrays((1, 1, lengths[0], 4), (1, 1, lengths[1], 4), (1, 1, lengths[1], 2))
    for name in ours.__all__:
        there, here = getattr(theirs, name)(*lengths), getattr(ours, name)(*lengths)
        assert here.tolist() == there._materialize().tolist()
        out = scaled_dot_product_attention(*(jnp.float32(x) for x in (q, k, v)), here)
        expected = torch.nn.functional.scaled_dot_product_attention(
            *map(torch.tensor, (q, k, v)), there
        )
        np.testing.assert_allclose(out, expected, atol=1e-6)
        with pytest.raises(ValueError, match=f"{name}: sizes"):
            getattr(ours, name)(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"static_k": 1}, "static_k and static_v; accepted is None"),
        ({"bias_k": jnp.ones((1, 1, 4))}, "give both or neither"),
        ({"in_proj_weight": None}, "needs in_proj_weight"),
        ({"use_separate_proj_weight": True}, "needs q_proj_weight, k_proj_weight and v_proj"),
        ({"num_heads": 3}, "num_heads 3 does not divide 4"),
    ],
)
def test_multi_head_attention_forward_names_what_is_wrong(change, message):
    given = {
        "embed_dim_to_check": 4, "num_heads": 2, "in_proj_weight": jnp.ones((12, 4)),
        "in_proj_bias": None, "bias_k": None, "bias_v": None, "add_zero_attn": False,
        "dropout_p": 0.0, "out_proj_weight": jnp.ones((4, 4)), "out_proj_bias": None,
    }  # fmt: skip
    x = jnp.ones((3, 4))
    with pytest.raises(ValueError, match=message):
        nn.functional.multi_head_attention_forward(x, x, x, **(given | change))


def test_sdpa_names_what_is_wrong():
    q, k, v = jnp.ones((2, 4)), jnp.ones((3, 4)), jnp.ones((3, 5))
    with pytest.raises(ValueError, match=r"query \(2, 4\), key \(3, 3\), value .* do not fit"):
        scaled_dot_product_attention(q, k[:, :3], v)
    with pytest.raises(ValueError, match=r"attn_mask \(3, 2\) does not broadcast to .* \(2, 3\)"):
        scaled_dot_product_attention(q, k, v, jnp.zeros((3, 2)))
    with pytest.raises(TypeError, match="attn_mask of int32; accepted are booleans and floats"):
        scaled_dot_product_attention(q, k, v, jnp.zeros((2, 3), jnp.int32))
    with pytest.raises(ValueError, match="attn_mask or is_causal, not both"):
        scaled_dot_product_attention(q, k, v, jnp.zeros((2, 3)), is_causal=True)
    with pytest.raises(ValueError, match=r"at least 2 axes, \(\.\.\., length, features\)"):
        scaled_dot_product_attention(q[0], k, v)
    with pytest.raises(ValueError, match="enable_gqa needs heads on axis -3"):
        scaled_dot_product_attention(q, k, v, enable_gqa=True)


@pytest.mark.torch
@pytest.mark.parametrize("kwargs", [{}, {"kdim": 3, "vdim": 7}, {"bias": False}])
def test_initial_weights_are_torchs(kwargs):
    import torch

    for seed in range(100):
        torch.manual_seed(seed)
        theirs = torch.nn.MultiheadAttention(6, 2, **kwargs, add_bias_kv=True).state_dict()
        layer = nn.MultiheadAttention(6, 2, **kwargs, add_bias_kv=True, rngs=Generator(seed))
        ours = weights.state_dict(layer)
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            ulp = 4 if key in ("bias_k", "bias_v") else 0  # the ones that are normal
            np.testing.assert_array_max_ulp(ours[key], value.numpy(), ulp)


def test_a_row_with_all_keys_hidden_is_nan_with_weights_and_nothing_without():
    attention = small(batch_first=True)
    (x,) = (jnp.asarray(a, jnp.float32) for a in arrays((2, 3, 4)))
    hidden = jnp.array([[True, True, True], [False, False, True]])
    output, weights_ = run(attention, x, x, x, hidden)
    assert np.isnan(output[0]).all()
    assert np.isnan(weights_[0]).all()
    assert np.isfinite(output[1]).all()
    bare, none = attention(x, x, x, hidden, need_weights=False)
    assert none is None
    assert np.array_equal(bare[0], np.zeros((3, 4)))  # out_proj.bias starts at 0
    np.testing.assert_allclose(bare[1], output[1], rtol=1e-5)


def test_is_causal_is_a_hint_about_attn_mask():
    attention = small()
    (x,) = (jnp.asarray(a, jnp.float32) for a in arrays((3, 2, 4)))
    causal = jnp.triu(jnp.full((3, 3), -jnp.inf), 1)
    expected = run(attention, x, x, x, attn_mask=causal)[0]
    hinted = run(attention, x, x, x, attn_mask=jnp.zeros((3, 3)), is_causal=True)[0]
    bare = run(attention, x, x, x, attn_mask=jnp.zeros((3, 3)), is_causal=True, need_weights=False)[
        0
    ]
    assert not np.allclose(hinted, expected)  # the mask counts
    np.testing.assert_allclose(bare, expected, rtol=1e-5)  # the hint counts
    with pytest.raises(ValueError, match="is_causal says what attn_mask is"):
        attention(x, x, x, is_causal=True)


def test_self_attention_by_one_product_is_attention():
    attention = small(batch_first=True)
    (x,) = (jnp.asarray(a, jnp.float32) for a in arrays((2, 3, 4)))
    joint, apart = attention(x, x, x), attention(x, x + 0, x)
    for one, other in zip(joint, apart, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_recorded_masks_come_in_torchs_shapes():
    attention = small(dropout=0.5)
    (x,) = (jnp.asarray(a, jnp.float32) for a in arrays((3, 2, 4)))
    with nn.draws([np.zeros((4, 3, 3)), np.zeros((2, 2, 3, 3))]):
        output, dropped = attention(x, x, x)
        bare, _ = attention(x, x, x, need_weights=False)
    assert not dropped.any()
    assert not output.any()
    assert not bare.any()
    assert attention.eval()(x, x, x)[0].any()
    with pytest.raises(ValueError, match="no random key is at hand"):
        attention.train()(x, x, x)


def test_empty_batches_and_lengths():
    attention = small(add_bias_kv=True)
    output, weights_ = attention(*[jnp.zeros((3, 0, 4))] * 3)
    assert (output.shape, weights_.shape) == ((3, 0, 4), (0, 3, 4))
    output, weights_ = small()(jnp.ones((2, 1, 4)), *[jnp.zeros((0, 1, 4))] * 2)
    assert (output.shape, weights_.shape) == ((2, 1, 4), (1, 2, 0))
    assert not output.any()


def test_wrong_shape_says_layer_expected_and_given():
    attention = small()
    x = jnp.zeros((3, 2, 4))
    for inputs, call, message in [
        ((jnp.zeros((3, 2, 5)), x, x), {}, r"query of shape \(L, N, 4\) or \(L, 4\); it got \(3,"),
        ((x, jnp.zeros((5, 1, 4)), x), {}, r"key of shape \(S, 2, 4\); it got \(5, 1, 4\)"),
        ((x, x, jnp.zeros((5, 2, 4))), {}, r"value of shape \(3, 2, 4\); it got \(5, 2, 4\)"),
        ((x, x[0], x), {}, r"key of shape \(S, 2, 4\); it got \(2, 4\)"),
        ((x, x, x), {"attn_mask": jnp.zeros((2, 3, 3))}, r"attn_mask of shape \(3, 3\) or \(4, 3"),
        ((x, x, x), {"key_padding_mask": jnp.zeros((3, 2))}, r"key_padding_mask of shape \(2, 3"),
    ]:
        with pytest.raises(ValueError, match=r"MultiheadAttention\(4, 2\) expects " + message):
            attention(*inputs, **call)
    with pytest.raises(TypeError, match="attn_mask of int32; accepted are booleans and floats"):
        attention(x, x, x, attn_mask=jnp.zeros((3, 3), jnp.int32))
    for sizes in [(5, 2), (0, 2), (4, 0)]:
        with pytest.raises(ValueError, match=f"embed_dim {sizes[0]} is no positive multiple of"):
            nn.MultiheadAttention(*sizes, rngs=Generator(0))
