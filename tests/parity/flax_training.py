"""Optimizers of optax written by hand: torch's where optax has others, and ones with a fault."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Array = jax.Array
Rule = Callable[[Array, Array, dict[str, Array], Any], tuple[Array, dict[str, Array]]]


def by_rule(rule: Rule, *slots: str, initial: float = 0.0) -> Any:
    """A transformation of each parameter by itself.

    Args:
        rule: A function of the parameter, what came from the transformation before it (the
            gradient in the first one), the slots and the number of the update, from 1, that gives
            the change and the new slots.
        *slots: The names of what is kept of each parameter.
        initial: The first value of the slots.
    """

    def init(params: Any) -> Any:
        full = jax.tree.map(lambda p: jnp.full_like(p, initial), params)
        return jnp.zeros((), jnp.int32), dict.fromkeys(slots, full)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        t = state[0] + 1
        leaves, form = jax.tree.flatten(gradients)
        kept = {name: jax.tree.leaves(tree) for name, tree in state[1].items()}
        done = [
            rule(p, g, {name: kept[name][i] for name in slots}, t)
            for i, (p, g) in enumerate(zip(jax.tree.leaves(params), leaves, strict=True))
        ]
        after = {name: form.unflatten([new[name] for _, new in done]) for name in slots}
        return form.unflatten([change for change, _ in done]), (t, after)

    return optax.GradientTransformation(init, update)


def adam(lr: float = 1e-2, eps: float = 1e-8, correct: tuple[bool, bool] = (True, True),
         shift: int = 0, epsilon: str = "outside", largest: bool = False) -> Any:  # fmt: skip
    """torch's Adam, where nothing else is said."""

    def rule(p: Array, g: Array, kept: dict[str, Array], t: Any) -> Any:
        m, v = 0.9 * kept["m"] + 0.1 * g, 0.999 * kept["v"] + 0.001 * g**2
        top = jnp.maximum(kept["top"], v)
        one, two = (
            1 - b ** (t + shift).astype(p.dtype) if is_corrected else 1.0
            for b, is_corrected in zip((0.9, 0.999), correct, strict=True)
        )
        under = jnp.sqrt((top if largest else v) / two) + eps
        if epsilon == "uncorrected":
            under = (jnp.sqrt(v) + eps) / jnp.sqrt(two)
        return -lr * m / one / under, {"m": m, "v": v, "top": top}

    return by_rule(rule, "m", "v", "top")


def momentum(lr: float = 0.1, dampening: float = 0.0, first: float = 1.0) -> Any:
    """torch's SGD with a momentum of 0.9; `first` is what the first gradient counts."""

    def rule(p: Array, g: Array, kept: dict[str, Array], t: Any) -> Any:
        share = jnp.where(t == 1, first, 1 - dampening).astype(p.dtype)
        buffer = 0.9 * kept["buffer"] + share * g
        return -lr * buffer, {"buffer": buffer}

    return by_rule(rule, "buffer")


def adagrad(lr_decay: float = 0.0) -> Any:
    """torch's Adagrad with a learning rate of 0.1."""

    def rule(p: Array, g: Array, kept: dict[str, Array], t: Any) -> Any:
        total = kept["sum"] + g**2
        rate = 0.1 / (1 + (t - 1).astype(p.dtype) * lr_decay)
        return -rate * g / (jnp.sqrt(total) + 1e-10), {"sum": total}

    return by_rule(rule, "sum")


def changed(function: Callable[[Array, Array, Any], Array]) -> Any:
    """What comes from a transformation, changed by a function of (parameter, it, update)."""
    return by_rule(lambda p, u, kept, t: (function(p, u, t.astype(p.dtype)), {}))


def clip_norm(bound: float, scale: float = 1.0) -> Any:
    """torch's clip_grad_norm_, of gradients that are a multiple of the ones given."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factor = jnp.minimum(1.0, bound / (scale * optax.global_norm(gradients) + 1e-6))
        return jax.tree.map(lambda g: g * factor, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def clip_each(bound: float) -> Any:
    """Each gradient clipped by its own norm."""
    return changed(lambda p, g, t: g * jnp.minimum(1.0, bound / jnp.linalg.norm(g.ravel())))


def normalized(bound: float) -> Any:
    """All gradients scaled to a norm."""

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = optax.global_norm(gradients)
        return jax.tree.map(lambda g: g * bound / norm, gradients), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
