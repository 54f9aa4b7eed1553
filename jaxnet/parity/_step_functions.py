"""The functions of whole steps that are compiled."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from jaxnet.optim import Optimizer
from jaxnet.parity._draws import DrawsError, Replay, described
from jaxnet.parity._jax_draws import PLAIN, supplied
from jaxnet.parity._loops import one_by_one
from jaxnet.parity._subject import Subject
from jaxnet.parity._trace import Step
from jaxnet.parity._watch import Plan
from jaxnet.precision import full_float32


def replayed(
    subject: Subject, recorded: Step, order: Sequence[int]
) -> Callable[..., tuple[Any, list[Any]]]:
    """The step on the batches of a recorded one, with its draws."""
    plan = Plan(recorded, subject.trace.modules)
    calls = (call for calls in plan.calls.values() for call in calls)
    needed = {number for call in calls for number in call.draws}

    def run(state: Any, batches: Any, draws: Any) -> tuple[Any, list[Any]]:
        replay = Replay(recorded.draws, dict(enumerate(draws)), list(order), [])
        losses = []
        foreign = subject.partners is not None
        layouts = PLAIN if subject.partners is None else subject.partners.layouts
        with (
            one_by_one(replay.concerns),
            supplied(replay.take, foreign, layouts, plan.is_inside(replay)),
        ):
            for batch in batches:
                state, metrics = subject.step(state, batch)
                losses.append(metrics.get("loss") if isinstance(metrics, Mapping) else None)
        for number in replay.left:
            if number in needed:
                raise DrawsError(
                    f"torch's step draws {described(recorded.draws[number])} in a module, which "
                    "the program's step does not"
                )
        return state, losses

    return run


def updating(
    optimizer: Any, missing: Sequence[str], batches: int, mean: bool
) -> Callable[..., tuple[Any, Any]]:
    """The function of (gradients, state, parameters) that gives both after the update."""

    def run(gradients: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
        extra: dict[str, Any] = {}
        if missing and isinstance(optimizer, Optimizer):
            extra["has_gradient"] = dict.fromkeys(missing, False)
        # An optimizer that collects gradients is given all of them in the last of its calls.
        for i in range(batches):
            share = (batches if mean else 1) if i == batches - 1 else 0
            given = jax.tree.map(lambda g, s=share: g * s, gradients) if batches > 1 else gradients
            with full_float32():
                updates, opt_state = optimizer.update(given, opt_state, params, **extra)
            with jax.numpy_dtype_promotion("standard"):
                params = optax.apply_updates(params, updates)
        return params, opt_state

    return run
