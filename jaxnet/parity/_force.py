"""The layers of one step, each computed from what torch's layer before it gave.

In the forced program every call of a module gets the arguments that torch's module got, and
gives on what torch's module gave; the backward pass gets torch's gradient at every output. So
each number depends on one layer, or on what lies between two, and a fault shows where it is
made and nowhere else. In the chained program nothing is replaced.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnet.parity._trace import Step, Trace


@dataclasses.dataclass(frozen=True)
class FourRuns:
    """One array of the four runs; the arrays of JAX are None where the program has none."""

    torch: np.ndarray | None
    torch64: np.ndarray | None
    jax: np.ndarray | None
    jax64: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class StepEvidence:
    """What was computed of one step.

    Attributes:
        trace: The trace; `trace.modules[name].config` has the arguments of a module.
        step: The recorded step, with its calls and arrays.
        forced: The isolated arrays by site ("forward:fc1#0", "param_grad:fc1.weight",
            "buffer:bn.running_var", "update:fc1.weight", ...), each computed from torch's
            numbers.
        chained: The same sites, computed from what the program itself computed before.
        input_grads: The gradients of the loss by the arguments of calls ("fc1#0.0"), computed by
            the call's backward pass from torch's gradient of its output; torch's are not known.
        consumers: For an output ("conv1#0") the calls that got it unchanged as an argument.
        where: The file and line, in the program that is checked, of each call ("fc1#0").
        errors: What went wrong at a call instead of giving a number ("drop1#0": "...").
        subject: The program (`_subject.Subject`).
    """

    trace: Trace
    step: Step
    forced: dict[str, FourRuns]
    chained: dict[str, FourRuns]
    input_grads: dict[str, FourRuns]
    consumers: Mapping[str, tuple[str, ...]]
    where: Mapping[str, str]
    errors: Mapping[str, str]
    subject: Any
