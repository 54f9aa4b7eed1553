"""Faults of the backward pass of any layer, whose outputs are right."""

from typing import Any

import jax

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


TRAPS = (
    Trap(
        "gradient-stopped",
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
