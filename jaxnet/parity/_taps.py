"""Functions that change nothing but what goes forward or what comes back: torch's in its place."""

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def replaced_output(own: Any, recorded: Any, gradient: Any, noted: Any) -> Any:
    """torch's output; its gradient, as it arrives, is that of `noted`, and is replaced."""
    return recorded


replaced_output.defvjp(
    lambda own, recorded, gradient, noted: (recorded, gradient),
    lambda gradient, ct: (ct if gradient is None else gradient, None, None, ct),
)


@jax.custom_vjp
def reached(loss: Any, outputs: Any) -> Any:
    """The loss, which is said to depend on the outputs: by nothing, but through all of them.

    So the backward pass comes to every call, with torch's gradient of its output, also where what
    follows the call passes none back.
    """
    return loss


reached.defvjp(
    lambda loss, outputs: (loss, outputs),
    lambda outputs, ct: (ct, [jnp.zeros_like(output) for output in outputs]),
)


@jax.custom_vjp
def replaced_input(own: Any, recorded: Any, noted: Any) -> Any:
    """torch's argument; the gradient goes to the program's own, and is that of `noted` too."""
    return recorded


replaced_input.defvjp(
    lambda own, recorded, noted: (recorded, None),
    lambda _, ct: (ct, None, ct),
)


@jax.custom_vjp
def tapped(own: Any, noted: Any) -> Any:
    """The array itself, whose gradient is that of `noted` too."""
    return own


tapped.defvjp(lambda own, noted: (own, None), lambda _, ct: (ct, ct))
