"""Functions that have torch's slope where they bend, which JAX's do not."""

import jax
import jax.numpy as jnp


def absolute(x: jax.Array) -> jax.Array:
    """|x| with the slope 0 at 0 (jnp.abs has 1 there)."""
    return jnp.where(x == 0, 0, jnp.abs(x))


def clamp_min_0(x: jax.Array) -> jax.Array:
    """max(x, 0) with the slope 1 at 0 (jnp.maximum has 1/2 there, relu 0)."""
    return jnp.where(x < 0, 0, x)
