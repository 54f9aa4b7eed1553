"""A training step of plain flax on its own objects, as one of a state with torch's parameters."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx

from jaxnet.parity._foreign import Adapted, adapted, as_by_itself, chosen_precision
from jaxnet.parity._foreign_calls import foreign_calls
from jaxnet.parity._foreign_trace import as_seen
from jaxnet.parity._jax_draws import PLAIN, Layouts
from jaxnet.parity._layouts import to_model, to_torch
from jaxnet.parity._names_file import Names
from jaxnet.parity._pairing import Pairing, pair
from jaxnet.parity._trace import Trace
from jaxnet.parity._widened import widened
from jaxnet.train import create
from jaxnet.train._state import TrainState


@dataclasses.dataclass(frozen=True)
class ForeignStep:
    """A step of the user's own as one of torch's parameters.

    Attributes:
        trace: The trace as the program sees it.
        state: The state, whose `opt_state` is all that the user's has beside the model.
        step: The step of it.
        pairing: Which layers are which of torch's.
        optimizers: The transformations of optax in the optimizers of the user's state.
        layouts: The layouts of its data beside torch's.
    """

    trace: Trace
    state: TrainState[Any]
    step: Callable[[Any, Any], tuple[Any, Any]]
    pairing: Pairing
    optimizers: tuple[Any, ...] = ()
    layouts: Layouts = PLAIN


def model_in(state: Any) -> tuple[tuple[Any, ...], nnx.Module] | None:
    """The first model in a state of flax's objects, with its path; None if there is none.

    Args:
        state: A model, an nnx.ModelAndOptimizer, or a tuple, list or dictionary with one.
    """
    if isinstance(state, nnx.Optimizer):
        inner = vars(state).get("model")
        return (("model",), inner) if isinstance(inner, nnx.Module) else None
    if isinstance(state, nnx.Module):
        return (), state
    parts: Mapping[Any, Any] = {}
    if isinstance(state, tuple | list):
        parts = dict(enumerate(state))
    elif isinstance(state, Mapping):
        parts = state
    for key, part in parts.items():
        if (found := model_in(part)) is not None:
            return (key, *found[0]), found[1]
    return None


def _optimizers_in(state: Any) -> Iterator[Any]:
    """The transformations of the optimizers in a state of flax's objects."""
    if isinstance(state, nnx.Optimizer):
        yield state.tx
    elif isinstance(state, tuple | list):
        for part in state:
            yield from _optimizers_in(part)
    elif isinstance(state, Mapping):
        yield from _optimizers_in([*state.values()])
    elif isinstance(state, nnx.Module):
        yield from _optimizers_in([*vars(state).values()])


def foreign_step(
    trace: Trace, step: Callable[..., Any], state: Any, names: Names | None
) -> ForeignStep:
    """A step `(state, batch)` of flax's objects, which it changes or returns anew.

    What it returns is the loss, metrics with a "loss", or the pair of the state and these.

    Args:
        trace: The trace.
        step: The step.
        state: Its state, such as (model, nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)).
        names: As in `pair`.

    Raises:
        SubjectError: The layers cannot be paired.
    """
    found = model_in(state)
    assert found is not None
    prefix, model = found
    pairing = pair(trace, model, names)
    module = adapted(trace, model, pairing)
    content = module.content
    graph, arrays = nnx.split(state)
    flat = {path: v.get_value() for path, v in nnx.to_flat_state(arrays)}
    own = {name: (*prefix, *path) for name, path in content.paths.items()}
    rest = {path: array for path, array in flat.items() if path not in own.values()}
    order = tuple(rest)
    precision = chosen_precision()

    def run(one: TrainState[Any], batch: Any) -> tuple[TrainState[Any], Any]:
        before: Adapted = one.model(training=True)
        mine = before.arrays()
        given = {own[n]: a for n, a in mine.items()} | dict(zip(order, one.opt_state, strict=True))
        objects = nnx.merge(graph, nnx.from_flat_state(given.items()))
        inner = model_in(objects)
        assert inner is not None
        if any(jnp.asarray(a).dtype == jnp.float64 for a in one.params.values()):
            widened(inner[1])
        with as_by_itself(precision):
            result = step(objects, batch)
        metrics = result
        if isinstance(result, tuple) and len(result) == 2 and model_in(result[0]) is not None:
            objects, metrics = result
        after = {path: v.get_value() for path, v in nnx.to_flat_state(nnx.split(objects)[1])}
        changed = {n: after[own[n]] for n in content.pairing.made}
        torch = {**one.params, **one.buffers}
        moved = _moved(content.pairing, torch, mine, changed)
        buffers = {
            n: moved[n] if n in moved else after[own[n.removeprefix("flax:")]] for n in one.buffers
        }
        done = one.replace(
            step=one.step + 1,
            params={n: moved[n] for n in one.params},
            buffers=buffers,
            opt_state=tuple(after[path] for path in order),
        )
        if isinstance(metrics, tuple):
            metrics = metrics[0]
        return done, metrics if isinstance(metrics, Mapping) else {"loss": metrics}

    start = create(module, optax.identity()).replace(opt_state=tuple(rest.values()))
    modules = {each.module for each in foreign_calls(trace, model, pairing).values()}
    return ForeignStep(as_seen(trace, modules), start, run, pairing, tuple(_optimizers_in(state)))


def _moved(
    pairing: Pairing, torch: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """torch's arrays after a step; the change of a sum goes to its summands in equal shares."""
    made = pairing.made
    sums = {n: one for n, one in made.items() if one.summands > 1}
    found = to_torch(made, after, {n: torch[n] for one in made.values() for n in one.names})
    if sums:
        like = {n: torch[n] for one in sums.values() for n in one.names}
        old = to_model(sums, torch)
        change = to_torch(sums, {n: after[n] - old[n] for n in sums}, like)
        found |= {n: torch[n] + change[n] for n in like}
    return {n: array.astype(torch[n].dtype) for n, array in found.items()}
