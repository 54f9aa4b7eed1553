"""Faults of any layer: what goes into it is rounded, what comes back through it is changed."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.parity._traps._trap import Trap


def _places(layer: Any) -> list[str]:
    return [layer.first, *layer.parameters]


def _stopped(layer: Any, place: str) -> Any:
    if place in layer.parameters:
        return layer.with_parameters(**{place: jax.lax.stop_gradient})
    return layer.fed(jax.lax.stop_gradient)


def _scaled(layer: Any, factor: float) -> Any:
    def scaled(y: Any) -> Any:
        return jax.tree.map(lambda a: factor * a + jax.lax.stop_gradient((1 - factor) * a), y)

    return layer.then(scaled)


def _rounded(layer: Any, rounded: str, format: str) -> Any:
    def fewer(x: Any) -> Any:
        return x.astype(format).astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    if rounded == "the input":
        return layer.fed(fewer)
    changes = dict.fromkeys(layer.parameters, fewer)
    return (layer.fed(fewer) if rounded == "all" else layer).with_parameters(**changes)


def _roundable(layer: Any) -> list[str]:
    return ["the input", "all", "the parameters"][: 3 if layer.parameters else 1]


TRAPS = (
    Trap(
        "input-rounded",
        ("layer",),
        _rounded,
        "Of what the layer is given, {rounded} is rounded to {format}; in torch it is float32.",
        "Leave out the cast, or give dtype=jnp.float32.",
        options={"rounded": _roundable, "format": ("bfloat16", "float16")},
    ),
    Trap(
        "layer-gradient-stopped",
        ("layer",),
        _stopped,
        "No gradient goes to {place}, as after stop_gradient (a digit is the argument in this "
        "place); in torch one does.",
        "Leave out stop_gradient, and differentiate by all parameters.",
        options={"place": _places},
    ),
    Trap(
        "gradient-scaled",
        ("layer",),
        _scaled,
        "The gradient is multiplied by {factor:.6g} on its way back; torch's is not.",
        "Leave the factor out of the backward pass.",
        constants={"factor": (2.0, 0.5, -1.0, 1.0)},
    ),
)
