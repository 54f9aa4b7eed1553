"""Faults of single layers."""

import dataclasses
from typing import Any

from tests.parity import faulty_layers as faulty
from tests.parity.architectures import WIDTH, WORDS, Layer, chain, layer
from tests.parity.plants import image, in_image, in_text, in_vector, plant, text

CONV = {"padding": 1}
SIZES = (WIDTH, WIDTH)
FIRST = {"batch_first": True}
_SELF = layer("SelfAttention", WIDTH, 2)


def outputs(*given: Any, **options: Any) -> Layer:
    """A recurrent layer without its last state."""
    return Layer("Outputs", parts=(layer(*given, **options),))


def _attending(**fault: Any) -> Layer:
    return layer(faulty.Attending, WIDTH, 2, fault)


LAYERS = [
    in_vector("Linear, no bias", layer("Linear", 8, 8), layer(faulty.NoBias, 8, 8), "bias"),
    in_vector("Linear, bias twice", layer("Linear", 8, 8), layer(faulty.DoubledBias, 8, 8), "bias"),
    in_vector("Linear, transposed", layer("Linear", 8, 8), layer(faulty.Transposed, 8, 8),
        "transpose"),
    in_image("Conv2d, no bias", layer("Conv2d", 4, 4, 3, **CONV), layer(faulty.NoConvBias, 4, 4,
        3, **CONV), "bias"),
    in_image("Conv2d, kernel flipped", layer("Conv2d", 4, 4, 3, **CONV), layer(faulty.Flipped, 4,
        4, 3, **CONV), "flip"),
    in_image("Conv2d, SAME at stride 2", layer("Conv2d", 4, 4, 3, stride=2, **CONV),
        layer(faulty.SameAtStride2, 4, 4, 3, stride=2, **CONV), "SAME|pad"),
    in_image("Conv2d, padding mode", layer("Conv2d", 4, 4, 3, **CONV), layer("Conv2d", 4, 4, 3,
        padding_mode="reflect", **CONV), "reflect"),
    in_image("Conv2d, dilation", layer("Conv2d", 4, 4, 3, padding=2, dilation=2), layer("Conv2d",
        4, 4, 3, padding=1), "dilat"),
    in_image("Conv2d, groups interleaved", layer("Conv2d", 4, 4, 3, groups=2, **CONV),
        layer(faulty.GroupsInterleaved, 4, 4, 3, groups=2, **CONV), "group"),
    in_image("Conv2d, stride (H, W)", layer("Conv2d", 4, 4, 3, stride=(1, 2), **CONV),
        layer("Conv2d", 4, 4, 3, stride=(2, 1), **CONV), "stride"),
    plant("Flatten in H, W, C", "layer", image(layer("MaxPool2d", 4)),
        dataclasses.replace(image(layer("MaxPool2d", 4)), network=chain(layer("Conv2d", 3, 4, 3,
        padding=1), layer("MaxPool2d", 4), layer("AdaptiveAvgPool2d", 2),
        layer(faulty.ChannelsLast), layer("Linear", 16, 4))), ("3", "H, W, C|order|permut")),
    in_image("ConvTranspose2d, not flipped", layer("ConvTranspose2d", 4, 4, 3, stride=2),
        layer(faulty.NotFlipped, 4, 4, 3, stride=2), "flip"),
    in_image("AvgPool2d, count_include_pad", layer("AvgPool2d", 3, 2, 1), layer("AvgPool2d", 3, 2,
        1, count_include_pad=False), "count_include_pad|padding"),
    in_image("AvgPool2d, ceil_mode", layer("AvgPool2d", 3, 2), layer("AvgPool2d", 3, 2,
        ceil_mode=True), "ceil"),
    in_image("AvgPool2d, divisor", layer("AvgPool2d", 2), layer("AvgPool2d", 2,
        divisor_override=2), "divi|multiplied"),
    in_image("MaxPool2d, padded with zeros", layer("MaxPool2d", 3, 2, 1), layer(faulty.ZeroPadded,
        3, 2), "zero|pad"),
    in_image("average for max", layer("MaxPool2d", 2), layer("AvgPool2d", 2), "mean|averag"),
    in_vector("LayerNorm, eps", layer("LayerNorm", 8), layer("LayerNorm", 8, eps=1e-06), "1e-06"),
    in_image("BatchNorm2d, eps", layer("BatchNorm2d", 4), layer("BatchNorm2d", 4, eps=0.001),
        "0.001"),
    in_image("GroupNorm, eps", layer("GroupNorm", 2, 4), layer("GroupNorm", 2, 4, eps=1e-06),
        "1e-06"),
    in_vector("RMSNorm, eps", layer("RMSNorm", 8), layer("RMSNorm", 8, eps=1e-06), "1e-06"),
    in_image("BatchNorm2d, momentum", layer("BatchNorm2d", 4), layer("BatchNorm2d", 4,
        momentum=0.9), "momentum"),
    in_image("BatchNorm2d, biased variance", layer("BatchNorm2d", 4), layer(faulty.Biased, 4),
        "bias"),
    in_image("BatchNorm2d, statistics not updated", layer("BatchNorm2d", 4), layer(faulty.Frozen,
        4), "updat|statistic"),
    in_image("BatchNorm2d as InstanceNorm2d", layer("BatchNorm2d", 4, track_running_stats=False),
        layer("InstanceNorm2d", 4, affine=True), "nstance|axis|axes"),
    in_vector("LayerNorm over all axes", layer("LayerNorm", 8), layer(faulty.OverAllAxes, 8), "ax"),
    in_vector("LayerNorm, unbiased", layer("LayerNorm", 8), layer(faulty.Unbiased, 8), "unbiased"),
    in_vector("LayerNorm, eps outside", layer("LayerNorm", 8), layer(faulty.EpsilonOutside, 8),
        "root|eps"),
    in_vector("LayerNorm without mean", layer("LayerNorm", 8), layer(faulty.NoMean, 8), "mean"),
    in_vector("LayerNorm, no affine", layer("LayerNorm", 8), layer(faulty.NoAffine, 8),
        "affine|weight"),
    in_vector("LayerNorm, 1 + scale", layer("LayerNorm", 8), layer(faulty.ScalePlusOne, 8),
        "1 \\+|one"),
    in_image("GroupNorm, groups", layer("GroupNorm", 2, 4), layer("GroupNorm", 4, 4), "group"),
    in_vector("GELU, tanh", layer("GELU"), layer("GELU", approximate="tanh"), "tanh"),
    in_vector("GELU, erf", layer("GELU", approximate="tanh"), layer("GELU"), "exact|erf"),
    in_vector("GELU, quick", layer("GELU"), layer(faulty.QuickGELU), "1.702|quick|sigmoid"),
    in_vector("SiLU for GELU", layer("GELU"), layer(faulty.Silu), "SiLU|silu"),
    in_vector("LeakyReLU, slope", layer("LeakyReLU", 0.2), layer("LeakyReLU"), "0.01"),
    in_vector("ELU, alpha", layer("ELU", 0.7), layer("ELU"), "alpha"),
    in_vector("Softplus, beta", layer("Softplus", 2.0), layer("Softplus"), "beta"),
    in_vector("Softmax, axis", layer("Softmax", dim=1), layer(faulty.OtherAxis, dim=1), "ax|dim"),
    in_vector("Dropout, rate", layer("Dropout", 0.3), layer("Dropout", 0.2), "0.2|rate|prob"),
    in_vector("Dropout, not scaled", layer("Dropout", 0.3), layer(faulty.Unscaled, 0.3), "scal"),
    in_vector("Dropout, keep for drop", layer("Dropout", 0.3), layer(faulty.DropLess, 0.3),
        "keep|scal"),
    plant("Embedding, scaled", "layer", text(layer("Identity")),
        dataclasses.replace(text(layer("Identity")), network=chain(layer(faulty.ScaledEmbedding,
        WORDS, WIDTH), layer("Identity"), layer("Linear", WIDTH, WORDS))), ("0",
        "sqrt|root|scale")),
    plant("Embedding, positions moved", "layer", text(layer("Identity")),
        dataclasses.replace(text(layer("Identity")), network=chain(layer(faulty.MovedPositions,
        WORDS, WIDTH), layer("Identity"), layer("Linear", WIDTH, WORDS))), ("0",
        "offset|shift|moved")),
    plant("Embedding, padding_idx", "layer", dataclasses.replace(text(layer("Identity")),
        network=chain(layer("Embedding", WORDS, WIDTH, padding_idx=0), layer("Identity"),
        layer("Linear", WIDTH, WORDS))), text(layer("Identity")), ("0", "padding_idx"),
        ("before:0.weight", "")),  # torch sets the row of padding to zero
    in_text("attention, no scale", _SELF, _attending(scale=lambda m: 1.0), "scale"),
    in_text("attention, scale of E", _SELF, _attending(scale=lambda m: m.embed_dim ** (-0.5)),
        "scale"),
    in_text("attention, mask moved", _SELF, _attending(offset=1), "mask"),
    in_text("attention, no mask", _SELF, _attending(causal=False), "mask"),
    in_text("attention, heads in other order", _SELF, _attending(order="dims"), "head"),
    in_text("LSTM, gates in other order", outputs("LSTM", *SIZES, **FIRST),
        outputs(faulty.SwappedGates, *SIZES, **FIRST), "gate"),
    in_text("LSTM, starts at one", outputs("LSTM", *SIZES, **FIRST), outputs(faulty.StartsAtOne,
        *SIZES, **FIRST), "initial|start|state"),
    in_text("GRU, reset before", outputs("GRU", *SIZES, **FIRST), outputs(faulty.ResetBefore,
        *SIZES, **FIRST), "reset"),
    in_text("LSTM, batch_first", outputs("LSTM", *SIZES, **FIRST), outputs("LSTM", *SIZES),
        "batch_first"),
    in_text("RNN, ReLU", outputs("RNN", *SIZES, **FIRST), outputs("RNN", *SIZES,
        nonlinearity="relu", **FIRST), "relu|ReLU"),
]  # fmt: skip
