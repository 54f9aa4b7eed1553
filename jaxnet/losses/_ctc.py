"""Connectionist temporal classification."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Integer

from jaxnet.losses._reduction import (
    check_reduction,
    first_bad,
    floats,
    host,
    integers,
    reduce,
)


def ctc_loss(
    log_probs: Float[ArrayLike, "T *N C"],
    targets: Integer[ArrayLike, "..."],
    input_lengths: ArrayLike,
    target_lengths: ArrayLike,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Float[Array, "..."]:
    """-log p(targets | log_probs), over all alignments: torch.nn.functional.ctc_loss.

    As in torch, log_probs are taken to come from a log_softmax: the gradient with
    respect to them is exp(log_probs) minus each symbol's posterior probability. Where
    targets do not fit into the input the loss is infinite; torch's gradient there is
    nan, ours is that of log_probs' normalisation alone, 0 behind a log_softmax.

    optax.ctc_loss does not serve: it takes padding masks, normalises the scores itself,
    and gives a large number where torch gives infinity.

    Args:
        log_probs: (T, N, C), or (T, C) for a single sequence.
        targets: symbols (N, S), or all one after the other (sum of target_lengths,),
            or (S,) for a single sequence.
        input_lengths: (N,), at most T; a single number for a single sequence.
        target_lengths: (N,), likewise.
        blank: the number of the blank symbol.
        reduction: "mean" divides each loss by its target's length (at least 1) and
            takes the mean over the batch; "sum" or "none".
        zero_infinity: whether infinite losses, and their gradients, become 0.

    Returns:
        One number, or (N,), or () for a single sequence, with "none".

    Raises:
        ValueError: for shapes that do not match, lengths and symbols out of range.
            Inside jit lengths and symbols cannot be looked at: there they make the
            loss nan. Targets one after the other cost more memory inside jit, where
            the longest of them is not known.
        TypeError: for targets or lengths that are no integers.
    """
    check_reduction(reduction)
    (log_probs,) = floats("ctc_loss", log_probs=log_probs)
    targets = integers("ctc_loss", "targets", targets)
    lengths = integers("ctc_loss", "input_lengths", jnp.asarray(input_lengths))
    sizes = integers("ctc_loss", "target_lengths", jnp.asarray(target_lengths))
    single = log_probs.ndim == 2
    if single:
        log_probs = log_probs[:, None]
        lengths, sizes = lengths.reshape(-1), sizes.reshape(-1)
    if log_probs.ndim != 3 or 0 in log_probs.shape:
        raise ValueError(
            f"ctc_loss: log_probs {log_probs.shape}; accepted are (T, N, C) and (T, C), not empty"
        )
    steps, batch, symbols = log_probs.shape
    for name, value in (("input_lengths", lengths), ("target_lengths", sizes)):
        if value.shape != (batch,):
            raise ValueError(f"ctc_loss: {name} {value.shape}; it needs one a sequence, ({batch},)")
    if not 0 <= blank < symbols:
        raise ValueError(f"ctc_loss: blank {blank}; accepted are 0 to {symbols - 1}")
    if targets.ndim == 1:
        targets = _rows(targets, sizes)
    if targets.ndim != 2 or targets.shape[0] != batch:
        raise ValueError(f"ctc_loss: targets {targets.shape} for a batch of {batch} sequences")

    _check_numbers(targets, lengths, sizes, steps, symbols)
    used = jnp.arange(targets.shape[1])[None] < sizes[:, None]
    strange = used & ((targets < 0) | (targets >= symbols))
    wrong = (lengths < 0) | (lengths > steps) | (sizes < 0) | (sizes > targets.shape[1])

    values = _negative_log_likelihood(log_probs, targets, lengths, sizes, blank)
    # torch's gradient holds exp(log_probs) too. This adds it, and nothing to the value.
    within = (jnp.arange(steps)[:, None] < lengths[None])[..., None]
    mass = jnp.where(within, jnp.exp(log_probs), 0).sum((0, 2))
    values = values + (mass - lax.stop_gradient(mass))
    if zero_infinity:
        values = jnp.where(jnp.isinf(values), 0, values)
    values = jnp.where(wrong | strange.any(1), jnp.nan, values)
    if reduction == "mean":
        return (values / jnp.maximum(sizes, 1).astype(values.dtype)).mean()
    return reduce(values[0] if single else values, reduction)


def _check_numbers(
    targets: jax.Array, lengths: jax.Array, sizes: jax.Array, steps: int, symbols: int
) -> None:
    """Refuses lengths and symbols out of range, where they can be looked at."""
    longest = targets.shape[1]
    for name, value, most in (("input_", lengths, steps), ("target_", sizes, longest)):
        first = first_bad(value, partial(_outside, most=most))
        if first is not None:
            raise ValueError(f"ctc_loss: {name}lengths holds {first}; accepted are 0 to {most}")
    numbers = host(targets, sizes)
    if numbers is not None:
        rows, used = numbers[0], np.arange(longest) < numbers[1][:, None]
        strange = rows[used & ((rows < 0) | (rows >= symbols))]
        if strange.size:
            raise ValueError(
                f"ctc_loss: targets hold symbol {strange[0]}; accepted are 0 to {symbols - 1}"
            )


def _outside(numbers: np.ndarray, most: int) -> np.ndarray:
    return (numbers < 0) | (numbers > most)


def _rows(targets: jax.Array, sizes: jax.Array) -> jax.Array:
    """Targets one after the other, (sum of sizes,), as rows (N, S)."""
    longest = targets.shape[0]
    numbers = host(sizes)
    if numbers is not None:
        total, longest = int(numbers[0].sum()), int(numbers[0].max())
        if total != targets.shape[0]:
            raise ValueError(
                f"ctc_loss: targets {targets.shape}, but target_lengths add up to {total}"
            )
    if targets.shape[0] == 0:
        return jnp.zeros((sizes.shape[0], 0), targets.dtype)
    starts = jnp.cumsum(sizes) - sizes
    return targets.at[starts[:, None] + jnp.arange(longest)[None]].get(mode="clip")


def _negative_log_likelihood(
    log_probs: jax.Array, targets: jax.Array, lengths: jax.Array, sizes: jax.Array, blank: int
) -> jax.Array:
    """The forward recursion over blank, y1, blank, y2, ..., blank: (N,)."""
    steps, batch, symbols = log_probs.shape
    places = 2 * targets.shape[1] + 1
    path = jnp.full((batch, places), blank, targets.dtype)
    path = path.at[:, 1::2].set(jnp.clip(targets, 0, symbols - 1))
    # A place can be reached from two before, unless both hold the same symbol.
    skips = jnp.pad(path[:, 2:] != path[:, :-2], ((0, 0), (min(2, places), 0)))[:, :places]
    at_path = jnp.broadcast_to(path[None], (steps, batch, places))
    emitted = jnp.take_along_axis(log_probs, at_path, axis=2)

    def shifted(alpha: jax.Array, by: int) -> jax.Array:
        padded = jnp.pad(alpha, ((0, 0), (by, 0)), constant_values=-jnp.inf)
        return padded[:, :places]

    def step(alpha: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        t, emission = now
        two_before = jnp.where(skips, shifted(alpha, 2), -jnp.inf)
        moved = _log_sum_exp(alpha, shifted(alpha, 1), two_before) + emission
        return jnp.where((t < lengths)[:, None], moved, alpha), None

    # Before the first step all weight lies on the first blank: staying there and moving
    # on to the first symbol are the two ways to begin.
    start = jnp.full((batch, places), -jnp.inf, log_probs.dtype).at[:, 0].set(0)
    alpha, _ = lax.scan(step, start, (jnp.arange(steps), emitted))
    end = jnp.clip(2 * sizes, 0, places - 1)[:, None]
    on_blank = jnp.take_along_axis(alpha, end, 1)[:, 0]
    on_symbol = jnp.take_along_axis(alpha, jnp.maximum(end - 1, 0), 1)[:, 0]
    return -_log_sum_exp(on_blank, jnp.where(sizes > 0, on_symbol, -jnp.inf))


def _log_sum_exp(*terms: jax.Array) -> jax.Array:
    """log(sum(exp)) whose slope is 0, not nan, where all terms are -inf."""
    largest = terms[0]
    for term in terms[1:]:
        largest = jnp.maximum(largest, term)
    largest = lax.stop_gradient(jnp.where(jnp.isneginf(largest), 0, largest))
    total = sum(jnp.exp(term - largest) for term in terms)
    none = total == 0
    return jnp.where(none, -jnp.inf, jnp.log(jnp.where(none, 1, total)) + largest)
