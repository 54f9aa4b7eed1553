"""Averages of a model's weights over a run: torch.optim.swa_utils."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.precision import promoted

Average = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """The exponential moving average: torch.optim.swa_utils.get_ema_avg_fn.

    The new average is decay * average + (1 - decay) * current.

    Args:
        decay: The weight of the old average, in [0, 1].

    Returns:
        A function of (average, current, n_averaged), the `avg_fn` of `AveragedModel`.

    Raises:
        ValueError: decay is outside [0, 1].
    """
    if not 0 <= decay <= 1:
        raise ValueError(f"decay: {decay}; accepted is [0, 1]")

    def average(averaged: jax.Array, current: jax.Array, num_averaged: jax.Array) -> jax.Array:
        del num_averaged
        return decay * averaged + (1 - decay) * current

    return average


def get_swa_avg_fn() -> Average:
    """The mean of all models with equal weights: torch.optim.swa_utils.get_swa_avg_fn.

    The new average is average + (current - average) / (n_averaged + 1).

    Returns:
        A function of (average, current, n_averaged), the `avg_fn` of `AveragedModel`.
    """

    def average(averaged: jax.Array, current: jax.Array, num_averaged: jax.Array) -> jax.Array:
        return averaged + (current - averaged) / (num_averaged + 1).astype(averaged.dtype)

    return average


class AveragedState(NamedTuple):
    """The state of an `AveragedModel`.

    Attributes:
        n_averaged: The number of models in the average, int32.
        params: The average of the parameters, a pytree like them.
        buffers: The average of the buffers or the latest buffers, a pytree like them.
    """

    n_averaged: jax.Array
    params: Any
    buffers: Any


class AveragedModel:
    """A running average of a model's weights: torch.optim.swa_utils.AveragedModel.

    Args:
        avg_fn: The function `avg_fn(average, current, n_averaged)` that gives the new
            average. None is the mean with equal weights, `get_swa_avg_fn()`.
        use_buffers: Whether the buffers are averaged too. Otherwise the state has the
            latest buffers.

    `init` and `update` are pure, so `update` may be called in a compiled step. As in torch,
    the first update copies the model whatever avg_fn is.

    >>> ema = AveragedModel(get_ema_avg_fn(0.5))
    >>> state = ema.init({"w": jnp.zeros(1)})
    >>> for w in (1.0, 3.0):
    ...     state = ema.update(state, {"w": jnp.full(1, w)})
    >>> state.params["w"].tolist()
    [2.0]
    """

    def __init__(self, avg_fn: Average | None = None, use_buffers: bool = False) -> None:
        self.avg_fn = get_swa_avg_fn() if avg_fn is None else avg_fn
        self.use_buffers = use_buffers

    def init(self, params: Any, buffers: Any = None) -> AveragedState:
        """The state before the first model: a copy, which the first update replaces.

        Args:
            params: The parameters, a pytree of arrays.
            buffers: The buffers, a pytree of arrays or None.
        """
        params, buffers = jax.tree.map(jnp.copy, (params, buffers))
        return AveragedState(jnp.zeros((), jnp.int32), params, buffers)

    def update(self, state: AveragedState, params: Any, buffers: Any = None) -> AveragedState:
        """The state with one more model in the average.

        Args:
            state: The state before.
            params, buffers: The arrays of the model, in the structure given to `init`.
        """
        n = state.n_averaged

        def mix(averaged: jax.Array, current: jax.Array) -> jax.Array:
            # Computed in float32 or wider. Counters among the buffers are averaged as floats
            # and cut to integers, as in torch.
            wide = promoted(averaged.dtype, jnp.float32)
            mixed = self.avg_fn(averaged.astype(wide), current.astype(wide), n)
            # A choice by data and not by Python: n is traced in a compiled step.
            return jnp.where(n == 0, current, mixed.astype(averaged.dtype))

        new_buffers = buffers
        if self.use_buffers:
            new_buffers = jax.tree.map(mix, state.buffers, buffers)
        return AveragedState(n + 1, jax.tree.map(mix, state.params, params), new_buffers)


def update_bn(loader: Iterable[Any], model: nnx.Module) -> None:
    """Recomputes the BatchNorm statistics of a model: torch.optim.swa_utils.update_bn.

    The model runs over the data once, in training mode. The new mean and variance are the
    unweighted means of the batches' means and variances.

    Args:
        loader: The batches. If a batch is a tuple or a list, its first entry is the input.
        model: The model whose running statistics are changed in place. If it has no
            BatchNorm, the data are not read.
    """
    found: list[Any] = [module for _, module in nnx.iter_modules(model)]
    norms = [module for module in found if _is_batch_norm(module)]
    if not norms:
        return
    modes = [(module, module.training) for module in found if hasattr(module, "training")]
    momenta = [(module, module.momentum) for module in norms]
    for module in norms:
        for name, value in (("running_mean", 0), ("running_var", 1), ("num_batches_tracked", 0)):
            statistic = getattr(module, name)
            statistic[...] = jnp.full_like(statistic[...], value)
        # With the momentum None the layer gives all batches the same weight.
        module.momentum = None
    for module, _ in modes:
        module.training = True
    # The parameters do not change, so the compiled function gives back only the rest.
    parts: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = parts

    @jax.jit
    def observe(rest: Any, inputs: Any) -> Any:
        seen = nnx.merge(graphdef, params, rest)
        seen(inputs)
        after: Any = nnx.split(seen, nnx.Param, ...)
        return after[2]

    for batch in loader:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        rest = observe(rest, jnp.asarray(inputs))
    nnx.update(model, rest)
    for module, momentum in momenta:
        module.momentum = momentum
    for module, mode in modes:
        module.training = mode


def _is_batch_norm(module: Any) -> bool:
    """Whether a module is a BatchNorm with statistics.

    The class's name decides, because this package does not import the layers.
    """
    named = any("BatchNorm" in kind.__name__ for kind in type(module).__mro__)
    return named and getattr(module, "running_mean", None) is not None
