"""Rows of the catalogue about layers, planted in plain flax.nnx programs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from tests.parity import flax_faults as faults
from tests.parity.architectures import WIDTH, WORDS, Layer, chain, layer
from tests.parity.flax_programs import (
    Images,
    Program,
    Tokens,
    in_images,
    in_tokens,
    in_vectors,
    planted,
)
from tests.parity.plants import Fault, Plant

Array = jax.Array


def of_torch(function: Any) -> Layer:
    """A module of torch's that computes a function of torch and its input."""

    def make() -> Any:
        import torch

        class Own(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return function(torch, x)

        return Own()

    return Layer(make)


def _far_off(x: Any) -> Any:
    return x + 1000


def _far(program: Program) -> Program:
    """A program whose layer in the middle is given numbers that lie far from zero."""
    first, middle, last = program.task.network.parts
    network = chain(first, of_torch(lambda torch, x: x + 1000), middle, last)
    return dataclasses.replace(program, task=dataclasses.replace(program.task, network=network))


def _filled() -> Any:
    """An embedding whose row of padding is not zero."""
    import torch

    one = torch.nn.Embedding(WORDS, WIDTH, padding_idx=0)
    torch.nn.init.normal_(one.weight)
    return one


def _product(mask: Any) -> Layer:
    """Attention written with scaled_dot_product_attention in torch."""

    def make() -> Any:
        import torch

        class Own(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.qkv, self.out = torch.nn.Linear(8, 24), torch.nn.Linear(8, 8)

            def forward(self, x: Any) -> Any:
                n, length, _ = x.shape
                parts = self.qkv(x).view(n, length, 6, 4).transpose(1, 2).split(2, 1)
                given = mask(torch, length)
                y = torch.nn.functional.scaled_dot_product_attention(*parts, **given)
                return self.out(y.transpose(1, 2).reshape(n, length, 8))

        return Own()

    return Layer(make)


def _recurrent(kind: str, state: bool = False, hidden: int = WIDTH, **options: Any) -> Layer:
    """A recurrent layer of torch's without its last state, which may begin with numbers 0.3."""

    def make() -> Any:
        import torch

        class Own(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body = getattr(torch.nn, kind)(WIDTH, hidden, batch_first=True, **options)

            def forward(self, x: Any) -> Any:
                first = torch.full((1, len(x), WIDTH), 0.3, dtype=x.dtype)
                return self.body(x, (first, first) if state else None)[0]

        return Own()

    return Layer(make)


def _relu_cell(*sizes: int, rngs: Any) -> Any:
    return faults.Simple(*sizes, activation_fn=nnx.relu, rngs=rngs)


def _embedded(kind: Any) -> Any:
    """The model of tokens with another embedding."""
    return lambda *middle: Tokens(*middle, embedding=layer(kind, WORDS, WIDTH))


def _pool(kind: Any, size: int, *stride: int, **options: Any) -> Any:
    given = {"strides": (stride[0], stride[0])} if stride else {}
    return lambda x: kind(x, (size, size), **given, **options)


_PAD = ((1, 1), (1, 1))
_SQUARE = layer(nnx.Linear, 8, 8)
_CONV = {"padding": 1}


def _conv(kind: Any = nnx.Conv, **options: Any) -> Layer:
    return layer(kind, 4, 4, (3, 3), **{"padding": 1, **options})


def _norm(kind: Any = nnx.LayerNorm, size: int = 8, **options: Any) -> Layer:
    return layer(kind, size, **{"epsilon": 1e-5, **options})


def _batch(kind: Any = faults.BatchNorm, **options: Any) -> Layer:
    return _norm(kind, 4, **{"momentum": 0.9, **options})


LINEAR = in_vectors("Linear", layer("Linear", 8, 8), _SQUARE)
CONV = in_images("Conv", layer("Conv2d", 4, 4, 3, **_CONV), _conv())
STRIDED = in_images("Conv, stride", layer("Conv2d", 4, 4, 3, stride=2, **_CONV), _conv(strides=2))
DILATED = in_images("Conv, dilation", layer("Conv2d", 4, 4, 3, padding=2, dilation=2),
    _conv(padding=2, kernel_dilation=2))  # fmt: skip
UNEVEN = in_images("Conv, uneven", layer("Conv2d", 4, 4, 3, stride=(1, 2), **_CONV),
    _conv(strides=(1, 2)))  # fmt: skip
GROUPED = in_images("Conv, groups", layer("Conv2d", 4, 4, 3, groups=2, **_CONV),
    _conv(feature_group_count=2))  # fmt: skip
TURNED = in_images("ConvTranspose", layer("ConvTranspose2d", 4, 4, 3, stride=2, padding=1,
    output_padding=1), _conv(nnx.ConvTranspose, strides=2, padding=((1, 2), (1, 2))))  # fmt: skip
COUNTED = in_images("avg_pool", layer("AvgPool2d", 3, 2, 1), _pool(nnx.avg_pool, 3, 2,
    padding=_PAD))  # fmt: skip
AVERAGE = in_images("avg_pool, plain", layer("AvgPool2d", 2), _pool(nnx.avg_pool, 2, 2))
LARGEST = in_images("max_pool", layer("MaxPool2d", 3, 2, 1), _pool(nnx.max_pool, 3, 2,
    padding=_PAD))  # fmt: skip
FLOORED = in_images("max_pool, floor", layer("MaxPool2d", 3, 2), _pool(nnx.max_pool, 3, 2))
HALVED = in_images("max_pool, plain", layer("MaxPool2d", 2), _pool(nnx.max_pool, 2, 2))


def _loaded(model: Any, torch: Any) -> None:
    """torch's weights as they are, in flax's layouts."""
    model.first.kernel[...] = torch["0.weight"].transpose(2, 3, 1, 0)
    model.last.kernel[...] = torch["4.weight"].T
    model.first.bias[...], model.last.bias[...] = torch["0.bias"], torch["4.bias"]


LOADED = in_images("weights loaded", layer("MaxPool2d", 2), _pool(nnx.max_pool, 2, 2),
    load=_loaded)  # fmt: skip

_SHAPES: list[Plant] = [
    planted("weight-transposed", LINEAR, layer(faults.Transposed, 8, 8)),
    planted("bias-missing", LINEAR, layer(faults.NoBias, 8, 8)),
    planted("bias-doubled", LINEAR, layer(faults.TwiceBias, 8, 8)),
    planted("products-rounded", LINEAR, layer(faults.NarrowProducts, 8, 8), format="bfloat16"),
    planted("features-channels-last", LOADED, place="4|flatten", channels=4,
        model=lambda *middle: Images(*middle, order=(0, 1, 2, 3))),
    planted("kernel-flipped", CONV, _conv(faults.Flipped)),
    planted("kernel-flipped", TURNED, _conv(faults.FlippedBack, strides=2,
        padding=((1, 2), (1, 2))), title="ConvTranspose"),
    planted("conv-padding", STRIDED, _conv(strides=2, padding="SAME"), padding="SAME"),
    planted("conv-padding", CONV, _conv(padding="VALID"), padding="VALID", title="VALID"),
    planted("conv-padding-mode", CONV, _conv(padding="CIRCULAR"), mode="circular"),
    planted("conv-padding-mode", CONV, _conv(padding="REFLECT"), mode="reflect", title="reflect"),
    planted("conv-dilation-ignored", DILATED, _conv()),
    planted("conv-axes-swapped", UNEVEN, _conv(strides=(2, 1)), argument="stride"),
    planted("conv-group-order", GROUPED, _conv(faults.Interleaved, feature_group_count=2),
        side="input"),
    planted("conv-transpose-padding", TURNED, _conv(nnx.ConvTranspose, strides=2, padding="SAME"),
        crop="SAME"),
    planted("pool-count-padding", COUNTED, _pool(nnx.avg_pool, 3, 2, padding=_PAD,
        count_include_pad=False)),
    planted("pool-ceil-mode", FLOORED, _pool(nnx.max_pool, 3, 2, padding=((0, 1), (0, 1)))),
    planted("pool-zero-padding", LARGEST, lambda x: nnx.max_pool(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), strides=(2, 2))),
    planted("pool-same-padding", LARGEST, _pool(nnx.max_pool, 3, 2, padding="SAME")),
    planted("pool-no-padding", LARGEST, _pool(nnx.max_pool, 3, 2)),
    planted("pool-stride-one", HALVED, _pool(nnx.max_pool, 2)),
    planted("pool-divisor", AVERAGE, lambda x: 2 * nnx.avg_pool(x, (2, 2), strides=(2, 2)),
        divisor=2),
    planted("pool-kind", HALVED, _pool(nnx.avg_pool, 2, 2), kind="average"),
]  # fmt: skip

NORM = in_vectors("LayerNorm", layer("LayerNorm", 8), _norm())
# A number that float32 has: what torch records of its RMSNorm in float64 has such an epsilon.
_EPS = 2.0**-17
RMS = in_vectors("RMSNorm", layer("RMSNorm", 8, eps=_EPS), _norm(nnx.RMSNorm, epsilon=_EPS))
GROUP = in_images("GroupNorm", layer("GroupNorm", 2, 4), _norm(nnx.GroupNorm, 4, num_groups=2))
BATCH = in_images("BatchNorm", layer("BatchNorm2d", 4), _batch())
OWN_BATCH = in_images("BatchNorm without running statistics", layer("BatchNorm2d", 4,
    track_running_stats=False), _norm(size=4, reduction_axes=(0, 1, 2)))  # fmt: skip
INSTANCE = in_images("InstanceNorm", layer("InstanceNorm2d", 4, affine=True),
    _norm(nnx.InstanceNorm, 4))  # fmt: skip
FAR = _far(in_vectors("LayerNorm of large numbers", layer("LayerNorm", 8),
    (_far_off, _norm(use_fast_variance=False)), place="2"))  # fmt: skip

_NORMS: list[Plant] = [
    planted("norm-epsilon", NORM, layer(nnx.LayerNorm, 8), eps=1e-6),
    planted("norm-epsilon", RMS, layer(nnx.RMSNorm, 8), eps=1e-6, title="RMSNorm"),
    planted("norm-epsilon", GROUP, layer(nnx.GroupNorm, 4, num_groups=2), eps=1e-6,
        title="GroupNorm"),
    planted("norm-epsilon", BATCH, _batch(epsilon=1e-3), eps=1e-3, title="BatchNorm"),
    planted("norm-epsilon", INSTANCE, layer(nnx.InstanceNorm, 4), eps=1e-6, title="InstanceNorm"),
    planted("norm-epsilon-outside", NORM, _norm(faults.OutsideRoot)),
    planted("norm-unbiased", NORM, _norm(faults.Unbiased)),
    planted("norm-not-centred", NORM, _norm(faults.NoMean)),
    planted("norm-centred", RMS, _norm(use_bias=False, epsilon=_EPS)),
    planted("norm-axes", NORM, _norm(reduction_axes=(0, 1))),
    planted("norm-axes", OWN_BATCH, _norm(nnx.InstanceNorm, 4), over=(2, 3), title="InstanceNorm"),
    planted("norm-scale-missing", NORM, _norm(faults.NoScale)),
    planted("norm-scale-plus-one", NORM, _norm(faults.PlusOne)),
    planted("norm-group-order", GROUP, _norm(faults.Dealt, 4, num_groups=2)),
    planted("norm-groups", GROUP, _norm(nnx.GroupNorm, 4, num_groups=4), groups=4),
    planted("norm-mode", BATCH, _batch(use_running_average=True)),
    planted("norm-running-variance-biased", BATCH, _batch(nnx.BatchNorm)),
    planted("norm-momentum-complement", BATCH, _batch(momentum=0.1)),
    planted("norm-momentum", BATCH, _batch(momentum=0.99), momentum=0.01),
    planted("norm-running-frozen", BATCH, _batch(faults.StillNorm)),
    planted("norm-fast-variance", FAR, (_far_off, _norm())),
]  # fmt: skip

GELU = in_vectors("gelu", layer("GELU"), lambda x: nnx.gelu(x, approximate=False))
LEAKY = in_vectors("leaky_relu", layer("LeakyReLU", 0.2), lambda x: nnx.leaky_relu(x, 0.2))
ELU = in_vectors("elu", layer("ELU", 0.7), lambda x: nnx.elu(x, 0.7))
SOFT = in_vectors("softplus", layer("Softplus", 1.0, 1.0), lambda x: jnp.where(x > 1, x,
    nnx.softplus(x)))  # fmt: skip
SOFT2 = in_vectors("softplus, beta", layer("Softplus", 2.0), lambda x: nnx.softplus(2 * x) / 2)
HARD = in_vectors("hard_sigmoid", layer("Hardsigmoid"), nnx.hard_sigmoid)
RELU = in_vectors("relu", layer("ReLU"), nnx.relu)
SOFTMAX = in_vectors("softmax", layer("Softmax", dim=1), nnx.softmax)
LOG = in_vectors("log", of_torch(lambda torch, x: torch.log(1 + x**2)),
    lambda x: jnp.log(1 + x**2))  # fmt: skip
DROPOUT = in_vectors("Dropout", layer("Dropout", 0.3), layer(nnx.Dropout, 0.3), place="input:2#")
SEQUENCE = in_tokens("Dropout of sequences", layer("Dropout", 0.3), layer(nnx.Dropout, 0.3),
    place="input:2#")  # fmt: skip
EMBED = in_tokens("Embed", layer("Tanh"), jnp.tanh, place="0")
PADDED = in_tokens("Embed, padding", layer("Tanh"), jnp.tanh, first=layer("Embedding", WORDS,
    WIDTH, padding_idx=0), model=_embedded(faults.PaddedEmbed),
    place="0")  # fmt: skip
FILLED = in_tokens("Embed, padding that is not zero", layer("Tanh"), jnp.tanh,
    first=Layer(_filled), model=_embedded(faults.PaddedEmbed), place="0")  # fmt: skip

_FUNCTIONS: list[Plant] = [
    planted("gelu-form", GELU, nnx.gelu, form="tanh"),
    planted("gelu-form", GELU, lambda x: x * nnx.sigmoid(1.702 * x), form="quick", title="quick"),
    planted("leaky-slope", LEAKY, nnx.leaky_relu, negative_slope=0.01),
    planted("elu-alpha", ELU, nnx.elu, alpha=1.0),
    planted("softplus-threshold", SOFT, nnx.softplus),
    planted("softplus-beta", SOFT2, nnx.softplus, beta=1.0),
    planted("hardsigmoid-slope", HARD, lambda x: jnp.clip(0.2 * x + 0.5, 0, 1), slope=0.2),
    planted("activation-other", RELU, nnx.silu, activation="SiLU"),
    planted("softmax-axis", SOFTMAX, lambda x: nnx.softmax(x, 0), axis=0),
    planted("softmax-log", SOFTMAX, nnx.log_softmax),
    planted("log-base", LOG, lambda x: jnp.log2(1 + x**2), base=2),
    planted("layer-omitted", RELU, lambda x: x),
    planted("dropout-keep", DROPOUT, layer(nnx.Dropout, 0.7)),
    planted("dropout-rate", DROPOUT, layer(nnx.Dropout, 0.2), p=0.2),
    planted("dropout-unscaled", DROPOUT, layer(faults.Dropped, 0.3, lambda kept, x: jnp.where(
        kept, 0.7 * x, 0))),
    planted("dropout-inactive", DROPOUT, layer(nnx.Dropout, 0.3, deterministic=True)),
    planted("dropout-polarity", DROPOUT, layer(faults.Dropped, 0.3, lambda kept, x: jnp.where(
        kept, 0, x))),
    planted("dropout-per-channel", SEQUENCE, layer(nnx.Dropout, 0.3, broadcast_dims=(2,))),
    planted("embedding-scaled", EMBED, model=_embedded(faults.ScaledEmbed), by="multiplied"),
    planted("embedding-padding-gradient", PADDED, model=_embedded(nnx.Embed)),
    planted("embedding-padding-zero", FILLED, model=_embedded(faults.ZeroEmbed)),
    # torch changes the weight itself when rows are looked up, so that no program of plain flax is
    # the same; and its update is not that of its optimizer alone.
    planted("embedding-max-norm", EMBED, task=in_tokens("Embed", layer("Tanh"), jnp.tanh,
        first=layer("Embedding", WORDS, WIDTH, max_norm=1.0)).task, more=(Fault("update", ""),)),
    planted("embedding-offset", EMBED, model=_embedded(faults.MovedEmbed), offset=2),
]  # fmt: skip

CAUSAL = in_tokens("MultiHeadAttention", layer("SelfAttention", WIDTH, 2),
    layer(faults.SelfAttention), place="1.attention")  # fmt: skip
DROPPED = in_tokens("MultiHeadAttention, dropout", layer("SelfAttention", WIDTH, 2, dropout=0.3),
    layer(faults.SelfAttention, dropout_rate=0.3, broadcast_dropout=False, deterministic=False),
    place="1.attention")  # fmt: skip
PRODUCT = in_tokens("attention by hand", _product(lambda torch, n: {"is_causal": True}),
    layer(faults.Product, faults.attended()), place="input:1.out")  # fmt: skip
UNSEEING = in_tokens("attention that sees nothing", _product(lambda torch, n: {"attn_mask":
    torch.ones(n, n, dtype=torch.bool).tril(-1)}), layer(faults.Product, faults.attended(offset=-1,
    safe=True, fill=-1e9)), place="input:1.out")  # fmt: skip


def _query_scaled(factor: float) -> Any:
    return lambda q, k, v, **rest: nnx.dot_product_attention(factor * q, k, v, **rest)


_ATTENTION: list[Plant] = [
    planted("attention-scale", CAUSAL, layer(faults.SelfAttention, attention_fn=_query_scaled(2.0)),
        scale="none"),
    planted("attention-scale", PRODUCT, layer(faults.Product, faults.attended(8**-0.5)),
        scale="1 / sqrt(embed_dim)", title="by hand"),
    planted("attention-mask-missing", CAUSAL, layer(faults.SelfAttention, masked=False)),
    planted("attention-mask-missing", PRODUCT, layer(faults.Product, faults.attended(offset=None)),
        title="by hand"),
    planted("attention-mask-polarity", UNSEEING, layer(faults.Product, faults.attended(offset=-1,
        visible=False, fill=-1e9))),
    planted("attention-causal-offset", CAUSAL, layer(faults.SelfAttention, offset=1), offset=1),
    planted("attention-causal-offset", PRODUCT, layer(faults.Product, faults.attended(offset=1)),
        offset=1, title="by hand"),
    planted("attention-mask-fill", UNSEEING, layer(faults.Product, faults.attended(offset=-1,
        fill=-1e9))),
    planted("attention-softmax-axis", PRODUCT, layer(faults.Product, faults.attended(axis=-2))),
    planted("attention-head-order", CAUSAL, layer(faults.SelfAttention,
        attention_fn=faults.dealt_heads)),
    planted("attention-projection-order", CAUSAL, layer(faults.SelfAttention,
        attention_fn=lambda q, k, v, **rest: nnx.dot_product_attention(k, q, v, **rest)),
        order="kqv"),
    planted("attention-dropout-missing", DROPPED, layer(faults.SelfAttention)),
    planted("attention-batch-first", CAUSAL, layer(faults.SelfAttention, masked=False,
        turned=True)),
]  # fmt: skip

_BODY = {"place": "1.body"}
LSTM = in_tokens("LSTM", _recurrent("LSTM"), layer(faults.Recurrent, faults.LSTM), **_BODY)
GRU = in_tokens("GRU", _recurrent("GRU"), layer(faults.Recurrent, faults.GRU), **_BODY)
RNN = in_tokens("RNN", _recurrent("RNN"), layer(faults.Recurrent, faults.Simple), **_BODY)
STARTED = in_tokens("LSTM with a state", _recurrent("LSTM", state=True),
    layer(faults.Recurrent, faults.LSTM, 0.3), **_BODY)  # fmt: skip
BOTH = in_tokens("LSTM in both directions", _recurrent("LSTM", hidden=4, bidirectional=True),
    layer(faults.BothWays, lambda a, b: jnp.concatenate([a, b], -1)), **_BODY)  # fmt: skip
DEEP = in_tokens("LSTM of two layers", _recurrent("LSTM", num_layers=2, dropout=0.3),
    layer(faults.Stacked, 0.3), **_BODY)  # fmt: skip

# One bias where torch has two learns half as fast besides.
_ONE_BIAS = (Fault("update", "one bias where torch's has two"),)

_RECURRENT: list[Plant] = [
    planted("rnn-gate-order", LSTM, layer(faults.Recurrent, faults.OtherGates), order="igfo"),
    planted("rnn-one-bias", LSTM, layer(faults.Recurrent, faults.OneBias), left_out="bias_hh"),
    planted("gru-reset-before", GRU, layer(faults.Recurrent, faults.ResetBefore)),
    planted("gru-bias-outside", GRU, layer(faults.Recurrent, nnx.GRUCell), more=_ONE_BIAS),
    planted("gru-update-complement", GRU, layer(faults.Recurrent, faults.Complement)),
    planted("rnn-batch-first", LSTM, layer(faults.Recurrent, faults.LSTM, time_major=True)),
    planted("rnn-state-ignored", STARTED, layer(faults.Recurrent, faults.LSTM)),
    planted("rnn-state-of-ones", LSTM, layer(faults.Recurrent, faults.LSTM, 1.0)),
    planted("rnn-directions", BOTH, layer(faults.BothWays, lambda a, b: jnp.concatenate(
        [b, a], -1)), form="swapped"),
    planted("rnn-dropout-missing", DEEP, layer(faults.Stacked, 0.0)),
    planted("rnn-nonlinearity", RNN, layer(faults.Recurrent, _relu_cell), function="relu"),
    planted("input-rounded", LINEAR, layer(faults.NarrowInput, 8, 8), rounded="the input",
        format="bfloat16"),
    planted("layer-gradient-stopped", LINEAR, layer(faults.NoGradient, 8, 8)),
    planted("gradient-scaled", LINEAR, layer(faults.TwiceGradient, 8, 8), factor=2.0),
]  # fmt: skip

LAYERS = [*_SHAPES, *_NORMS, *_FUNCTIONS, *_ATTENTION, *_RECURRENT]
PROGRAMS = [one for one in globals().values() if isinstance(one, Program)]
