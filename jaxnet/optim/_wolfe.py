"""The line search of L-BFGS with the strong Wolfe conditions, step for step as in torch."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxnet.precision import amax

Evaluate = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


class _Point(NamedTuple):
    """A trial point of the search.

    Attributes:
        t: The step length.
        f: The loss there.
        g: The gradient there, (n,).
        slope: The derivative of the loss along the direction d, g d.
    """

    t: jax.Array
    f: jax.Array
    g: jax.Array
    slope: jax.Array


class _Search(NamedTuple):
    """The state of the first loop, which looks for a bracket."""

    old: _Point
    new: _Point
    steps: jax.Array
    bracketed: jax.Array
    done: jax.Array


class _Zoom(NamedTuple):
    """The state of the second loop, which makes the bracket shorter."""

    ends: _Point  # The two ends of the bracket, stacked along axis 0.
    low: jax.Array
    steps: jax.Array
    stuck: jax.Array
    done: jax.Array


def strong_wolfe(
    evaluate: Evaluate,
    x: jax.Array,
    t: jax.Array,
    d: jax.Array,
    f: jax.Array,
    g: jax.Array,
    slope: jax.Array,
    max_steps: jax.Array,
    c1: float = 1e-4,
    c2: float = 0.9,
    tolerance_change: float = 1e-9,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """A step length t that satisfies the strong Wolfe conditions, if one is found.

    f(x + t d) <= f + c1 t slope and |slope at x + t d| <= -c2 slope. First t grows until the
    last two trials bracket such a length. Then the bracket shrinks. Each new trial is the
    minimum of a cubic through two points.

    Args:
        evaluate: A function that gives the loss and its gradient at a point.
        x: The start of the search, (n,).
        t: The first step length.
        d: The direction, (n,).
        f, g, slope: The loss, the gradient and g d at x.
        max_steps: The largest number of trials after the first.
        c1, c2: The constants of the two Wolfe conditions.
        tolerance_change: The length in x below which a bracket ends the search.

    Returns:
        The loss, the gradient and t at the best point, and the number of evaluations.
    """

    def point(t: jax.Array) -> _Point:
        f, g = evaluate(x + t * d)
        return _Point(t, f, g, g @ d)

    def too_high(trial: _Point) -> jax.Array:
        return trial.f > f + c1 * trial.t * slope

    def flat(trial: _Point) -> jax.Array:
        return jnp.abs(trial.slope) <= -c2 * slope

    here = _Point(jnp.zeros_like(t), f, g, slope)
    count, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)

    def grow(s: _Search) -> _Search:
        over = too_high(s.new) | ((s.steps > 1) & (s.new.f >= s.old.f))
        done = ~over & flat(s.new)
        bracketed = over | (~done & (s.new.slope >= 0))

        def further(s: _Search) -> _Search:
            # At least 1 % farther than the last step went, and at most ten times as far.
            least = s.new.t + 0.01 * (s.new.t - s.old.t)
            new = point(_cubic(s.old, s.new, least, 10 * s.new.t))
            return s._replace(old=s.new, new=new, steps=s.steps + 1)

        s = s._replace(bracketed=bracketed, done=done)
        return lax.cond(bracketed | done, lambda s: s, further, s)

    search = lax.while_loop(
        lambda s: (s.steps < max_steps) & ~s.bracketed & ~s.done,
        grow,
        _Search(here, point(t), count, no, no),
    )
    # If no bracket was found within max_steps, it reaches from the start to the last trial. If
    # a trial already satisfies the conditions, both ends are that trial and the next loop ends
    # at once.
    low_end = jax.tree.map(
        lambda old, zero, new: jnp.where(search.done, new, jnp.where(search.bracketed, old, zero)),
        search.old,
        here,
        search.new,
    )
    ends = jax.tree.map(lambda a, b: jnp.stack([a, b]), low_end, search.new)
    width = amax(jnp.abs(d), initial=0)

    def shrink(z: _Zoom) -> _Zoom:
        a, b = (jax.tree.map(lambda v, i=i: v[i], z.ends) for i in (0, 1))
        left, right = jnp.minimum(a.t, b.t), jnp.maximum(a.t, b.t)
        t = _cubic(a, b, left, right)
        # As in torch, a trial very near to an end is moved to a tenth of the bracket's length
        # from it, but only if the trial before was near to an end too or lies outside.
        margin = 0.1 * (right - left)
        near = jnp.minimum(right - t, t - left) < margin
        push = near & (z.stuck | (t >= right) | (t <= left))
        pushed = jnp.where(jnp.abs(t - right) < jnp.abs(t - left), right - margin, left + margin)
        trial = point(jnp.where(push, pushed, t))
        low, high = z.low, 1 - z.low

        def put(ends: _Point, i: jax.Array, value: _Point) -> _Point:
            return jax.tree.map(lambda v, new: v.at[i].set(new), ends, value)

        # A worse trial replaces the high end, a better one the low end. Both results are
        # computed and one is chosen, because the conditions are traced.
        worse = too_high(trial) | (trial.f >= z.ends.f[low])
        raised = put(z.ends, high, trial)
        done = ~worse & flat(trial)
        turns = ~done & (trial.slope * (z.ends.t[high] - z.ends.t[low]) >= 0)
        lowered = put(z.ends, high, jax.tree.map(lambda v: v[low], z.ends))
        lowered = jax.tree.map(lambda a, b: jnp.where(turns, a, b), lowered, z.ends)
        lowered = put(lowered, low, trial)
        new = jax.tree.map(lambda a, b: jnp.where(worse, a, b), raised, lowered)
        return _Zoom(
            ends=new,
            low=jnp.where(worse, _lower(new), low),
            steps=z.steps + 1,
            stuck=near & ~push,
            done=done,
        )

    def goes_on(z: _Zoom) -> jax.Array:
        long = jnp.abs(z.ends.t[1] - z.ends.t[0]) * width >= tolerance_change
        return ~z.done & (z.steps < max_steps) & long

    zoom = lax.while_loop(goes_on, shrink, _Zoom(ends, _lower(ends), search.steps, no, search.done))
    best = jax.tree.map(lambda v: v[zoom.low], zoom.ends)
    return best.f, best.g, best.t, zoom.steps + 1


def _lower(ends: _Point) -> jax.Array:
    """The index of the end with the lower loss."""
    return jnp.where(ends.f[0] <= ends.f[1], 0, 1)


def _cubic(a: _Point, b: _Point, least: jax.Array, most: jax.Array) -> jax.Array:
    """The minimum of the cubic through two points with slopes, clipped to [least, most].

    It is the middle of the bounds where the cubic has no minimum.
    """
    d1 = a.slope + b.slope - 3 * (a.f - b.f) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    d2 = jnp.sqrt(jnp.where(square >= 0, square, 0))
    # In the formula the second point is the farther one.
    swap = a.t > b.t
    x1, g1 = jnp.where(swap, b.t, a.t), jnp.where(swap, b.slope, a.slope)
    x2, g2 = jnp.where(swap, a.t, b.t), jnp.where(swap, a.slope, b.slope)
    at = x2 - (x2 - x1) * ((g2 + d2 - d1) / (g2 - g1 + 2 * d2))
    return jnp.where(square >= 0, jnp.clip(at, least, most), (least + most) / 2)
