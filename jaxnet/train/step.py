"""Training and evaluation steps: pure functions of (state, batch)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from jaxnet.keys import keys
from jaxnet.train.state import TrainState, merge, split

__all__ = ["make_eval_step", "make_train_step", "supervised"]

Metrics = dict[str, Any]
Loss = Callable[[Any, Any], Any]
Step = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def supervised(
    criterion: Callable[[Any, Any], jax.Array],
    metrics: Mapping[str, Callable[[Any, Any], Any]] | None = None,
) -> Loss:
    """The usual loss: `criterion(model(inputs), targets)` for a batch (inputs, targets).

    Args:
        criterion: of outputs and targets, such as `losses.cross_entropy`.
        metrics: further functions of outputs and targets, by name.
    """

    def loss(model: Any, batch: Any) -> tuple[jax.Array, Metrics]:
        inputs, targets = batch
        outputs = model(inputs)
        measured = {name: f(outputs, targets) for name, f in (metrics or {}).items()}
        return criterion(outputs, targets), measured

    return loss


def make_train_step(loss: Loss, optimizer: optax.GradientTransformation) -> Step:
    """A step that trains: gradient of the loss, then the optimizer's update.

    Args:
        loss: `loss(model, batch)` gives a scalar, or a scalar and a dictionary of
            metrics. The model comes in training mode, inside a `jaxnet.keys.keys`
            context with `fold_in(state.key, state.step)` for dropout and the like.
        optimizer: its updates are added to the parameters.

    Returns:
        A pure function `(state, batch) -> (state, metrics)`, not yet compiled:
        call it through `jax.jit`, or give it to `make_epoch`. `metrics["loss"]`
        is the loss before the update, as PyTorch's loop prints it.
    """

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        def objective(params):
            model = merge(state.structure, params, state.buffers)
            model.train()
            with keys(jax.random.fold_in(state.key, state.step)):
                value, metrics = _with_metrics(loss(model, batch))
            return value, (metrics, split(model)[2])

        gradient = jax.value_and_grad(objective, has_aux=True)
        (value, (metrics, buffers)), grads = gradient(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            buffers=buffers,
            opt_state=opt_state,
        )
        return state, {"loss": value, **metrics}

    return step


def make_eval_step(loss: Loss) -> Step:
    """A step that only measures: the model in evaluation mode, the state unchanged."""

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        value, metrics = _with_metrics(loss(state.model(), batch))
        return state, {"loss": value, **metrics}

    return step


def _with_metrics(result: Any) -> tuple[jax.Array, Metrics]:
    value, metrics = result if isinstance(result, tuple) else (result, {})
    if value.ndim != 0:
        raise ValueError(
            f"loss: it gave an array of shape {value.shape}; a loss is one number, "
            "so take the mean or the sum"
        )
    return value, metrics
