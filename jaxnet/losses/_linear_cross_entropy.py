"""The cross entropy of an affine layer's scores, which need not all be in memory at once."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Shaped

from jaxnet._checks import check_choice, check_flag, check_integer
from jaxnet.losses._classification import check_cross_entropy, reduce_weighted, sample_losses
from jaxnet.losses._reduction import check_reduction, floats
from jaxnet.precision import full_float32, promoted

_POLICIES = ("auto", "accurate", "balanced", "compact")


@dataclasses.dataclass(frozen=True)
class LinearCrossEntropyOptions:
    """How `linear_cross_entropy` divides a batch: torch.nn.LinearCrossEntropyOptions.

    The scores of one part of the batch are computed at a time, and once more for the gradient,
    so that the scores of the whole batch, (N, C), are never in memory. This pays where there
    are many more classes than features, as in a language model.

    Args:
        allow_retain_graph: An argument of torch that has no effect: gradients are values here.
        batch_chunk_size: The number of rows of a part. None leaves it to chunking_method.
        chunking_method: The rule for the number of rows. "aspect_ratio" makes the scores of a
            part as large as the whole input, "aspect_ratio:2" half as large, and so on. "auto"
            is "aspect_ratio:2". None is all rows, if batch_chunk_size is None too.
        acc_policy: An argument of torch, "auto", "accurate", "balanced" or "compact", that has
            no effect: the scores and the sums of the weight's gradient always have acc_dtype.
        acc_dtype: The dtype of the scores and of sums over the parts. None is float32 for half
            precision, and the dtype of the input otherwise.

    Raises:
        ValueError: An argument is none of these.
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: str = "auto"
    acc_dtype: DTypeLike | None = None

    def __post_init__(self) -> None:
        check_flag("allow_retain_graph", self.allow_retain_graph)
        check_choice("acc_policy", self.acc_policy, _POLICIES)
        if self.batch_chunk_size is not None:
            check_integer("batch_chunk_size", self.batch_chunk_size, least=1)
        name, _, factor = str(self.chunking_method).partition(":")
        ratio = name == "aspect_ratio" and (not factor or (factor.isdigit() and int(factor) > 0))
        if not ratio or self.chunking_method == "aspect_ratio:":
            also = "'aspect_ratio' and 'aspect_ratio:N' with N above 0"
            check_choice("chunking_method", self.chunking_method, (None, "auto"), also)
        if self.acc_dtype is not None and not jnp.issubdtype(self.acc_dtype, jnp.floating):
            raise ValueError(f"acc_dtype: {self.acc_dtype!r}; accepted are float dtypes and None")

    def rows(self, batch: int, features: int, classes: int) -> int:
        """The number of rows of a part.

        Raises:
            ValueError: batch_chunk_size and chunking_method are both given and differ.
        """
        given = self.batch_chunk_size
        method = self.chunking_method
        if method == "auto":
            method = None if given is not None else "aspect_ratio:2"
        if method is None:
            return max(1, min(given or batch, batch))
        # As many rows as give the input's number of scores, rounded up to a power of 2.
        target = math.ceil(batch / math.ceil(classes / max(features, 1)))
        rows = 1 << max(target - 1, 0).bit_length()
        rows = max(1, min(rows // int(method.partition(":")[2] or 1), batch))
        if given is not None and given != rows:
            raise ValueError(
                f"batch_chunk_size: {given}, where chunking_method={method!r} gives {rows}; "
                "give only one of them"
            )
        return rows


@full_float32()
def linear_cross_entropy(
    input: Float[Array, "*N in_features"],
    linear_weight: Float[Array, "C *d in_features"],
    target: Shaped[ArrayLike, "..."],
    *,
    linear_bias: Float[Array, "..."] | None = None,
    weight: Float[ArrayLike, " C"] | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: LinearCrossEntropyOptions | None = None,
) -> Float[Array, "..."]:
    """The cross entropy of the scores of an affine layer.

    Equivalent of torch.nn.functional.linear_cross_entropy: it is
    cross_entropy(input @ linear_weight.T + linear_bias, target), and with options the scores
    are computed part by part and never all in memory. Unlike in torch, options may be combined
    with every other argument, and any derivative may be taken.

    Args:
        input: The rows, (N, in_features) or (in_features,).
        linear_weight: The matrix of the layer, (C, in_features), or (C, d1, ..., in_features)
            with a batch, for scores (N, C, d1, ...).
        target: The class numbers or the probabilities of the classes, as in `cross_entropy`.
        linear_bias: The bias of the layer, (C,) or (C, d1, ...).
        weight: The weights of the classes, (C,). None is 1 for all.
        reduction: The reduction, "mean", "sum" or "none", as in `cross_entropy`.
        ignore_index: The class number whose targets are ignored; None is -100. It may not be
            given with probabilities.
        label_smoothing: The share of each target that is spread over all classes, in [0, 1].
        options: How the batch is divided; None computes all scores at once.

    Returns:
        The loss, one number, or with "none" one number for each sample.

    Raises:
        ValueError: A shape or an argument does not fit, or a class number is outside [0, C).
            Inside jit the numbers are not known; there such a number makes the loss nan.
        TypeError: The input is not floating, or class numbers are no integers.

    >>> x, table = jnp.zeros((4, 2)), jnp.ones((3, 2))
    >>> options = LinearCrossEntropyOptions(batch_chunk_size=2)
    >>> print(linear_cross_entropy(x, table, jnp.array([0, 1, 0, 1]), options=options))
    1.0986123
    """
    name = "linear_cross_entropy"
    check_reduction(reduction)
    input, linear_weight = floats(name, input=input, linear_weight=linear_weight)
    fits = input.ndim in (1, 2) and linear_weight.ndim >= 2
    if not fits or input.shape[-1] != linear_weight.shape[-1]:
        raise ValueError(
            f"{name}: input {input.shape} with linear_weight {linear_weight.shape}; accepted are "
            "(N, in_features) or (in_features,) with (C, in_features) or (C, d1, ..., in_features)"
        )
    lead, classes = input.shape[:-1], linear_weight.shape[:-1]
    if not lead and len(classes) > 1:
        raise ValueError(
            f"{name}: linear_weight {linear_weight.shape} needs a batch, (N, "
            f"{input.shape[-1]}); the input is {input.shape}"
        )
    if linear_bias is not None and linear_bias.shape != classes:
        raise ValueError(f"{name}: linear_bias {linear_bias.shape}; accepted is {classes}")
    scores = jax.ShapeDtypeStruct((*lead, *classes), input.dtype)
    if ignore_index is not None and jnp.shape(target) == scores.shape:
        raise ValueError(f"{name}: ignore_index {ignore_index} with probabilities as target")
    ignored = -100 if ignore_index is None else ignore_index
    targets, class_weight = check_cross_entropy(
        name, scores, target, weight, ignored, label_smoothing
    )
    dtype = input.dtype
    if options is not None:
        dtype = jnp.dtype(options.acc_dtype or promoted(dtype, jnp.float32))
    # The gradient of the weight is a sum over the parts, in the dtype that it has out here.
    matrix = linear_weight.reshape(-1, linear_weight.shape[-1]).astype(dtype)

    def losses_of(x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        out = jnp.matmul(x, matrix.astype(input.dtype).T, preferred_element_type=dtype)
        out = out.reshape(*x.shape[:-1], *classes)
        if linear_bias is not None:
            out = out + jnp.broadcast_to(linear_bias.astype(dtype), out.shape)
        return sample_losses(out, t, class_weight, ignored, label_smoothing)

    if options is None or not lead:
        values, weights = losses_of(input, targets)
    else:
        rows = options.rows(lead[0], input.shape[1], math.prod(classes))
        values, weights = _by_parts(losses_of, input, targets, rows)
    return reduce_weighted(values, weights, reduction).astype(input.dtype)


def _by_parts(
    losses_of: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array | None]],
    x: jax.Array,
    targets: jax.Array,
    rows: int,
) -> tuple[jax.Array, jax.Array | None]:
    """`losses_of` of all rows, computed for so many rows at a time, in the gradient as well."""
    n = x.shape[0]
    parts = -(-n // rows)
    if parts <= 1:
        return losses_of(x, targets)

    def divided(a: jax.Array) -> jax.Array:
        widths = [(0, parts * rows - n)] + [(0, 0)] * (a.ndim - 1)
        return jnp.pad(a, widths).reshape(parts, rows, *a.shape[1:])

    # What the gradient needs of a part is computed again then, and not kept.
    part = jax.checkpoint(lambda given: losses_of(*given), prevent_cse=False)
    found = lax.map(part, (divided(x), divided(targets)))
    values, weights = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:n], found)
    return values, weights
