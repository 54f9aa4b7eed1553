"""The states of several models in one.

A dictionary, a tuple, a dataclass or any other pytree with a TrainState for each model, and with
arrays of the user's own beside them. The state of one model is the simplest of these.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet._names import dotted, join, named_leaves
from jaxnet.optim import learning_rates
from jaxnet.train._state import TrainState


def is_state(x: Any) -> bool:
    return isinstance(x, TrainState)


def check_no_models(state: Any) -> None:
    """Raises TypeError if there is a model in a state, which is what PyTorch's loops take."""
    leaves = named_leaves(state, is_leaf=lambda x: is_state(x) or isinstance(x, nnx.Module))
    for name, leaf in leaves.items():
        if isinstance(leaf, nnx.Module) or type(leaf).__module__.startswith("torch."):
            where = f"{name!r} is a model" if name else "a model"
            raise TypeError(
                f"state: {where} ({type(leaf).__name__}); accepted is the state of a run: "
                "train.create(model, optimizer), with optim.frozen() as the optimizer of a model "
                "that is not trained"
            )


def described(state: Any) -> str:
    """A state in words, for errors: its models, their optimizers, and what is beside them."""
    texts = []
    for name, leaf in named_leaves(state, is_leaf=is_state).items():
        optimizer = f" with {leaf.optimizer.partition('(')[0]}" if is_state(leaf) else ""
        shape = f"an array of shape {jnp.shape(leaf)}" if hasattr(leaf, "shape") else repr(leaf)
        what = f"a {leaf.structure.model_name}{optimizer}" if is_state(leaf) else shape
        texts.append(f"{name}: {what}" if name else what)
    more = f" and {len(texts) - 8} more" if len(texts) > 8 else ""
    return f"{type(state).__name__} ({', '.join(texts[:8])}{more})"


def check_same_state(before: Any, after: Any) -> None:
    """Raises ValueError if a step gave back something else than a state like that it was given."""
    found: list[Any] = [jax.tree.flatten(state) for state in (before, after)]
    shapes = [list(map(jnp.shape, leaves)) for leaves, _ in found]
    if found[0][1] != found[1][1] or shapes[0] != shapes[1]:
        raise ValueError(
            f"step: it was given the state {described(before)}, and gave back {described(after)}; "
            "accepted is a state of the same models, optimizers and shapes"
        )


def map_states(change: Callable[..., Any], state: Any, *others: Any) -> Any:
    """A state with `change` of each TrainState in its stead; what else is in it stays.

    Args:
        change: A function of a TrainState, and of what the others have in its position.
        state: The state of one model or of several.
        *others: Pytrees of the same structure down to the TrainStates.
    """

    def one(part: Any, *rest: Any) -> Any:
        return change(part, *rest) if is_state(part) else part

    return jax.tree.map(one, state, *others, is_leaf=is_state)


def named_states(state: Any) -> dict[str, TrainState[Any]]:
    """The TrainStates in a state by name; that of a single model has the name ""."""
    found = named_leaves(state, is_leaf=is_state)
    return {name: part for name, part in found.items() if is_state(part)}


def first_state(state: Any) -> TrainState[Any]:
    """The first TrainState of a state, whose key and step count for what belongs to no model.

    Raises:
        TypeError: The state has no TrainState.
    """
    for part in named_states(state).values():
        return part
    raise TypeError(
        f"state: a {type(state).__name__}; accepted is the state of a run: "
        "train.create(model, optimizer), or a dictionary of these"
    )


def state_of(state: Any, model: str | int | None) -> TrainState[Any]:
    """The TrainState of the model that a step trains.

    Args:
        state: The state that the step was given.
        model: The name of the model in a state of several; None for the state of a single one.

    Raises:
        TypeError: The state has no TrainState.
        ValueError: There is no such model, or none is named and there are several.
    """
    first_state(state)
    found = named_states(state)
    name = "" if model is None else str(model)
    if name not in found:
        names = ", ".join(map(repr, found))
        raise ValueError(
            f"model: {model!r}, and the state is that of one model; leave `model` out"
            if is_state(state)
            else f"model: {model!r}; the state has the models {names}: say which of them the step "
            "trains, as make_train_step(loss, optimizer, model=...)"
        )
    return found[name]


def with_state(state: Any, model: str | int | None, new: TrainState[Any]) -> Any:
    """The state with another TrainState for one of its models."""
    name = "" if model is None else str(model)
    return jax.tree_util.tree_map_with_path(
        lambda path, part: new if is_state(part) and dotted(path) == name else part,
        state,
        is_leaf=is_state,
    )


def carried(state: Any) -> Any:
    """What an evaluation hands on from batch to batch: buffers, and what is no TrainState."""
    return map_states(lambda one: one.buffers, state)


def with_carried(state: Any, after: Any) -> Any:
    """A state with what `carried` gave of another one."""

    def put(one: Any, new: Any) -> Any:
        return one.replace(buffers=new) if is_state(one) else new

    return jax.tree.map(put, state, after, is_leaf=is_state)


def learning_rates_of(state: Any) -> dict[str, float]:
    """The learning rates by name: "lr" and "lr_1" of one model, "G.lr" and so on of several."""
    return {
        join(name, rate): value
        for name, one in named_states(state).items()
        for rate, value in learning_rates(one.opt_state).items()
    }


def arrays_of(state: Any) -> Any:
    """What forward passes may change: the parameters and buffers in place of each TrainState."""
    return map_states(lambda one: (one.params, one.buffers), state)


def with_arrays(state: Any, arrays: Any) -> Any:
    def put(one: TrainState[Any], changed: Any) -> TrainState[Any]:
        return one.replace(params=changed[0], buffers=changed[1])

    return map_states(put, state, arrays)


def weights_of(state: Any) -> Any:
    """What `patience` gives back of the best epoch: of each model all but the optimizer."""
    return map_states(lambda one: (one.params, one.buffers, one.average), state)


def with_weights(state: Any, best: Any) -> Any:
    """A state with what `weights_of` gave of another one."""

    def put(one: Any, kept: Any) -> Any:
        if not is_state(one):
            return kept
        return one.replace(params=kept[0], buffers=kept[1], average=kept[2])

    return jax.tree.map(put, state, best, is_leaf=is_state)
