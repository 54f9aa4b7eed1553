"""The free run: how long the program's own run of all steps is torch's."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxnet._names import join
from jaxnet.parity._evidence import FourRuns
from jaxnet.parity._result import Finding, Horizon
from jaxnet.parity._sites import phase_of
from jaxnet.parity._steps import Steps
from jaxnet.parity._subject import precision
from jaxnet.parity._trace import Step
from jaxnet.train._several import named_states

# Beyond this share of the way from the start two float32 runs say nothing about each other.
HORIZON = 1e-2
# How much further from float64 than the program's own float32 run torch's may be.
RUNS = 16


class FreeRun:
    """The program's own run over the recorded batches and draws, in both precisions.

    torch's float64 run over all steps is not recorded. The program's own stands for it, which
    holds as long as each step from torch's state is torch's.

    Args:
        steps: The steps.
        first: The first step.
        states: The states before it, in both precisions.
    """

    def __init__(self, steps: Steps, first: Step, states: Mapping[bool, Any]) -> None:
        self.steps = steps
        self._states = dict(states)
        self._start = {k: first[site].astype(np.float64) for k, site in first.of("before").items()}
        self.torch: list[float] = []
        self.jax: list[float] = []
        self.plain: list[float] = []
        self.moved: list[float] = []
        self.corner: int | None = None

    def advance(self, step: Step, own: Mapping[str, FourRuns]) -> None:
        """Makes a step, and notes how far the runs are from each other after it.

        Args:
            step: The step.
            own: What the program's step gives from torch's state before it, by site.
        """
        runs: dict[bool, dict[str, np.ndarray]] = {}
        for double in (False, True):
            with precision(double):
                self._states[double], _ = self.steps.step(step, self._states[double], double)
                runs[double] = {
                    join(self.steps.subject.models[name], k): np.asarray(v, np.float64)
                    for name, one in named_states(jax.device_get(self._states[double])).items()
                    for k, v in one.params.items()
                }
        torch = {k: step[site].astype(np.float64) for k, site in step.of("update").items()}
        self.torch.append(_distance(torch, runs[True]))
        self.jax.append(_distance(runs[False], runs[True]))
        self.plain.append(_distance(torch, runs[False]))
        self.moved.append(_distance(torch, self._start))
        # Distances of different parameters say nothing of each other.
        four = {
            site: f
            for site, f in own.items()
            if phase_of(site) == "update" and f.torch64 is not None and f.jax64 is not None
        }
        t, t64, j, j64 = (
            {site: np.asarray(getattr(f, n), np.float64) for site, f in four.items()}
            for n in ("torch", "torch64", "jax", "jax64")
        )
        if self.corner is None and _distance(t, t64) > RUNS * _distance(j, j64):
            self.corner = len(self.torch) - 1


def _distance(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float:
    """The 2-norm of the difference of all parameters."""
    both = a.keys() & b.keys()
    return float(np.sqrt(sum(float(np.sum(np.square(_apart(a[k], b[k])))) for k in both)))


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The difference, which is zero where both have the same infinite number or nan."""
    with np.errstate(invalid="ignore"):
        return np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, a - b)


def horizon_of(free: FreeRun) -> Horizon:
    """The distances of the runs, and the step beyond which they say nothing."""
    # The program's own rounding: the distance to torch's run would let a wrong program say that
    # nothing can be told of it.
    runs = zip(free.jax, free.moved, strict=True)
    beyond = [i for i, (e, m) in enumerate(runs) if e > HORIZON * m or not math.isfinite(m)]
    equal = 0
    for theirs, own in zip(free.torch, free.jax, strict=True):
        if not theirs <= RUNS * own:  # nan is not equal
            break
        equal += 1
    return Horizon(
        tuple(free.torch),
        tuple(free.jax),
        tuple(free.plain),
        tuple(free.moved),
        equal,
        beyond[0] if beyond else None,
        free.corner,
    )


def apart_in(horizon: Horizon) -> int | None:
    """The first step in which the free runs are apart, though each step by itself is the same."""
    for i, (theirs, own, moved) in enumerate(
        zip(horizon.torch, horizon.jax, horizon.moved, strict=True)
    ):
        if i in (horizon.horizon, horizon.corner):
            return None
        if not (theirs <= RUNS * own or theirs <= 1e-4 * moved):
            return i
    return None


def drift(step: int, horizon: Horizon) -> Finding:
    """The finding of free runs that are apart from a step on."""
    return Finding(
        site="update:",
        step=step,
        level="run",
        kind="different",
        message="each step from torch's state is torch's, but the run of all steps is not: what "
        "one step hands on to the next differs",
        proof=f"after step {step} torch's parameters are {horizon.torch[step]:.1e} from the "
        f"program's in float64, those of its own float32 {horizon.jax[step]:.1e}",
    )
