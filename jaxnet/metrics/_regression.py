"""Metrics for regression: numbers and their targets."""

import dataclasses
import math
from typing import Self

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxnet._arrays import as_jax
from jaxnet.metrics._metric import Mean, Metric
from jaxnet.precision import promoted


def mae(outputs: Shaped[ArrayLike, "*shape"], targets: Shaped[ArrayLike, "*shape"]) -> Mean:
    """The mean absolute error, the mean of |outputs - targets| over all elements.

    Args:
        outputs: The outputs, of any shape.
        targets: The targets, of the outputs' shape.

    Returns:
        The error as a `Mean`, in float32 or wider.

    Raises:
        ValueError: The shapes differ.
    """
    output, target = _numbers("mae", outputs, targets)
    return Mean(jnp.abs(output - target).sum(), jnp.asarray(output.size, jnp.int32))


def mse(outputs: Shaped[ArrayLike, "*shape"], targets: Shaped[ArrayLike, "*shape"]) -> Mean:
    """The mean squared error, the mean of (outputs - targets)^2 over all elements.

    The arguments, the result and the errors are those of `mae`.
    """
    output, target = _numbers("mse", outputs, targets)
    return Mean(jnp.square(output - target).sum(), jnp.asarray(output.size, jnp.int32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class R2(Metric):
    """The sums for the coefficient of determination of each output (D,).

    The mean of the targets is stored as `start + shift`, where start is one of the targets.
    In this way float32 has enough digits even if the mean is much larger than the
    deviations from it.

    Attributes:
        count: The number of samples, int32.
        start: The first target, (D,).
        shift: The mean of the targets minus start, (D,).
        spread: The sum of (target - mean)^2, (D,).
        residual: The sum of (target - output)^2, (D,).
        multioutput: As in `r2`, static.
    """

    count: jax.Array
    start: jax.Array
    shift: jax.Array
    spread: jax.Array
    residual: jax.Array
    multioutput: str = dataclasses.field(metadata={"static": True})

    def _merged(self, other: Self) -> Self:
        """Combines two means and spreads by the formula of Chan, Golub and LeVeque (1983)."""
        count = self.count + other.count
        empty = self.count == 0
        ours = self.count[..., None].astype(self.shift.dtype)
        theirs = other.count[..., None].astype(self.shift.dtype)
        # At least 1, so that two metrics without samples give 0 and not nan.
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
        """The coefficient 1 - residual / spread; nan if there are fewer than 2 samples.

        As in scikit-learn, if all targets are equal it is 1 for perfect outputs and 0 for
        all others.
        """
        constant = self.spread == 0
        each = 1 - self.residual / jnp.where(constant, 1, self.spread)
        # 0 * residual and not 0, so that a residual of nan gives nan.
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
    """The coefficient of determination: sklearn.metrics.r2_score.

    It is 1 - sum (target - output)^2 / sum (target - mean)^2 for each of the D outputs.

    Args:
        outputs: The outputs, (N,) or (N, D).
        targets: The targets, of the outputs' shape.
        multioutput: The average over the D coefficients: "uniform_average" (their mean),
            "variance_weighted" (the mean weighted by the variance of the targets) or
            "raw_values" (all D of them).

    Returns:
        The sums as an `R2`; `compute()` gives the coefficient.

    Raises:
        ValueError: The shapes differ or have other numbers of axes, or multioutput is
            unknown.
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
    output, target = as_jax(f"{metric}: outputs", outputs), as_jax(f"{metric}: targets", targets)
    if output.shape != target.shape:
        raise ValueError(
            f"{metric}: outputs {output.shape} and targets {target.shape} differ in shape; "
            "reshape one of them"
        )
    dtype = promoted(output, target, jnp.float32)
    return output.astype(dtype), target.astype(dtype)
