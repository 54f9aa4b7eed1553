"""Faults in some numbers only, two at once, of plain flax, and some that no catalogue has."""

import dataclasses
from typing import Any

from tests.parity import faulty_layers as faulty
from tests.parity import flax_layers as flax
from tests.parity.architectures import WIDTH, WORDS, Layer, Recipe, Task, chain, layer
from tests.parity.planted_layers import CONV, FIRST, SIZES, outputs
from tests.parity.planted_training import DECAY, STEP, adam, sgd, trained
from tests.parity.plants import Plant, image, in_image, in_text, in_vector, plant, text, vector

_LINEAR = layer("Linear", 8, 8)
_NORMED = chain(layer("LayerNorm", 8), layer("Linear", 8, 8), layer("Tanh"), kind="Residual")
_BODY = _NORMED.parts[0].parts
_MOMENTUM = {"momentum": 0.9}
_LSTM = outputs("LSTM", *SIZES, **FIRST)


def _embedded(name: str, kind: str, first: Layer, says: str = "") -> Plant:
    """Another embedding."""
    network = chain(first, layer("Tanh"), layer("Linear", WIDTH, WORDS))
    right = text(layer("Tanh"))
    return plant(name, kind, right, dataclasses.replace(right, network=network), ("0", says))


def _short(loss: Any) -> Task:
    return vector(layer("Tanh"), loss=(loss, {}), missing=2)


PARTIAL = [
    in_vector("gradient only", _LINEAR, layer(faulty.GradientOnly, 8, 8), "", "partial"),
    in_text("second output only", _LSTM, outputs(faulty.SecondOutput, *SIZES, **FIRST), "",
        "partial"),
    in_image("border only", layer("Conv2d", 4, 4, 3, **CONV),
        layer(faulty.BorderOnly, 4, 4, 3, **CONV), "", "partial"),
    in_image("buffer only", layer("BatchNorm2d", 4), layer(faulty.Biased, 4), "bias", "partial"),
    _embedded("one token only", "partial", layer(faulty.FirstToken, WORDS, WIDTH)),
    in_text("last position only", _LINEAR, layer(faulty.LastPosition, 8, 8), "", "partial"),
    plant("last batch only", "partial", _short("mse_loss"), _short(faulty.fixed_divisor),
        ("loss", "", 2)),
    trained("from step 2 on only", "partial", Recipe(sgd(), STEP), Recipe(sgd()), "update|lr",
        "constant|schedule|learning rate", 2),
    plant("one parameter's update only", "partial", vector(layer("Tanh")),
        vector(layer("Tanh"), Recipe((faulty.biases_faster, {"lr": 0.1}))), ("update:0.bias", "")),
]  # fmt: skip

TWO = [
    plant("LayerNorm eps and mse sum", "two", vector(layer("LayerNorm", 8)),
        vector(layer("LayerNorm", 8, eps=1e-06), loss=("mse_loss", {"reduction": "sum"})),
        ("1", "1e-06"), ("loss", "sum")),
    plant("GELU and AdamW", "two", vector(layer("GELU"), Recipe(adam(**DECAY))),
        vector(layer("GELU", approximate="tanh"), Recipe(("AdamW", {"lr": 0.01, **DECAY}))),
        ("1", "tanh"), ("update", "decoupled|AdamW")),
    plant("BatchNorm eps and momentum", "two", image(layer("BatchNorm2d", 4)),
        image(layer("BatchNorm2d", 4, eps=0.001, momentum=0.9)), ("1", "0.001"),
        ("1", "momentum")),
    plant("pool and activation", "two", image(layer("AvgPool2d", 3, 2, 1), layer("LeakyReLU", 0.2)),
        image(layer("AvgPool2d", 3, 2, 1, count_include_pad=False), layer("LeakyReLU")),
        ("1", "count|padding"), ("2", "0.01")),
    plant("momentum and clipping", "two",
        vector(layer("Tanh"), Recipe(sgd(**_MOMENTUM), clip=("norm", 0.1))),
        vector(layer("Tanh"), Recipe(sgd(**_MOMENTUM, nesterov=True), clip=("value", 0.1))),
        ("clip|update", "[Ee]ach element"), ("update", "esterov")),
]  # fmt: skip

INVENTED = [
    in_vector("a residual halved", _NORMED,
        Layer("Residual", parts=(Layer(faulty.Halved, parts=_BODY),)), "", "invented"),
    in_vector("norm after the sum", _NORMED,
        Layer(faulty.PostNorm, parts=(chain(*_BODY),)), "", "invented"),
    in_vector("tanh of all but one", layer("Tanh"), layer(faulty.PartTanh), "", "invented"),
    in_vector("LeCun's tanh", layer("Tanh"), layer(faulty.ScaledTanh), "", "invented"),
    in_vector("weights standardised", _LINEAR, layer(faulty.Standardised, 8, 8), "", "invented"),
    in_vector("rounded to bfloat16", _LINEAR, layer(faulty.Rounded, 8, 8), "", "invented"),
    in_text("sequence moved by one", _LSTM, outputs(faulty.Moved, *SIZES, **FIRST), "",
        "invented"),
    in_image("channels in another order", layer("MaxPool2d", 2), layer(faulty.Rolled, 2), "",
        "invented"),
    in_text("attention with a zero key", layer("SelfAttention", WIDTH, 2),
        layer(faulty.ZeroKey, WIDTH, 2), "", "invented"),
    plant("a penalty in the loss", "invented", vector(layer("Tanh")),
        vector(layer("Tanh"), loss=(faulty.with_penalty, {})), ("loss", "")),
    trained("gradients averaged with the last ones", "invented", Recipe(sgd()),
        Recipe((faulty.smoothed, {"lr": 0.1})), "update", ""),
    trained("rate falls with the norm", "invented", Recipe(sgd()),
        Recipe((faulty.trusting, {"lr": 0.1})), "update", ""),
]  # fmt: skip


def _in_flax(name: str, host: Any, middle: Layer, mine: Layer, says: str, at: str = "1",
             flat: Any = None, steps: int = 3) -> Plant:  # fmt: skip
    """A network of plain flax whose second layer is another than PyTorch's."""
    right = host(middle)
    wrong = dataclasses.replace(right, network=_ported(right.network, mine, flat))
    faults = [(at, says)] if says else []
    return plant(f"flax: {name}", "flax", right, wrong, *faults, steps=steps)


def _ported(network: Layer, mine: Layer, flat: Any) -> Layer:
    """The same chain with flax's layers, the given one in the second place."""
    kinds = {"Linear": flax.Linear, "Embedding": flax.Embedding, "Conv2d": flax.Conv2d}
    functions = {"Flatten": flat or (lambda x: x.reshape(x.shape[0], -1)), "Tanh": flax.tanh,
                 "AdaptiveAvgPool2d": flax.pool_to_2}  # fmt: skip
    parts = []
    for i, part in enumerate(network.parts):
        if i == 1:
            parts.append(mine)
        elif part.kind in functions:
            parts.append(layer(flax.Applied, functions[part.kind]))
        else:
            parts.append(layer(kinds[part.kind], *part.arguments, **part.options))
    return Layer(flax.Chain, parts=tuple(parts))


FLAX = [
    _in_flax("nothing", vector, _LINEAR, layer(flax.Linear, 8, 8), ""),
    _in_flax("LayerNorm", vector, layer("LayerNorm", 8), layer(flax.LayerNorm, 8), "1e-06"),
    _in_flax("RMSNorm", vector, layer("RMSNorm", 8), layer(flax.RMSNorm, 8, bias=False), "1e-06"),
    _in_flax("GroupNorm", image, layer("GroupNorm", 2, 4), layer(flax.GroupNorm, 4, num_groups=2),
        "1e-06"),
    _in_flax("BatchNorm", image, layer("BatchNorm2d", 4), layer(flax.BatchNorm2d, 4),
        "momentum|biased", at="1"),
    _in_flax("gelu", vector, layer("GELU"), layer(flax.Applied, flax.gelu), "tanh"),
    _in_flax("leaky_relu", vector, layer("LeakyReLU", 0.2), layer(flax.Applied, flax.leaky_relu),
        "0.01"),
    _in_flax("softmax", vector, layer("Softmax", dim=0), layer(flax.Applied, flax.softmax),
        "dim|ax"),
    _in_flax("Conv, SAME at stride 2", image, layer("Conv2d", 4, 4, 3, stride=2, padding=1),
        layer(flax.Conv2d, 4, 4, 3, strides=2), "SAME|pad"),
    _in_flax("ConvTranspose", image, layer("ConvTranspose2d", 4, 4, 3, stride=2, padding=1),
        layer(flax.ConvTranspose2d, 4, 4, 3, strides=2, padding=((1, 1), (1, 1))), "flip"),
    _in_flax("avg_pool", image, layer("AvgPool2d", 3, 2, 1, count_include_pad=False),
        layer(flax.Applied, flax.avg_pool), "count_include_pad|padding"),
    _in_flax("flatten", image, layer("MaxPool2d", 2), layer(flax.Applied, flax.max_pool),
        "H, W, C|order|permut", at="3", flat=flax.flatten),
]  # fmt: skip
