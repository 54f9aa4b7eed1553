"""Faults of activations, dropout and embeddings."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.nn import functional
from jaxnet.parity._traps._trap import Trap, setting

GELU, ELU, LEAKY = ("GELU", "gelu"), ("ELU", "CELU", "elu", "celu"), ("LeakyReLU", "leaky_relu")
SOFTPLUS, HARDSIGMOID = ("Softplus", "softplus"), ("Hardsigmoid", "hardsigmoid")
SOFTMAX = ("Softmax", "LogSoftmax", "Softmin", "softmax", "log_softmax", "softmin")
ACTIVATIONS = (
    *(*GELU, *ELU, *LEAKY, *SOFTPLUS, *HARDSIGMOID),
    *("ReLU", "ReLU6", "SiLU", "Hardswish", "Mish", "Sigmoid", "Tanh", "SELU", "LogSigmoid"),
    *("relu", "relu6", "silu", "hardswish", "mish", "sigmoid", "tanh", "selu", "logsigmoid"),
)
DROPOUT = (
    *("Dropout", "Dropout1d", "Dropout2d", "Dropout3d"),
    *("dropout", "dropout1d", "dropout2d", "dropout3d"),
)
EMBEDDING = ("Embedding", "embedding")

BY_NAME: Mapping[str, Any] = {
    "ReLU": functional.relu,
    "ReLU6": functional.relu6,
    "SiLU": functional.silu,
    "Hardswish": functional.hardswish,
    "GELU": functional.gelu,
    "Mish": functional.mish,
    "Sigmoid": functional.sigmoid,
    "Hardsigmoid": functional.hardsigmoid,
    "Tanh": functional.tanh,
    "ELU": functional.elu,
    "SELU": functional.selu,
    "LeakyReLU": functional.leaky_relu,
    "Softplus": functional.softplus,
    "LogSigmoid": functional.logsigmoid,
}


def quick_gelu(x: Any) -> Any:
    return x * jax.nn.sigmoid(1.702 * x)


_GELUS: Mapping[str, Any] = {
    "none": functional.gelu,
    "tanh": lambda x: functional.gelu(x, "tanh"),
    "quick": quick_gelu,
}
_GELU_WORDS = ("none", "tanh", "quick")


def _other_gelus(layer: Any) -> Sequence[str]:
    own = layer.config.get("approximate", "none")
    return [name for name in _GELU_WORDS if name != own]


def _elementwise(layer: Any, function: Any) -> Any:
    return layer.instead(lambda p, x, *rest: function(x))


def _other_activations(layer: Any) -> list[str]:
    return [name for name in BY_NAME if name.lower() != layer.kind.lower().replace("_", "")]


def _softplus(layer: Any) -> Any:
    beta = layer.config.get("beta", 1.0)
    return _elementwise(layer, lambda x: jnp.logaddexp(beta * x, 0) / beta)


def _other_axes(layer: Any) -> list[int]:
    n = layer.input.ndim
    dim = layer.config.get("dim")
    # Without a dim torch takes axis 0 of arrays with 0, 1 or 3 axes, and axis 1 of others.
    own = (0 if n in (0, 1, 3) else 1) if dim is None else dim % n
    return [axis for axis in range(n) if axis != own]


def _log_or_not(layer: Any) -> Any:
    is_log = "log" in layer.kind.lower()
    return layer.then(jnp.exp if is_log else jnp.log)


def _rate(layer: Any, p: float) -> Any:
    own = layer.config["p"]
    if math.isclose(p, 1 - own, rel_tol=1e-9) or not 0 < p < 1:
        raise ValueError("it is the complement, or no probability")
    return layer.altered(p=p)


def _drops(config: Mapping[str, Any]) -> bool:
    return 0 < config.get("p", 0.5) < 1 and config.get("training", True)


def _masked(layer: Any, function: Any) -> Any:
    if not layer.draws:
        raise ValueError("nothing was drawn")
    return dataclasses.replace(layer, draws=tuple(function(mask) for mask in layer.draws))


def _per_channel(mask: Any) -> Any:
    if mask.ndim < 3 or math.prod(mask.shape[2:]) == 1:
        raise ValueError("there are no channels")
    first = mask[(slice(None), slice(None), *(slice(0, 1),) * (mask.ndim - 2))]
    return jnp.broadcast_to(first, mask.shape)


def _unscaled(layer: Any) -> Any:
    if not layer.draws:
        raise ValueError("nothing was drawn")
    return layer.then(lambda y: y * (1 - layer.config["p"]))


def _undropped(layer: Any) -> Any:
    if not layer.draws:
        raise ValueError("nothing was drawn")
    return layer.instead(lambda p, x: x)


def _scaled(layer: Any, by: str) -> Any:
    root = math.sqrt(layer.parameters["weight"].shape[1])
    return layer.then(lambda y: y * (root if by == "multiplied" else 1 / root))


def _offset(layer: Any, offset: int, beyond: str) -> Any:
    rows = layer.parameters["weight"].shape[0]
    given = layer.input + offset
    if beyond == "from the other end" and given.min() >= 0 and given.max() < rows:
        raise ValueError("no row number is beyond the end")
    if beyond == "the last":
        return layer.fed(lambda i: jnp.clip(i + offset, 0, rows - 1))
    return layer.fed(lambda i: (i + offset) % rows)


def _without_padding_row(layer: Any) -> Any:
    row = layer.config["padding_idx"]

    def run(inner: Any, p: Any, b: Any, x: Any) -> Any:
        y, b = inner(p, b, x)
        return jnp.where((x[layer.first] == row)[..., None], 0, y), b

    return layer.wrapped(run)


def _has_padding_row(config: Mapping[str, Any]) -> bool:
    return config.get("padding_idx") is not None


TRAPS = (
    Trap(
        "gelu-form",
        GELU,
        lambda layer, form: _elementwise(layer, _GELUS[form]),
        "The GELU is the form {form!r} (none: exact, tanh: by tanh, quick: x sigmoid(1.702 x)); "
        "torch's is {torch[approximate]!r}.",
        "In flax write nnx.gelu(x, approximate=False) for torch's 'none', and approximate=True for "
        "its 'tanh'.",
        options={"form": _other_gelus},
    ),
    Trap(
        "leaky-slope",
        LEAKY,
        setting(),
        "The slope is {negative_slope:.4g}; torch's is {torch[negative_slope]:.4g}.",
        "Give negative_slope={torch[negative_slope]:.4g}.",
        constants={"negative_slope": (0.01, 0.2, 0.3, 0.1)},
    ),
    Trap(
        "elu-alpha",
        ELU,
        setting(),
        "The alpha is {alpha:.4g}; torch's is {torch[alpha]:.4g}.",
        "Give alpha={torch[alpha]:.4g}.",
        constants={"alpha": (1.0, 0.5, 1.6732632423543772)},
    ),
    Trap(
        "softplus-threshold",
        SOFTPLUS,
        _softplus,
        "The softplus has no threshold; torch's is the identity above {torch[threshold]}.",
        "Return x where beta x > {torch[threshold]}.",
    ),
    Trap(
        "softplus-beta",
        SOFTPLUS,
        setting(),
        "The beta is {beta:.4g}; torch's is {torch[beta]:.4g}.",
        "Divide by beta what is computed of beta x, with beta={torch[beta]:.4g}.",
        constants={"beta": (1.0, 100.0, 10.0)},
    ),
    Trap(
        "hardsigmoid-slope",
        HARDSIGMOID,
        lambda layer, slope: _elementwise(layer, lambda x: jnp.clip(slope * x + 0.5, 0, 1)),
        "The slope of the hard sigmoid is {slope:.4g}; torch's is 1/6.",
        "Write jnp.clip(x / 6 + 0.5, 0, 1).",
        constants={"slope": (0.2, 0.25)},
    ),
    Trap(
        "activation-other",
        ACTIVATIONS,
        lambda layer, activation: _elementwise(layer, BY_NAME[activation]),
        "The activation is {activation}; torch's is another.",
        "Use torch's activation.",
        options={"activation": _other_activations},
    ),
    Trap(
        "softmax-axis",
        SOFTMAX,
        lambda layer, axis: layer.altered(dim=axis),
        "The softmax is over axis {axis}; torch's is over axis {torch[dim]}.",
        "Give axis={torch[dim]}.",
        options={"axis": _other_axes},
    ),
    Trap(
        "softmax-log",
        SOFTMAX,
        _log_or_not,
        "The logarithm of the softmax and the softmax are mistaken for each other.",
        "Use log_softmax where torch has LogSoftmax, and softmax where it has Softmax.",
    ),
    Trap(
        "log-base",
        ("log",),
        lambda layer, base: layer.then(lambda y: y / math.log(base)),
        "The logarithm has the base {base}; torch's is the natural one.",
        "Write jnp.log(x).",
        options={"base": (2, 10)},
    ),
    Trap(
        "layer-omitted",
        (*ACTIVATIONS, *("LayerNorm", "RMSNorm", "GroupNorm", "layer_norm", "rms_norm")),
        lambda layer: layer.instead(lambda p, x, *rest: x),
        "The input is returned as it is; torch's layer changes it.",
        "Call the layer where torch's program calls it.",
    ),
    Trap(
        "dropout-keep",
        DROPOUT,
        lambda layer: layer.altered(p=1 - layer.config["p"]),
        "The probability {torch[p]} is taken for that of keeping a number; torch's is that of "
        "zeroing one.",
        "Give rate={torch[p]}, or keep_prob=1 - {torch[p]}.",
        when=lambda config: _drops(config) and config["p"] != 0.5,
    ),
    Trap(
        "dropout-rate",
        DROPOUT,
        _rate,
        "The kept numbers are scaled for the rate {p:.4g}; torch's is {torch[p]}.",
        "Give rate={torch[p]}.",
        when=_drops,
        constants={"p": (0.1, 0.2, 0.25, 0.3, 0.5)},
    ),
    Trap(
        "dropout-unscaled",
        DROPOUT,
        _unscaled,
        "The kept numbers are not scaled; torch multiplies them by 1 / (1 - p).",
        "Divide the kept numbers by 1 - {torch[p]}.",
        when=_drops,
    ),
    Trap(
        "dropout-inactive",
        DROPOUT,
        _undropped,
        "Nothing is dropped, as in evaluation; torch's layer is in training mode.",
        "Give deterministic=False in training.",
        when=_drops,
    ),
    Trap(
        "dropout-polarity",
        DROPOUT,
        lambda layer: _masked(layer, lambda mask: 1 - jnp.asarray(mask).astype(int)),
        "What torch keeps is dropped, and what it drops is kept.",
        "Keep the numbers where the mask is True: jnp.where(mask, x / (1 - p), 0).",
        when=_drops,
    ),
    Trap(
        "dropout-per-channel",
        ("Dropout", "dropout"),
        lambda layer: _masked(layer, _per_channel),
        "Whole channels are dropped together; torch's layer drops single numbers.",
        "Leave out broadcast_dims.",
        when=_drops,
    ),
    Trap(
        "embedding-scaled",
        EMBEDDING,
        _scaled,
        "The rows are {by} by the root of their width; torch's layer gives them as they are.",
        "Leave the factor out, or apply it where torch's program does.",
        options={"by": ("multiplied", "divided")},
    ),
    Trap(
        "embedding-padding-gradient",
        EMBEDDING,
        setting(padding_idx=None),
        "The row padding_idx={torch[padding_idx]} gets a gradient; in torch it gets none.",
        "Stop the gradient where the index is {torch[padding_idx]}.",
        when=_has_padding_row,
    ),
    Trap(
        "embedding-padding-zero",
        EMBEDDING,
        _without_padding_row,
        "The row padding_idx={torch[padding_idx]} is given as zeros; torch gives it as it is, and "
        "a program that sets the weights itself has other numbers there.",
        "Give the row as it is.",
        when=_has_padding_row,
    ),
    Trap(
        "embedding-max-norm",
        EMBEDDING,
        setting(max_norm=None),
        "Rows are given as they are; torch first scales those down whose norm is above "
        "{torch[max_norm]}.",
        "Scale the rows down before they are looked up.",
        when=lambda config: config.get("max_norm") is not None,
    ),
    Trap(
        "embedding-offset",
        EMBEDDING,
        _offset,
        "The row numbers are moved by {offset}, beyond the end to {beyond}; torch's are not.",
        "Look the rows up under torch's numbers: positions of OPT and BART begin at 2, and a row "
        "for unknown words may come first.",
        options={"offset": (-2, -1, 1, 2), "beyond": ("the last", "from the other end")},
    ),
)
