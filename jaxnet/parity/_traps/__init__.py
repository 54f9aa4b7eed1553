"""The catalogue of known differences between torch programs and their JAX ports.

Each file has a tuple TRAPS, whose rows join by being written there, with a planted test in
tests/parity/test_traps_*.py.
"""

from jaxnet.parity._traps import (
    activations,
    attention,
    backward,
    gradients,
    linear,
    losses,
    moments,
    norms,
    optimizers,
    pooling,
    preflight,
    recurrent,
    schedules,
)
from jaxnet.parity._traps._trap import Hypothesis, Reference, Trap

__all__ = ["ALL", "Hypothesis", "Reference", "Trap", "traps_of"]

ALL: tuple[Trap, ...] = (
    *linear.TRAPS,
    *pooling.TRAPS,
    *norms.TRAPS,
    *activations.TRAPS,
    *attention.TRAPS,
    *recurrent.TRAPS,
    *backward.TRAPS,
    *losses.TRAPS,
    *optimizers.TRAPS,
    *moments.TRAPS,
    *gradients.TRAPS,
    *schedules.TRAPS,
    *preflight.TRAPS,
)


def traps_of(kind: str) -> tuple[Trap, ...]:
    """The traps of a kind of reference, such as "LayerNorm" or "gelu"."""
    return tuple(trap for trap in ALL if kind in trap.kinds)
