"""The buffers that a recorded program changes, such as running statistics, beside the port's.

What no step changes is a constant, which a port may have as a number. What a step does change is
a state: a port without it may give the same losses and still be another model in evaluation.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from flax import nnx

from jaxnet._names import join
from jaxnet.parity._flax_layers import Layer, Unit
from jaxnet.parity._judgement import EPSILON, SAME, SAME_SCALE
from jaxnet.parity._trace import Step, Trace
from jaxnet.train._several import named_states

UNKEPT = (
    "torch's program changes it, and the model keeps no such array: in evaluation, where torch's "
    "layer computes by it, the two are other models. Give the layer that state, as nnx.BatchNorm "
    "and jaxnet's norms with track_running_stats=True have running statistics"
)

# What is no state of the model's own beside the parameters.
_STATELESS = (nnx.Param, nnx.RngState, nnx.Intermediate, nnx.Cache)


_MEAN, _VARIANCE, _COUNT = "running_mean", "running_var", "num_batches_tracked"


def null_means(trace: Trace, step: Step, place: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The channels of a running mean that a step adds nothing but rounding to.

    What comes from a normalisation has the mean of its bias, and a linear layer or a convolution
    of one position keeps a mean of zero: the mean that the next normalisation takes of it is a sum
    of numbers that comes to nothing. What float64 leaves of that is rounding of these numbers,
    whose size is their standard deviation, and no part of the mean itself.

    Args:
        trace: The trace.
        step: The step.
        place: The name of the buffer.

    Returns:
        For each channel whether float64 proves it: the mean is less than what float32 rounds of
        the numbers that it is of. And the scale of the rounding that float64 leaves, to be judged
        by. None for other buffers.
    """
    owner, _, own = place.rpartition(".")
    names = [join(owner, name) for name in (_MEAN, _VARIANCE, _COUNT)]
    sites = [f"{phase}:{name}" for name in names for phase in ("buffer_before", "buffer")]
    module = trace.modules.get(owner)
    if own != _MEAN or module is None or not all(site in step for site in sites):
        return None
    shape = step[sites[0]].shape
    if "momentum" not in module.config or any(step[site].shape != shape for site in sites[:4]):
        return None
    mean, mean_after, variance, variance_after, count, count_after = map(step.double, sites)
    share, calls = module.config["momentum"], int(count_after - count)
    if calls < 1:
        return None
    keep = float(count / count_after) if share is None else (1 - float(share)) ** calls
    if not 0 <= keep < 1:
        return None
    # What the step adds is a part of the batch's mean, and so is what rounding makes of it.
    added = np.abs(mean_after - keep * mean)
    size = np.sqrt(np.maximum(variance_after - keep * variance, 0.0) * (1 - keep))
    epsilon = float(np.finfo(np.float32).eps)
    return added <= SAME * epsilon * size, size * (SAME * EPSILON / SAME_SCALE)


def unkept(step: Step, kept: Collection[str]) -> dict[str, str]:
    """The sites after a step of the buffers that it changes and a port does not keep, by name.

    Args:
        step: The step.
        kept: The names of the buffers that the port has.
    """
    before, after = step.of("buffer_before"), step.of("buffer")
    return {
        name: site
        for name, site in after.items()
        if name not in kept
        and name in before
        and not _is_count(name, after)
        and not np.array_equal(step[before[name]], step[site], equal_nan=step[site].dtype != bool)
    }


def _is_count(name: str, buffers: Collection[str]) -> bool:
    """Whether a buffer only counts the batches of running statistics, which are compared."""
    owner, _, own = name.rpartition(".")
    return own == "num_batches_tracked" and join(owner, "running_mean") in buffers


def buffers_of(models: Mapping[str, str], state: Any) -> set[str]:
    """The names in the trace of the buffers that the models of a state have."""
    return {
        join(models[name], key) for name, one in named_states(state).items() for key in one.buffers
    }


def changed(trace: Trace, known: Collection[str]) -> list[str]:
    """The names of the buffers that any recorded step changes, but for those that are known."""
    left = [name for name in trace.buffers if name not in known]
    found: dict[str, None] = {}
    for step in trace.steps if left else ():
        found |= dict.fromkeys(unkept(step, known))
        step.forget()
    return [name for name in left if name in found]


def state_units(trace: Trace, names: Collection[str]) -> list[Unit]:
    """Buffers of a recorded program, each as a layer of its own."""
    return [
        Unit(name, "", "", {}, {"": name}, {}, {name: tuple(trace.buffers[name]["shape"])})
        for name in names
    ]


def state_layers(model: nnx.Module, known: Collection[str]) -> list[Layer]:
    """The states of a plain flax model that are no parameters, each as a layer of its own.

    Args:
        model: The model.
        known: The names of the arrays that have their partners.
    """
    state = nnx.state(model, nnx.Not(nnx.Any(*_STATELESS)))
    named = ((".".join(map(str, path)), v) for path, v in nnx.to_flat_state(state))
    return [
        Layer(name, None, {"": variable})
        for name, variable in named
        if name not in known and hasattr(variable.get_value(), "dtype")
    ]


def of_one_size(unit: Unit, layers: Collection[Layer]) -> list[str]:
    """The names of the states of a model that have as many numbers as a recorded buffer."""
    size = math.prod(unit.shapes[unit.name])
    return [each.name for each in layers if math.prod(each.shape("")) == size]


@dataclasses.dataclass(frozen=True)
class Unclear:
    """A buffer that a recorded program changes, and the arrays of the port that may be it."""

    name: str
    candidates: tuple[str, ...]

    @property
    def words(self) -> str:
        """Why it was not compared, and the way out."""
        first = self.candidates[0]
        return (
            f"{self.name}: torch's program changes it, and which array of the model it is, is not "
            f"known; near are {', '.join(self.candidates[:4])}. Say so in names.toml: "
            f'[layers] "{first}" = "{self.name}"'
        )
