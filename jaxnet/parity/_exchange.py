"""torch's numbers in the place of a program's own, in its forward and its backward pass."""

from typing import Any

import jax


@jax.custom_vjp
def output(own: Any, recorded: Any, gradient: Any, noted: Any) -> Any:
    """torch's output; its gradient, as it arrives, is that of `noted`, and is replaced."""
    return recorded


output.defvjp(
    lambda own, recorded, gradient, noted: (recorded, gradient),
    lambda gradient, ct: (ct if gradient is None else gradient, None, None, ct),
)


@jax.custom_vjp
def given(own: Any, recorded: Any, noted: Any) -> Any:
    """torch's argument; the gradient goes to the program's own, and is that of `noted` too."""
    return recorded


given.defvjp(
    lambda own, recorded, noted: (recorded, None),
    lambda _, ct: (ct, None, ct),
)


@jax.custom_vjp
def tapped(own: Any, noted: Any) -> Any:
    """The array itself, whose gradient is that of `noted` too."""
    return own


tapped.defvjp(lambda own, noted: (own, None), lambda _, ct: (ct, ct))
