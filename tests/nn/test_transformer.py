"""jaxnet/nn/_transformer.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn, weights
from jaxnet.random import Generator
from tests.table import table

# torch warns that a shortcut of its own is not taken.
pytestmark = pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")

TestTransformer = table("nn_transformer")


def stacks(library, **kwargs):
    """Encoder and decoder of one library, drawn in this order."""
    layer = library.TransformerEncoderLayer(4, 2, 6, batch_first=True, **kwargs)
    encoder = library.TransformerEncoder(layer, 2)
    sub = library.TransformerDecoderLayer(4, 2, 6, batch_first=True, norm_first=True, **kwargs)
    return encoder.eval(), library.TransformerDecoder(sub, 2, library.LayerNorm(4)).eval()


@pytest.mark.torch
def test_stacks_draw_print_and_compute_as_torchs():
    import torch

    for seed in range(20):
        torch.manual_seed(seed)
        theirs, ours = stacks(torch.nn), stacks(nn, rngs=Generator(seed))
        for one, other in zip(ours, theirs, strict=True):
            assert repr(one) == repr(other)
            expected = {k: v.numpy() for k, v in other.state_dict().items()}
            found = weights.state_dict(one)
            assert list(found) == list(expected)
            assert all(np.array_equal(found[k], expected[k]) for k in expected)
    src, tgt = Generator(1).randn(2, 3, 4), Generator(2).randn(2, 5, 4)
    memory = theirs[0](torch.tensor(src))
    expected = theirs[1](torch.tensor(tgt), memory).detach().numpy()

    @jax.jit
    def run(src, tgt):
        return ours[1](tgt, ours[0](src))

    np.testing.assert_allclose(run(src, tgt), expected, atol=1e-5)


def test_copies_start_alike_and_are_their_own():
    layer = nn.TransformerEncoderLayer(4, 2, 6, rngs=Generator(0))
    encoder = nn.TransformerEncoder(layer, 2)
    one, two = encoder.layers
    assert np.array_equal(one.linear1.weight[...], two.linear1.weight[...])
    one.linear1.weight[...] = jnp.zeros_like(one.linear1.weight[...])
    assert two.linear1.weight[...].any()
    assert layer.linear1.weight[...].any()
    assert encoder.num_parameters == 2 * layer.num_parameters


def test_dropout_takes_keys_and_stops_in_eval():
    layer = nn.TransformerEncoderLayer(4, 2, 6, 0.5, rngs=Generator(0))
    x = jnp.asarray(Generator(1).randn(3, 2, 4))
    outputs = []
    for seed in (0, 0, 1):
        with nn.keys(jax.random.key(seed)):
            outputs.append(layer(x))
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])
    # In torch's order and shapes: attention weights, dropout1, dropout, dropout2.
    with nn.draws([np.ones(s) for s in [(2, 2, 3, 3), (3, 2, 4), (3, 2, 6), (3, 2, 4)]]):
        layer(x)
    assert np.array_equal(layer.eval()(x), layer(x))


def test_activation_is_a_name_a_function_or_a_module():
    x = jnp.asarray(Generator(1).randn(3, 4))

    def output(activation):
        layer = nn.TransformerEncoderLayer(4, 2, 6, 0.0, activation, rngs=Generator(0))
        return layer(x)

    assert np.array_equal(output("gelu"), output(nn.GELU()))
    assert np.array_equal(output("relu"), output(jax.nn.relu))
    assert not np.array_equal(output("relu"), output("gelu"))
    with pytest.raises(ValueError, match="activation: 'tanh'; accepted are 'relu', 'gelu'"):
        output("tanh")


def test_wrong_shape_says_layer_expected_and_given():
    layer = nn.TransformerEncoderLayer(4, 2, 6, rngs=Generator(0))
    with pytest.raises(
        ValueError,
        match=r"EncoderLayer expects src of shape \(L, N, 4\) or \(L, 4\); it got \(3, 5\)",
    ):
        layer(jnp.zeros((3, 5)))
    decoder = nn.TransformerDecoderLayer(4, 2, 6, batch_first=True, rngs=Generator(0))
    with pytest.raises(ValueError, match=r"memory of shape \(N, L, 4\) or \(L, 4\); it got \(2, 3"):
        decoder(jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 5)))


# Transformer


def tiny(**options):
    return nn.Transformer(4, 2, 1, 1, 6, **options, rngs=Generator(0))


def test_custom_parts_are_called_as_torch_calls_them():
    class Part(nn.Module):
        def __init__(self):
            self.matrix = nn.Parameter(jnp.zeros((2, 2)))

        def __call__(self, x, *memory, **given):
            seen.append((len(memory), sorted(given)))
            return x

    seen = []
    part = Part()
    model = tiny(custom_encoder=part, custom_decoder=Part())
    assert part.matrix[...].all()  # drawn anew, as all matrices
    assert model(jnp.ones((3, 1, 4)), jnp.ones((2, 1, 4))).shape == (2, 1, 4)
    decoder = ["memory_is_causal", "memory_key_padding_mask", "memory_mask", "tgt_is_causal",
               "tgt_key_padding_mask", "tgt_mask"]  # fmt: skip
    assert seen == [(0, ["is_causal", "mask", "src_key_padding_mask"]), (1, decoder)]


@pytest.mark.parametrize(
    ("src", "tgt", "message"),
    [
        ((3, 2, 4), (2, 3, 4), r"src \(3, 2, 4\) and tgt \(2, 3, 4\); accepted are \(S, N, E\)"),
        ((3, 2, 4), (3, 4), "accepted are"),
        ((3, 2, 4), (3, 2, 5), "the last axis of both is d_model, 4"),
    ],
)
def test_transformer_names_what_does_not_fit(src, tgt, message):
    with pytest.raises(ValueError, match=message):
        tiny()(jnp.ones(src), jnp.ones(tgt))


def test_the_hint_needs_its_mask():
    with pytest.raises(ValueError, match=r"Transformer\.generate_square_subsequent_mask"):
        tiny(dropout=0.0)(jnp.ones((3, 4)), jnp.ones((3, 4)), tgt_is_causal=True)
