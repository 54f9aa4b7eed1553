"""The numbers of both programs, from which verdicts and causes are made."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxnet.parity._judgement import LEFT, SAME, SAME_SCALE, rms
from jaxnet.parity._subject import Subject
from jaxnet.parity._trace import Step, Trace

Numbers = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FourRuns:
    """One array of the four runs; the arrays of JAX are None where the program has none.

    `spread` is how far one unit in the last place of what JAX's program is given moves `jax`, where
    that was measured since there is no float64.
    """

    torch: np.ndarray | None
    torch64: np.ndarray | None
    jax: np.ndarray | None
    jax64: np.ndarray | None
    spread: np.ndarray | None = None


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
    subject: Subject


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The numbers of one isolated part of both programs, each by the names of `observe`.

    Attributes:
        torch: The torch program's numbers in float32.
        torch64: Those in float64.
        jax: The JAX program's numbers in float32.
        jax64: Those in float64.
    """

    torch: Numbers
    torch64: Numbers
    jax: Numbers
    jax64: Numbers

    def floor(self, name: str) -> float:
        """What float64 leaves of the rounding of float32."""
        return LEFT * max(
            difference(self.torch.get(name), self.torch64[name]),
            difference(self.jax.get(name), self.jax64[name]),
        )

    def tolerance(self, name: str) -> float:
        """The largest root mean square of a difference that is rounding."""
        return max(SAME * self.floor(name), SAME_SCALE * rms(self.torch64[name]))

    def failing(self) -> tuple[int, ...]:
        """The steps in which the programs differ, where names begin with the step: "3:change"."""
        wrong = {
            int(name.split(":")[0])
            for name, torch in self.torch64.items()
            if difference(torch, self.jax64[name]) > self.tolerance(name)
        }
        return tuple(sorted(wrong))


def difference(a: np.ndarray | None, b: np.ndarray) -> float:
    """The root mean square of a difference: 0 without a, infinite for other shapes."""
    if a is None:
        return 0.0
    if a.shape != b.shape:
        return np.inf
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    alike = (a == b) | ((a != a) & (b != b))  # infinite numbers and nan
    size = rms(np.where(alike, 0.0, apart))
    return size if np.isfinite(size) else np.inf
