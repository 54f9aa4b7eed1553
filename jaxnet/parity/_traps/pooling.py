"""Faults of pooling."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnet.nn import functional
from jaxnet.parity._traps._trap import Trap
from jaxnet.parity._traps.linear import each, has_padding, padded, same_pads

AVG = ("AvgPool1d", "AvgPool2d", "AvgPool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
MAX = ("MaxPool1d", "MaxPool2d", "MaxPool3d", "max_pool1d", "max_pool2d", "max_pool3d")
ADAPTIVE = tuple(
    form.format(n)
    for kind in ("Avg", "Max")
    for form in (f"Adaptive{kind}Pool{{}}d", f"adaptive_{kind.lower()}_pool{{}}d")
    for n in (1, 2, 3)
)


def _kind(layer: Any) -> list[str]:
    """What else a pool may give of its windows."""
    return ["average" if "max" in layer.kind.lower() else "maximum"]


def _axes(layer: Any) -> int:
    return int(layer.kind[-2])


def _window(layer: Any) -> tuple[Sequence[int], ...]:
    n, config = _axes(layer), layer.config
    window = each(config["kernel_size"], n)
    # Torch's functions have [] for a stride that is not given.
    stride = config.get("stride") or window
    return layer.input.shape[-n:], window, each(stride, n), each(config.get("dilation", 1), n)


def _outside(layer: Any) -> float:
    return -np.inf if layer.kind in MAX else 0.0


def _same(layer: Any) -> Any:
    return padded(layer, same_pads(*_window(layer)), _outside(layer))


def _zeros(layer: Any) -> Any:
    n = _axes(layer)
    return padded(layer, [(p, p) for p in each(layer.config["padding"], n)])


def _divisors(layer: Any) -> list[int | None]:
    own = layer.config.get("divisor_override")
    count = int(np.prod(each(layer.config["kernel_size"], _axes(layer))))
    return [n for n in (None, *range(1, 2 * count + 1)) if n not in (own, own or count)]


def _other(layer: Any, kind: str) -> Any:
    n, config = _axes(layer), layer.config
    name = f"{'avg' if kind == 'average' else 'max'}_pool{n}d"
    if layer.kind in ADAPTIVE:
        size = config["output_size"]
        adaptive = getattr(functional, f"adaptive_{name}")
        return layer.instead(lambda p, x: adaptive(x, size))
    function = getattr(functional, name)
    arguments = [config["kernel_size"], config.get("stride") or None, config.get("padding", 0)]
    return layer.instead(lambda p, x: function(x, *arguments))


TRAPS = (
    Trap(
        "pool-count-padding",
        AVG,
        lambda layer: layer.altered(
            count_include_pad=not layer.config.get("count_include_pad", True)
        ),
        "The zeros of the padding count in the divisor, or do not, the other way around than in "
        "torch, where count_include_pad={torch[count_include_pad]}.",
        "Give count_include_pad={torch[count_include_pad]}.",
        when=has_padding,
    ),
    Trap(
        "pool-ceil-mode",
        (*AVG, *MAX),
        lambda layer: layer.altered(ceil_mode=not layer.config.get("ceil_mode", False)),
        "The number of windows is rounded the other way than in torch, where "
        "ceil_mode={torch[ceil_mode]}.",
        "Pad the input at the end so that the last window is there, or leave it out.",
    ),
    Trap(
        "pool-zero-padding",
        MAX,
        _zeros,
        "The padding is zeros, which win where all numbers are negative; torch pads with minus "
        "infinity.",
        "Pad with -inf.",
        when=has_padding,
    ),
    Trap(
        "pool-same-padding",
        (*AVG, *MAX),
        _same,
        "The padding is XLA's SAME; torch's is {torch[padding]} on both sides.",
        "Give the padding in numbers, for each side.",
    ),
    Trap(
        "pool-no-padding",
        (*AVG, *MAX),
        lambda layer: layer.altered(padding=0),
        "There is no padding; torch's is {torch[padding]} on both sides.",
        "Give the padding {torch[padding]}.",
        when=has_padding,
    ),
    Trap(
        "pool-stride-one",
        (*AVG, *MAX),
        lambda layer: layer.altered(stride=1),
        "The stride is 1, which is flax's default; torch's default is the size of the window.",
        "Give strides={torch[kernel_size]}.",
    ),
    Trap(
        "pool-divisor",
        AVG,
        lambda layer, divisor: layer.altered(divisor_override=divisor),
        "The sums are divided by {divisor}; torch's divisor_override is {torch[divisor_override]} "
        "(None: the number of elements).",
        "Divide the sums as torch does.",
        when=lambda config: "divisor_override" in config,
        options={"divisor": _divisors},
    ),
    Trap(
        "pool-kind",
        (*AVG, *MAX, *ADAPTIVE),
        _other,
        "It is the {kind} of each window, which torch's layer does not give.",
        "Use max_pool for MaxPool and avg_pool for AvgPool.",
        options={"kind": _kind},
    ),
)
