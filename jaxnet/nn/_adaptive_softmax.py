"""The adaptive softmax, for many classes of very different frequency."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from jaxnet._checks import is_integer
from jaxnet.losses._reduction import first_bad
from jaxnet.nn._container import ModuleList, Sequential
from jaxnet.nn._linear import Linear
from jaxnet.nn._module import Module
from jaxnet.nn.init import Rngs


class _ASMoutput(NamedTuple):
    """What a call of `AdaptiveLogSoftmaxWithLoss` returns, under torch's name.

    Attributes:
        output: The log probability of each target, (N,) or ().
        loss: The mean of -output.
    """

    output: jax.Array
    loss: jax.Array


class AdaptiveLogSoftmaxWithLoss(Module):
    """The softmax with a small head and clusters of rare classes.

    Equivalent of torch.nn.AdaptiveLogSoftmaxWithLoss (Grave et al., 2017). The classes are
    numbered by falling frequency. The `head` scores the classes below cutoffs[0] and each
    cluster as a whole; `tail[i]`, with fewer features, scores the classes of the cluster i.

    torch computes a cluster only for the rows whose target lies in it. A compiled program has
    no such sizes, so here each cluster is computed for all rows.

    Args:
        in_features: The number of features of a row.
        n_classes: The number of classes.
        cutoffs: The first classes of the clusters, increasing, from 1 to n_classes - 1.
        div_value: The divisor of the number of features from a cluster to the next:
            `tail[i]` has in_features // div_value^(i + 1).
        head_bias: Whether the head has a bias.
        rngs: The source of the initial weights, those of `Linear`.
        dtype: The dtype of the parameters.

    Raises:
        ValueError: The cutoffs are not increasing, or outside 1 to n_classes - 1.

    >>> from jaxnet.random import Generator
    >>> model = AdaptiveLogSoftmaxWithLoss(8, 10, [2, 5], div_value=2.0, rngs=Generator(0))
    >>> output, loss = model(jnp.ones((3, 8)), jnp.array([0, 4, 9]))
    >>> output.shape, model.log_prob(jnp.ones((3, 8))).shape
    ((3,), (3, 10))
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        *,
        rngs: Rngs,
        dtype: DTypeLike = jnp.float32,
    ) -> None:
        ends = list(cutoffs)
        increasing = all(map(is_integer, ends)) and ends == sorted(set(ends))
        if not ends or not increasing or ends[0] < 1 or ends[-1] > n_classes - 1:
            raise ValueError(
                f"AdaptiveLogSoftmaxWithLoss: cutoffs {cutoffs!r}; accepted are integers from 1 to "
                f"n_classes - 1 = {n_classes - 1} in increasing order, at least one"
            )
        self.in_features = in_features
        self.n_classes = n_classes
        self.cutoffs = [*map(int, ends), n_classes]
        self.div_value = div_value
        self.head_bias = head_bias
        self.shortlist_size = self.cutoffs[0]
        self.n_clusters = len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, rngs=rngs, dtype=dtype)
        self.tail = ModuleList()
        for i, (start, end) in enumerate(self._clusters()):
            width = int(in_features // (div_value ** (i + 1)))
            self.tail.append(
                Sequential(
                    Linear(in_features, width, False, rngs=rngs, dtype=dtype),
                    Linear(width, end - start, False, rngs=rngs, dtype=dtype),
                )
            )

    def _clusters(self) -> list[tuple[int, int]]:
        """The first class of each cluster and the end of its classes."""
        return list(zip(self.cutoffs[:-1], self.cutoffs[1:], strict=True))

    def __call__(
        self, input: Float[Array, "*N in_features"], target: Integer[Array, "*N"]
    ) -> _ASMoutput:
        """Computes the log probabilities of the targets.

        Args:
            input: The rows, (N, in_features) or (in_features,).
            target: The classes, integers (N,) or ().

        Returns:
            The pair `output`, the log probability of each target, and `loss`, the mean of
            -output.

        Raises:
            ValueError: A shape does not fit, or a class is outside 0 to n_classes - 1. Under
                `jax.jit` the classes are not known, and such a class gives nan.
            TypeError: The classes are not integers.
        """
        if input.ndim not in (1, 2) or input.shape[-1] != self.in_features:
            raise self._wrong(input)
        if target.shape != input.shape[:-1]:
            raise ValueError(
                f"AdaptiveLogSoftmaxWithLoss: an input of shape {input.shape} with a target of "
                f"shape {target.shape}; accepted is {input.shape[:-1]}, one class for each row"
            )
        if not jnp.issubdtype(target.dtype, jnp.integer):
            raise TypeError(
                f"AdaptiveLogSoftmaxWithLoss: classes of dtype {target.dtype}; give integers"
            )
        bad = first_bad(target, lambda t: (t < 0) | (t >= self.n_classes))
        if bad is not None:
            raise ValueError(
                f"AdaptiveLogSoftmaxWithLoss: class {bad}; accepted is 0 to {self.n_classes - 1}"
            )
        target = target.astype(int)  # of 8 bits, it could not be compared with every cutoff
        head = jax.nn.log_softmax(self.head(input), -1)

        def picked(log_p: jax.Array, start: int, end: int) -> jax.Array:
            column = jnp.clip(target - start, 0, end - start - 1)
            return jnp.take_along_axis(log_p, column[..., None], -1)[..., 0]

        output = picked(head, 0, self.shortlist_size)
        for i, (start, end) in enumerate(self._clusters()):
            log_p = jax.nn.log_softmax(self.tail[i](input), -1)
            inside = picked(log_p, start, end) + head[..., self.shortlist_size + i]
            output = jnp.where(target < start, output, inside)
        known = (target >= 0) & (target < self.n_classes)
        output = jnp.where(known, output, jnp.nan)
        return _ASMoutput(output, (-output).mean())

    def log_prob(self, input: Float[Array, "N in_features"]) -> Float[Array, "N n_classes"]:
        """Computes the log probabilities of all classes, (N, n_classes).

        Raises:
            ValueError: The input is not (N, in_features).
        """
        if input.ndim != 2 or input.shape[-1] != self.in_features:
            raise self._wrong(input)
        head = jax.nn.log_softmax(self.head(input), -1)
        parts = [head[:, : self.shortlist_size]]
        for i in range(self.n_clusters):
            log_p = jax.nn.log_softmax(self.tail[i](input), -1)
            parts.append(log_p + head[:, self.shortlist_size + i, None])
        return jnp.concatenate(parts, -1)

    def predict(self, input: Float[Array, "N in_features"]) -> Integer[Array, " N"]:
        """Returns the most probable class of each row, (N,).

        Raises:
            ValueError: The input is not (N, in_features).
        """
        return self.log_prob(input).argmax(-1)

    def _wrong(self, input: jax.Array) -> ValueError:
        return ValueError(
            f"AdaptiveLogSoftmaxWithLoss({self.in_features}, {self.n_classes}) expects an input of "
            f"shape (N, {self.in_features}); it got {input.shape}"
        )
