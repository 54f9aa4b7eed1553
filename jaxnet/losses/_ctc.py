"""The loss of connectionist temporal classification (CTC)."""

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
    """The CTC loss: torch.nn.functional.ctc_loss.

    The loss of each sequence is -log p(targets | log_probs), summed over all alignments
    (Graves et al., 2006).

    As in torch, log_probs is taken to be the result of a log_softmax: its gradient is
    exp(log_probs) minus the posterior probability of each symbol. If a target is too long
    for its input, the loss is infinite. Torch's gradient is then nan; here it is 0 with
    respect to the input of the log_softmax.

    optax.ctc_loss has another interface (padding masks, scores that are not normalised) and
    gives a large number instead of infinity.

    Args:
        log_probs: The log probabilities, floats (T, N, C), or (T, C) for one sequence.
        targets: The symbols, integers (N, S), or (S,) for one sequence; or the symbols of
            all sequences one after the other, (sum of target_lengths,). The last form takes
            more memory inside jit, where the longest target is not known.
        input_lengths: The lengths of the inputs, integers (N,), at most T; one number for
            one sequence.
        target_lengths: The lengths of the targets, integers (N,); one number for one
            sequence.
        blank: The number of the blank symbol, in [0, C).
        reduction: The reduction, "mean", "sum" or "none". "mean" divides each loss by the
            length of its target (at least 1) and takes the mean over the batch.
        zero_infinity: Whether infinite losses and their gradients become 0.

    Returns:
        The loss, one number, or with "none" an array (N,), or () for one sequence.

    Raises:
        ValueError: The shapes do not match, or a length or symbol is out of range. Inside
            jit lengths and symbols are not known; there such a number makes the loss nan.
        TypeError: log_probs is not floating, or targets or lengths are no integers.
    """
    check_reduction(reduction)
    (log_probs,) = floats("ctc_loss", log_probs=log_probs)
    targets = integers("ctc_loss", "targets", targets)
    lengths = integers("ctc_loss", "input_lengths", input_lengths)
    sizes = integers("ctc_loss", "target_lengths", target_lengths)
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
    # Torch's gradient has the term exp(log_probs) too. These lines add it to the gradient and
    # nothing to the value.
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
    """Refuses lengths and symbols that are out of range, unless they are traced."""
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
    """Whether each number is outside [0, most]."""
    return (numbers < 0) | (numbers > most)


def _rows(targets: jax.Array, sizes: jax.Array) -> jax.Array:
    """Targets one after the other, (sum of sizes,), as the rows of an array (N, S)."""
    # Inside jit the sizes are not known, and one target may be as long as all of them together.
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
    """The loss of each sequence, (N,), by the forward recursion.

    The recursion goes over the states blank, y1, blank, y2, ..., blank. alpha is the log
    probability of all alignments that end in a state.
    """
    steps, batch, symbols = log_probs.shape
    places = 2 * targets.shape[1] + 1
    path = jnp.full((batch, places), blank, targets.dtype)
    path = path.at[:, 1::2].set(jnp.clip(targets, 0, symbols - 1))
    # A state can follow the state two before it, unless both have the same symbol. A blank has
    # the blank two before it, so blanks are never skipped to.
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
        # After the end of a sequence its alpha stays, while longer ones go on.
        return jnp.where((t < lengths)[:, None], moved, alpha), None

    # Before the first step the probability of the first blank is 1: an alignment begins by
    # staying there or by moving on to the first symbol.
    start = jnp.full((batch, places), -jnp.inf, log_probs.dtype).at[:, 0].set(0)
    alpha, _ = lax.scan(step, start, (jnp.arange(steps), emitted))
    # An alignment ends in the last symbol or in the blank after it.
    end = jnp.clip(2 * sizes, 0, places - 1)[:, None]
    on_blank = jnp.take_along_axis(alpha, end, 1)[:, 0]
    on_symbol = jnp.take_along_axis(alpha, jnp.maximum(end - 1, 0), 1)[:, 0]
    return -_log_sum_exp(on_blank, jnp.where(sizes > 0, on_symbol, -jnp.inf))


def _log_sum_exp(*terms: jax.Array) -> jax.Array:
    """log(sum(exp(terms))), whose gradient is 0 and not nan where all terms are -inf."""
    largest = terms[0]
    for term in terms[1:]:
        largest = jnp.maximum(largest, term)
    largest = lax.stop_gradient(jnp.where(jnp.isneginf(largest), 0, largest))
    total = sum(jnp.exp(term - largest) for term in terms)
    none = total == 0
    return jnp.where(none, -jnp.inf, jnp.log(jnp.where(none, 1, total)) + largest)
