"""torch's learning rates, in place of those of a checked program's optimizer."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim import set_hyperparams
from jaxnet.optim._hyperparams import states
from jaxnet.optim._schedule import ScheduledState
from jaxnet.parity._trace import Step, Trace


def with_rates(opt_state: Any, rates: Sequence[float], first: int) -> Any:
    """An optimizer's state with recorded learning rates, in place of those of a schedule too."""
    count = len(states(opt_state))
    theirs = list(rates[first : first + count])
    if len(theirs) < count:
        return opt_state
    for i, state in enumerate(states(opt_state)):
        if "lr" in state.hyperparams:
            opt_state = set_hyperparams(opt_state, group=i, lr=theirs[i])

    def fixed(part: Any) -> Any:
        if not isinstance(part, ScheduledState):
            return part
        tables = tuple(
            {k: jnp.full_like(v, theirs[i]) if k == "lr" else v for k, v in table.items()}
            for i, table in enumerate(part.tables)
        )
        return part._replace(tables=tables)

    return jax.tree.map(fixed, opt_state, is_leaf=lambda x: isinstance(x, ScheduledState))


def rates_of(step: Step) -> list[float]:
    """torch's learning rates of all groups of all optimizers in a step."""
    return [float(group["lr"]) for groups in step.groups for group in groups if "lr" in group]


def first_group(trace: Trace, model: str) -> int:
    """The number of the first group of the optimizer of a model, among all groups."""
    number = 0
    for optimizer in trace.optimizers:
        names = [n for group in optimizer["groups"] for n in group["params"]]
        if not model or any(n.startswith(f"{model}.") for n in names):
            return number
        number += len(optimizer["groups"])
    return 0
