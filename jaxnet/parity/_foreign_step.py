"""A training step of the user's own on its own state, as one of a state with torch's parameters."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

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


class Place(Protocol):
    """Where a state of the user's own has the arrays of the model.

    Attributes:
        model: The model.
        rest: All other arrays of the state.
        optimizers: The transformations of optax that are known of it.
    """

    model: nnx.Module
    rest: tuple[Any, ...]
    optimizers: tuple[Any, ...]

    def calls(self) -> Sequence[str]:
        """The names of the layers in the order of their first calls, as far as they are known."""

    def state(self, arrays: Mapping[str, Any], rest: Sequence[Any], double: bool) -> Any:
        """The user's state.

        Args:
            arrays: The arrays of the model by name.
            rest: The other arrays.
            double: Whether they are in float64.
        """

    def running(self, double: bool) -> AbstractContextManager[Any]:
        """The context in which the step is run."""

    def taken(self, given: Any, result: Any) -> tuple[dict[str, Any], tuple[Any, ...], Any]:
        """The arrays of the model after a step, the others, and its metrics.

        Args:
            given: The state that the step was given.
            result: What it returned.
        """


class ObjectPlace:
    """A state of flax's objects, which a step changes or returns anew."""

    def __init__(self, state: Any) -> None:
        found = model_in(state)
        assert found is not None
        prefix, self.model = found
        self._graph, arrays = nnx.split(state)
        flat = {path: v.get_value() for path, v in nnx.to_flat_state(arrays)}
        own = nnx.to_flat_state(nnx.state(self.model))
        self._own = {".".join(map(str, path)): (*prefix, *path) for path, _ in own}
        known = {*self._own.values()}
        self._order = tuple(path for path in flat if path not in known)
        self.rest = tuple(flat[path] for path in self._order)
        self.optimizers = tuple(_optimizers_in(state))

    def calls(self) -> Sequence[str]:
        return ()

    def state(self, arrays: Mapping[str, Any], rest: Sequence[Any], double: bool) -> Any:
        given = {self._own[n]: a for n, a in arrays.items()}
        given |= dict(zip(self._order, rest, strict=True))
        objects = nnx.merge(self._graph, nnx.from_flat_state(given.items()))
        inner = model_in(objects)
        assert inner is not None
        if double:
            widened(inner[1])
        return objects

    def running(self, double: bool) -> AbstractContextManager[Any]:
        return nullcontext()

    def taken(self, given: Any, result: Any) -> tuple[dict[str, Any], tuple[Any, ...], Any]:
        objects, metrics = given, result
        if isinstance(result, tuple) and len(result) == 2 and model_in(result[0]) is not None:
            objects, metrics = result
        after = {path: v.get_value() for path, v in nnx.to_flat_state(nnx.split(objects)[1])}
        arrays = {name: after[path] for name, path in self._own.items()}
        return arrays, tuple(after[path] for path in self._order), metrics


def foreign_step(
    trace: Trace, step: Callable[..., Any], place: Place, names: Names | None
) -> ForeignStep:
    """A step `(state, batch)` of the user's own as one of a state with torch's parameters.

    What it returns is the loss, metrics with a "loss", or the pair of the state and these.

    Args:
        trace: The trace.
        step: The step.
        place: Where its state has the arrays of the model.
        names: As in `pair`.

    Raises:
        SubjectError: The layers cannot be paired.
    """
    model = place.model
    pairing = pair(trace, model, names, place.calls)
    module = adapted(trace, model, pairing)
    content = module.content
    precision = chosen_precision()

    def run(one: TrainState[Any], batch: Any) -> tuple[TrainState[Any], Any]:
        before: Adapted = one.model(training=True)
        mine = before.arrays()
        double = any(jnp.asarray(a).dtype == jnp.float64 for a in one.params.values())
        state = place.state(mine, one.opt_state, double)
        with as_by_itself(precision), place.running(double):
            result = step(state, batch)
        after, rest, metrics = place.taken(state, result)
        changed = {n: after[n] for n in content.pairing.made}
        torch = {**one.params, **one.buffers}
        moved = _moved(content.pairing, torch, mine, changed)
        buffers = {
            n: moved[n] if n in moved else after[n.removeprefix("flax:")] for n in one.buffers
        }
        done = one.replace(
            step=one.step + 1,
            params={n: moved[n] for n in one.params},
            buffers=buffers,
            opt_state=rest,
        )
        if isinstance(metrics, tuple):
            metrics = metrics[0]
        return done, metrics if isinstance(metrics, Mapping) else {"loss": metrics}

    start = create(module, optax.identity()).replace(opt_state=place.rest)
    modules = {each.module for each in foreign_calls(trace, model, pairing).values()}
    return ForeignStep(as_seen(trace, modules), start, run, pairing, place.optimizers)


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
