"""The state of an optimizer in float64, whose hyperparameters are the decimals that were meant."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnet._mixed_precision import cast_floats
from jaxnet.optim._optimizer import OptimizerState
from jaxnet.optim._schedule import ScheduledState


def exact(opt_state: Any) -> Any:
    """An optimizer's state in float64, whose single numbers are the decimals that were meant."""

    def cast(x: Any) -> Any:
        if not (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)):
            return x
        return jnp.float64(float(str(np.asarray(x)))) if x.ndim == 0 else jnp.asarray(x, float)

    return jax.tree.map(cast, opt_state)


def with_arrays(fresh: Any, old: Any) -> Any:
    """A new state of an optimizer with the slots of another one, and hyperparameters of its own.

    A hyperparameter that was changed by hand since is the decimal that was meant.
    """

    def number(new: Any, given: Any) -> Any:
        same = np.float32(new) == np.float32(given)
        return new if same else jnp.float64(float(str(np.asarray(given))))

    def join(new: Any, given: Any) -> Any:
        if isinstance(new, ScheduledState):
            return new._replace(inner=merge(new.inner, given.inner))
        if isinstance(new, OptimizerState):
            hyper = {k: number(v, given.hyperparams[k]) for k, v in new.hyperparams.items()}
            rest = cast_floats((given.shared, given.slots), jnp.float64)
            return given._replace(hyperparams=hyper, shared=rest[0], slots=rest[1])
        return exact(given)

    def merge(new: Any, given: Any) -> Any:
        ours = (OptimizerState, ScheduledState)
        return jax.tree.map(join, new, given, is_leaf=lambda x: isinstance(x, ours))

    return merge(fresh, old)
