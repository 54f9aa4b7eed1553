"""The search for the first number of a training step that is nan or infinite."""

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxnet._intercept import Call, intercept
from jaxnet._names import join, named_leaves
from jaxnet.precision import full_float32
from jaxnet.train._loss import entered, with_step
from jaxnet.train._several import map_states, named_states, state_of, with_state
from jaxnet.train._state import TrainState, split
from jaxnet.train._step import TrainStep, noting_steps


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The first nan or infinite numbers of a training step; None stands for none.

    Attributes:
        batch: The path of the first array of the batch that is not finite, such as "[0]".
        layer: The name of the first layer, in the order of the computation, whose output is
            not finite. None as well if its input was not finite although the batch is: then
            the cause is what the model computes before the layer, which the lines say.
        parameter: The name of the first parameter, in the model's order, whose value is not
            finite.
        gradient: The name of the first parameter whose gradient is not finite.
        lines: The same in words, with the counts of nan and infinite numbers.
    """

    batch: str | None
    layer: str | None
    parameter: str | None
    gradient: str | None
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.lines)


class NonFiniteError(FloatingPointError):
    """A training step whose loss or parameters are not finite.

    Attributes:
        epoch: The number of the epoch, counted from 1.
        step: The number of the step within the epoch, counted from 1.
        state: The training state before the step.
        batch: The batch of the step.
        diagnosis: The first numbers of the step that are not finite.
    """

    def __init__(self, epoch: int, step: int, state: Any, batch: Any, diagnosis: Diagnosis) -> None:
        if diagnosis.batch is not None:
            advice = "The data is the cause: clean it"
        elif diagnosis.parameter is not None:
            advice = "The state before the step is the cause: go back to one that was finite"
        else:
            advice = "A smaller learning rate or clipped gradients may help"
        super().__init__(
            f"epoch {epoch}, step {step}: not finite: {diagnosis}. {advice}; "
            'fit(nonfinite="skip") leaves such steps out'
        )
        self.epoch, self.step, self.state, self.batch = epoch, step, state, batch
        self.diagnosis = diagnosis


@full_float32()
def diagnose(state: Any, step: Any, batch: Any) -> Diagnosis:
    """Repeats a training step without compiling it, and finds its first number not finite.

    It answers the question for which PyTorch has `torch.autograd.detect_anomaly`, after the
    fact, so that training itself does not become slower.

    Args:
        state: The training state before the step, of one model or of several.
        step: The step, as `make_train_step` returns it, or a function that is put together from
            such steps.
        batch: The batch of the step.

    >>> from jaxnet import losses, nn, optim, train
    >>> from jaxnet.random import Generator
    >>> model = nn.Sequential(nn.Linear(1, 1, rngs=Generator(0)), nn.LogSigmoid())
    >>> step = train.make_train_step(train.supervised(losses.mse_loss), optim.SGD(lr=0.1))
    >>> state = train.create(model, optim.SGD(lr=0.1))
    >>> train.diagnose(state, step, (jnp.array([[jnp.inf]]), jnp.ones((1, 1)))).layer
    '0'
    """
    # In the order of cause and effect: the batch, the layers, the loss, the gradients.
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    bad_batch, said = _first({jax.tree_util.keystr(path): leaf for path, leaf in leaves})
    lines = [f"batch{bad_batch}: {said}"] if said else []
    if not isinstance(step, TrainStep):
        return _of_a_function(state, step, batch, bad_batch, lines)
    layer, own = None, state_of(state, step.model)
    # The key of the step itself, so that dropout draws the same masks again.
    key, call = jax.random.fold_in(own.key, own.step), with_step(step.loss)

    def value(params: Any, watch: bool = False) -> Any:
        now = with_state(state, step.model, own.replace(params=params))
        seen: list[tuple[str, str, str | None]] = []
        with ExitStack() as stack:
            inside = entered(now, batch, key, step.compute_dtype, True, step.batch_norm_parts)
            models, given = stack.enter_context(inside)
            for name, model in _models(models).items() if watch else ():
                stack.enter_context(intercept(model, _noting(seen, name)))
            result = call(models, given, own.step)
        after = {name: split(model)[2] for name, model in _models(models).items() if watch}
        return result[0] if isinstance(result, tuple) else result, (seen, after)

    result, (seen, after) = value(own.params, watch=True)
    if seen and seen[0][2] and bad_batch is None:
        name, _, what = seen[0]
        lines.append(f"what is computed before the layer {name}: in its input {what}")
    elif seen:
        layer, what, _ = seen[0]
        lines.append(f"the first layer is {layer}: in its output {what}")
    elif not np.isfinite(np.asarray(result)).all():
        lines.append("every layer's output is finite, the loss is not")
    states = named_states(state)
    for of, buffers in after.items():
        buffer, said = _first(buffers)
        if buffer is not None and _nonfinite(states[of].buffers[buffer]) is None:
            lines.append(f"the first buffer is {join(of, buffer)}: in its new value {said}")
    parameter, said = _first(_parameters(state))
    lines += [f"the first parameter is {parameter}: in its value {said}"] if parameter else []
    gradients = jax.grad(lambda params: value(params)[0])(own.params)
    gradient, said = _first({name: gradients[name] for name in _in_order(own)})
    lines += [f"the first gradient is that of {gradient}: {said}"] if gradient else []
    if not lines:
        lines.append("the step's update, not its loss or gradients")
    return Diagnosis(bad_batch, layer, parameter, gradient, tuple(lines))


def _of_a_function(
    state: Any, step: Any, batch: Any, bad_batch: str | None, lines: list[str]
) -> Diagnosis:
    """The diagnosis of a step of one's own: that of the steps in it, if its state is finite."""
    beside = named_leaves(map_states(lambda one: None, state))
    parameter, said = _first({**_parameters(state), **beside})
    lines += [f"the state before the step: in {parameter} {said}"] if said else []
    with noting_steps() as noted:
        if not lines:
            step(state, batch)
    for inner, its_state, its_batch in noted:
        leaves = jax.tree.leaves((its_state, its_batch))
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            continue  # the function compiles it by itself
        found = diagnose(its_state, inner, its_batch)
        if found.batch is not None or found.layer or found.parameter or found.gradient:
            of = "" if inner.model is None else f" of the model {inner.model!r}"
            # Its batch is what the function computed, and not the data.
            return dataclasses.replace(
                found, batch=None, lines=(f"in the step{of}: {found.lines[0]}", *found.lines[1:])
            )
    lines = lines or ["the step's loss or the state that it gave, not its batch"]
    return Diagnosis(bad_batch, None, parameter, None, tuple(lines))


def _models(models: Any) -> dict[str, Any]:
    found = named_leaves(models, is_leaf=lambda x: isinstance(x, nnx.Module))
    return {name: model for name, model in found.items() if isinstance(model, nnx.Module)}


def _parameters(state: Any) -> dict[str, Any]:
    """The parameters of all models of a state by name, in the order of each model."""
    return {
        join(of, name): one.params[name]
        for of, one in named_states(state).items()
        for name in _in_order(one)
    }


def _in_order(state: TrainState[Any]) -> list[str]:
    model = state.model()
    if not hasattr(model, "named_parameters"):
        return list(state.params)
    names = [name for name, _ in model.named_parameters() if name in state.params]
    return names + [name for name in state.params if name not in names]


def _first(named: dict[str, Any]) -> tuple[str | None, str | None]:
    """The name of the first array that is not finite, and what is in it."""
    found = ((name, what) for name, array in named.items() if (what := _nonfinite(array)))
    return next(found, (None, None))


def _nonfinite(leaf: Any) -> str | None:
    if isinstance(leaf, jax.core.Tracer) or not hasattr(leaf, "dtype"):
        return None
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return None
    array = np.asarray(leaf)
    # bfloat16 and float8 are of another kind to numpy; float32 represents them exactly.
    array = array if array.dtype.kind in "fc" else array.astype(np.float32)
    if np.isfinite(array).all():
        return None
    nans, infinite = np.isnan(array).sum(), np.isinf(array).sum()
    return f"{nans} nan and {infinite} infinite of {array.size} numbers"


def _noting(seen: list[tuple[str, str, str | None]], of: str) -> Callable[..., Any]:
    """An interceptor that notes the modules whose outputs are not finite, as they finish.

    With each is what it says of its output, and of its inputs if these are not finite either.

    A layer finishes before the layers that contain it, so the innermost is noted first.
    """

    def note(call: Call, proceed: Callable[..., Any]) -> Any:
        _, given = _first(named_leaves((call.args, call.kwargs)))
        outputs = proceed(*call.args, **call.kwargs)
        _, what = _first(named_leaves(outputs))
        if what:
            name = join(of, call.name) if call.name else of
            seen.append((name or type(call.module).__name__, what, given))
        return outputs

    return note
