"""Metrics between numbers and numbers."""

import dataclasses
import math
from typing import Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxnet.metrics._metric import Mean, Metric
from jaxnet.precision import promoted


def mae(outputs: Shaped[ArrayLike, "*shape"], targets: Shaped[ArrayLike, "*shape"]) -> Mean:
    """The mean of |outputs - targets| over all elements; both have one shape."""
    output, target = _numbers("mae", outputs, targets)
    return Mean(jnp.abs(output - target).sum(), jnp.asarray(output.size, jnp.int32))


def mse(outputs: Shaped[ArrayLike, "*shape"], targets: Shaped[ArrayLike, "*shape"]) -> Mean:
    """The mean of (outputs - targets)^2 over all elements; both have one shape."""
    output, target = _numbers("mse", outputs, targets)
    return Mean(jnp.square(output - target).sum(), jnp.asarray(output.size, jnp.int32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class R2(Metric):
    """The coefficient of determination in pieces, for each output (D,).

    The targets' mean is held as `start + shift`, where start is one of the targets: the
    digits of the spread survive in float32 even where the mean is much larger than it.

    Attributes:
        count: how many samples, int32.
        start, shift: their sum is the mean of the targets.
        spread: sum of (target - mean)^2.
        residual: sum of (target - output)^2.
        multioutput: how several outputs become one result; static.
    """

    count: jax.Array
    start: jax.Array
    shift: jax.Array
    spread: jax.Array
    residual: jax.Array
    multioutput: str = dataclasses.field(metadata={"static": True})

    def _merged(self, other: Self) -> Self:
        """Two means and spreads into one, by the formula of Chan, Golub and LeVeque."""
        count = self.count + other.count
        empty = self.count == 0
        ours = self.count[..., None].astype(self.shift.dtype)
        theirs = other.count[..., None].astype(self.shift.dtype)
        both = jnp.maximum(ours + theirs, 1)
        gap = (other.start - self.start) + (other.shift - self.shift)
        return dataclasses.replace(
            self,
            count=count,
            start=jnp.where(empty[..., None], other.start, self.start),
            shift=jnp.where(empty[..., None], other.shift, self.shift + gap * (theirs / both)),
            spread=self.spread + other.spread + jnp.square(gap) * (ours * (theirs / both)),
            residual=self.residual + other.residual,
        )

    def compute(self) -> jax.Array:
        """1 - residual / spread, as sklearn.metrics.r2_score; nan of fewer than 2 samples.

        Where all targets are equal it is 1 for a perfect output and 0 for any other.
        """
        constant = self.spread == 0
        each = 1 - self.residual / jnp.where(constant, 1, self.spread)
        each = jnp.where(constant, jnp.where(self.residual == 0, 1, 0 * self.residual), each)
        if self.multioutput == "raw_values":
            value, few = each, self.count[..., None] < 2
        else:
            value, few = each.mean(-1), self.count < 2
            if self.multioutput == "variance_weighted":
                spread = self.spread.sum(-1)
                weighted = (each * self.spread).sum(-1) / jnp.where(spread == 0, 1, spread)
                value = jnp.where(spread == 0, value, weighted)
        return jnp.where(few, jnp.nan, value)


def r2(
    outputs: Shaped[ArrayLike, "*shape"],
    targets: Shaped[ArrayLike, "*shape"],
    multioutput: str = "uniform_average",
) -> R2:
    """1 - sum (target - output)^2 / sum (target - mean)^2: sklearn.metrics.r2_score.

    Args:
        outputs, targets: (N,) or (N, D).
        multioutput: "uniform_average" over the D results, "variance_weighted", or
            "raw_values" for all of them.
    """
    accepted = ("uniform_average", "variance_weighted", "raw_values")
    if multioutput not in accepted:
        raise ValueError(f"r2: multioutput {multioutput!r}; accepted are {accepted}")
    output, target = _numbers("r2", outputs, targets)
    if output.ndim not in (1, 2):
        raise ValueError(f"r2: outputs {output.shape}; accepted are (N,) and (N, D)")
    rows = output.shape[0]
    columns = math.prod(output.shape[1:])
    output, target = output.reshape(rows, columns), target.reshape(rows, columns)
    start = target[0] if rows else jnp.zeros(target.shape[1:], target.dtype)
    apart = target - start[None]
    shift = apart.sum(0) / max(rows, 1)
    return R2(
        count=jnp.asarray(rows, jnp.int32),
        start=start,
        shift=shift,
        spread=jnp.square(apart - shift[None]).sum(0),
        residual=jnp.square(target - output).sum(0),
        multioutput=multioutput,
    )


def _numbers(metric: str, outputs: ArrayLike, targets: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Outputs and targets of one shape, in float32 or wider."""
    output, target = jnp.asarray(outputs), jnp.asarray(targets)
    if output.shape != target.shape:
        raise ValueError(
            f"{metric}: outputs {output.shape} and targets {target.shape} differ in shape; "
            "reshape one of them"
        )
    dtype = promoted(output, target, jnp.float32)
    return output.astype(dtype), target.astype(dtype)
