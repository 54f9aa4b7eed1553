"""Faults of the functions between layers, which are made for each recorded call."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnet.parity._traps._trap import Trap
from jaxnet.parity._traps.activations import BY_NAME
from jaxnet.parity._tree import leaves

# Functions whose numbers are part of the arithmetic, and not axes or sizes.
_ARITHMETIC = {
    *("add", "sub", "mul", "div", "pow", "rsub", "rdiv", "rpow", "radd", "rmul", "true_divide"),
    *("multiply", "subtract", "divide", "clamp", "clip", "clamp_min", "clamp_max", "masked_fill"),
    *("leaky_relu", "threshold", "addcmul", "addcdiv", "lerp", "truediv"),
}
_REDUCTIONS: Mapping[str, Any] = {
    "mean": jnp.mean,
    "sum": jnp.sum,
    "amax": jnp.max,
    "amin": jnp.min,
}
_SWAPPED = {"sub", "div", "matmul", "cat", "bmm", "subtract", "divide", "pow"}


def lifted(row: Trap, index: int, where: str) -> Trap:
    """A row about a function as one about a region that has it."""

    def own(choice: Any) -> Any:
        if not callable(choice):
            return choice
        return lambda region: choice(region.layers[index])

    def text(words: str) -> str:
        return words.replace("{torch[", f"{{torch[{index}][")

    return dataclasses.replace(
        row,
        kinds=("region",),
        change=lambda region, **values: region.changed(
            index, lambda layer: row.change(layer, **values)
        ),
        words=where.replace("{", "{{").replace("}", "}}") + text(row.words),
        fix=text(row.fix),
        when=lambda config: row.when(config[index]),  # type: ignore[index]
        options={name: own(choice) for name, choice in row.options.items()},
    )


def rows_of_function(index: int, layer: Any, where: str) -> list[Trap]:
    """Rows that any function has: its numbers, its axis, its operands, its absence."""

    def row(name: str, change: Any, words: str, fix: str, **more: Any) -> Trap:
        return Trap(
            name,
            ("region",),
            lambda region, **values: region.changed(index, partial(change, **values)),
            where + words,
            fix,
            **more,
        )

    rows = []
    arithmetic = layer.kind in _ARITHMETIC
    for name, value in layer.config.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and (arithmetic or isinstance(value, float)) and np.isfinite(value):
            rows.append(
                row(
                    "function-number",
                    lambda layer, value, name=name: layer.altered(**{name: value}),
                    f"{name} is {{value:.6g}}; torch's is {value:.6g}.",
                    f"Write {value:.6g}.",
                    constants={"value": (1.0, 1e-5, 1e-6, float(value))},
                )
            )
        if name in ("dim", "axis") and isinstance(value, int) and hasattr(layer.input, "ndim"):
            axes = [a for a in range(layer.input.ndim) if a != value % layer.input.ndim]
            rows.append(
                row(
                    "function-axis",
                    lambda layer, axis, name=name: layer.altered(**{name: axis}),
                    f"it is along axis {{axis}}; torch's is along axis {value}.",
                    f"Give axis={value}.",
                    options={"axis": axes},
                )
            )
    if layer.kind in _REDUCTIONS:
        rows.append(
            row(
                "function-reduction",
                _reduced,
                f"it is the {{reduction}}; torch's is the {layer.kind}.",
                f"Take the {layer.kind}.",
                options={"reduction": [kind for kind in _REDUCTIONS if kind != layer.kind]},
            )
        )
    arrays = [a for _, a in leaves(dict(layer.inputs)) if hasattr(a, "shape")]
    if len(arrays) > 1 and layer.kind in _SWAPPED:
        rows.append(row("operands-swapped", _swapped, "the operands are swapped.", "Swap them."))
    rows.append(
        row(
            "function-omitted",
            lambda layer: layer.instead(lambda p, x, *rest: x),
            "it is left out.",
            "Do what torch's program does there.",
        )
    )
    return rows


def _reduced(layer: Any, reduction: str) -> Any:
    axes = layer.config.get("dim", layer.config.get("axis"))
    axes = tuple(axes) if isinstance(axes, list) else axes
    keep = bool(layer.config.get("keepdim", False))
    return layer.instead(lambda p, x: _REDUCTIONS[reduction](x, axis=axes, keepdims=keep))


def _swapped(layer: Any) -> Any:
    first, *others = layer.inputs
    if not others:
        value = layer.inputs[first]
        return dataclasses.replace(layer, inputs={first: type(value)(reversed(value))})
    second = others[0]
    return dataclasses.replace(
        layer, inputs={**layer.inputs, first: layer.inputs[second], second: layer.inputs[first]}
    )


def _pairs(x: Any) -> Any:
    """Neighbours along the last axis, in halves: 0, 2, 4, ..., 1, 3, 5, ..."""
    return jnp.concatenate([x[..., ::2], x[..., 1::2]], -1)


def _halves(x: Any) -> Any:
    """Halves of the last axis, as neighbours."""
    return jnp.stack(jnp.split(x, 2, -1), -1).reshape(x.shape)


def rows_of_region(shape: tuple[int, ...], length: int) -> list[Trap]:
    """Rows of a region as a whole.

    Args:
        shape: The shape of its result.
        length: The number of its functions.
    """
    rows = [
        Trap(
            "activation-added",
            ("region",),
            lambda region, activation: _after(region, BY_NAME[activation]),
            "There is a {activation} more than in torch's program.",
            "Leave it out.",
            options={"activation": list(BY_NAME)},
        ),
        Trap(
            "value-scaled",
            ("region",),
            lambda region, factor: _after(region, lambda y: y * factor),
            "The result is multiplied by {factor:.7g}; torch's is not.",
            "Leave the factor out.",
            constants={"factor": (2.0, 0.5, 1.0)},
        ),
        Trap(
            "value-moved",
            ("region",),
            lambda region, offset: _after(region, lambda y: y + offset),
            "The result is moved by {offset:.7g}; torch's is not.",
            "Leave the offset out: positions of OPT and BART begin at 2, torch's at 0.",
            constants={"offset": (1.0, -1.0, 2.0)},
        ),
    ]
    if shape and shape[-1] % 2 == 0 and length > 3:

        def turned(region: Any, order: str) -> Any:
            before, after = (_pairs, _halves) if order == "neighbours" else (_halves, _pairs)

            def first(site: str, x: Any) -> Any:
                return before(x) if x.shape == shape else x

            return dataclasses.replace(region, around=(first, after))

        rows.append(
            Trap(
                "rotary-order",
                ("region",),
                turned,
                "Rotary positions turn pairs of {order}; torch's turn the others (the numbers of a "
                "pair are neighbours, or lie half the width apart).",
                "Pair the numbers as torch's program does: x[..., ::2] with x[..., 1::2], or the "
                "two halves.",
                options={"order": ("neighbours", "halves")},
            )
        )
    return rows


def _after(region: Any, function: Callable[[Any], Any]) -> Any:
    first, last = region.around
    return dataclasses.replace(region, around=(first, lambda y: function(last(y))))
