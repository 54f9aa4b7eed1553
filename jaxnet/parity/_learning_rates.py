"""The learning rates of both programs over all steps that their schedules say, not only recorded.

A check runs the recorded steps alone, in which a schedule by epochs hardly acts.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from jaxnet._names import join
from jaxnet.optim import Optimizer
from jaxnet.optim._hyperparams import states
from jaxnet.optim._schedule import ScheduledState
from jaxnet.parity._result import Setting
from jaxnet.parity._schedules import PLATEAU, build, rates
from jaxnet.parity._trace import Trace

UNKNOWN = "it is not known what it does after the recorded steps"
_KIND = "learning rate"


def learning_rates(trace: Trace, model: str, optimizer: Optimizer, one: Any) -> Iterator[Setting]:
    """How the schedules differ, or what of torch's could not be read.

    Args:
        trace: The trace.
        model: The name of the recorded model.
        optimizer: The optimizer of the checked program.
        one: Its state of the training.
    """
    partition = optimizer.partition(one.params)
    owner = {join(model, name): i for i, names in enumerate(partition) for name in names}
    tables = _tables(one.opt_state)
    constant = [float(np.asarray(s.hyperparams.get("lr", np.nan))) for s in states(one.opt_state)]
    done: set[tuple[str, str]] = set()
    for i, theirs in enumerate(trace.optimizers):
        for j, group in enumerate(theirs["groups"]):
            own = next((owner[name] for name in group["params"] if name in owner), None)
            if own is None or "lr" not in group:
                continue
            table = tables[own] if own < len(tables) else None
            for message, fix, effect in _group(trace, i, j, table, constant[own]):
                if (message, fix) not in done:  # of several groups once
                    done.add((message, fix))
                    yield Setting(_KIND, "optimizer", message, fix, effect=effect)


def _group(
    trace: Trace, optimizer: int, group: int, table: np.ndarray | None, constant: float
) -> Iterator[tuple[str, str, str]]:
    """Message, fix and effect of each difference in one parameter group."""
    reference = rates(trace, optimizer, group)
    known, kind = reference.known, reference.kind
    named = ", ".join(dict.fromkeys(each["class"] for each in trace.schedulers))
    last = len(known) - 1
    if kind not in ("lr", PLATEAU):
        schedule = build(kind, reference.config)

        def torch(step: int) -> float:
            return float(schedule(step)[0]["lr"])

        words = _called(trace, kind)
        if table is None:
            if not all(_alike(torch(step), constant) for step in range(2)) or _moves(torch):
                yield f"it stays {constant:.7g}; torch's program has {words}", words, ""
            return
        step, every = _apart(torch, table)
        if step is not None and _alike(torch(0), table[0]) and _is_steady(table):
            if every:
                more = f", which stays so only if scheduler.step() is called once in {every} "
                more += "updates or less often"
            yield (
                f"it stays {table[0]:.7g} in the {len(table)} updates that are known of it; "
                f"torch's program has {words}{more if every else ''}",
                words,
                UNKNOWN if every else "",
            )
        elif step is not None and every:
            yield (
                f"it is that of torch's {kind} only if torch's program calls scheduler.step() "
                f"once in {every} updates or so",
                "compare by hand how often it is called",
                UNKNOWN,
            )
        elif step is not None:
            yield (
                f"from the schedule's step {step} on it is {table[step]:.7g}; torch's {kind} gives "
                f"{torch(step):.7g} there",
                words,
                "",
            )
        return
    steady = all(_alike(rate, known[0]) for rate in known)
    own = table if table is not None else np.full(1, constant)
    changed = [step for step in range(len(own)) if not _alike(own[step], own[0])]
    if named:  # such as LambdaLR, or a plateau's
        yield f"torch's {named} cannot be computed here", f"compare {named} by hand", UNKNOWN
    elif steady and changed:
        yield (
            f"from its schedule's step {changed[0]} on it is {own[changed[0]]:.7g}; torch's stays "
            f"{known[0]:.7g} in the {last + 1} recorded steps, and there is no scheduler",
            "no schedule, unless the torch program sets group['lr'] later",
            "",
        )
    elif not steady:
        yield "torch's program sets it by hand", "compare it by hand", UNKNOWN
    if steady and not named and not _alike(known[0], own[0]):
        yield f"it is {own[0]:.7g}; torch's is {known[0]:.7g}", f"lr={known[0]:.7g}", ""


def _tables(opt_state: Any) -> list[np.ndarray]:
    """The learning rates of each group by the schedule's step; none without a schedule."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: isinstance(x, ScheduledState))
    for leaf in leaves:
        if isinstance(leaf, ScheduledState):
            return [np.asarray(table["lr"], np.float64) for table in leaf.tables if "lr" in table]
    return []


def _apart(
    torch: Callable[[int], float], table: Sequence[float] | np.ndarray
) -> tuple[int | None, int]:
    """The first step of a schedule in which a table has another rate; None if there is none.

    And in how many updates the schedule would have to step once to give the table; 0 if none do.
    """
    theirs = [torch(step) for step in range(len(table))]
    wrong = [step for step, own in enumerate(table) if not _alike(theirs[step], float(own))]
    if not wrong:
        return None, 0
    # A table by updates may hold each rate of a schedule by epochs several times.
    for every in range(2, len(table)):
        if all(_alike(theirs[step // every], float(own)) for step, own in enumerate(table)):
            return wrong[0], every
    return wrong[0], 0


def _is_steady(table: Sequence[float] | np.ndarray) -> bool:
    return all(_alike(rate, table[0]) for rate in table)


def _moves(torch: Callable[[int], float], most: int = 1000) -> bool:
    try:
        return any(not _alike(torch(step), torch(0)) for step in range(most))
    except ValueError:  # OneCycleLR ends
        return True


def _alike(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=2e-6, abs_tol=1e-12)


def _called(trace: Trace, kind: str) -> str:
    """The schedule of a class as it is called."""
    config = next(each["config"] for each in trace.schedulers if each["class"] == kind)
    given = ", ".join(
        f"{name}={value!r}" for name, value in config.items() if name not in ("last_epoch",)
    )
    return f"{kind}({given})"
