"""The outputs of recurrent layers, of which two hold the same numbers.

The last state of an LSTM's last layer is the last of its outputs. A program may use either: the
gradients of the two outputs differ then, and the computation does not. So what comes back to the
state is counted with what comes back to that output, in both programs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnet.parity._evidence import FourRuns
from jaxnet.parity._trace import Module, Step
from jaxnet.parity._tree import keys_of

Numbers = Mapping[str, np.ndarray]


def is_recurrent(module: Module | None) -> bool:
    """Whether a module is one of torch.nn's recurrent layers."""
    return module is not None and module.cls in ("RNN", "LSTM", "GRU")


def gradients(
    step: Step, modules: Mapping[str, Module], jax32: Numbers, jax64: Numbers
) -> dict[str, FourRuns]:
    """The gradients of the outputs of the recurrent layers of a step, by site, counted together.

    Args:
        step: The step.
        modules: The recorded modules by name.
        jax32: The checked program's arrays by site.
        jax64: The same in float64.
    """
    found: dict[str, FourRuns] = {}
    for call in step.calls:
        module = modules.get(call.module)
        keys = keys_of(call.output)
        state = "1" if "1" in keys else "1.0"
        if not is_recurrent(module) or not {"0", state} <= keys.keys():
            continue
        assert module is not None
        sites = tuple(f"grad:{call.name}.{path}" for path in ("0", state))
        if not any(site in step for site in sites) or not all(site in jax64 for site in sites):
            continue
        shapes = [step[keys[path]].shape for path in ("0", state)]
        both = [*zip(sites, shapes, strict=True)]
        runs = [
            _together(module.config, arrays)
            for arrays in (
                [step[s] if s in step else np.zeros(shape, np.float32) for s, shape in both],
                [step.double(s) if s in step else np.zeros(shape) for s, shape in both],
                [jax32[s] for s in sites],
                [jax64[s] for s in sites],
            )
        ]
        for site, *arrays in zip(sites, *runs, strict=True):
            found[site] = FourRuns(*arrays)
    return found


def _together(config: Mapping[str, Any], gradients: list[np.ndarray]) -> list[np.ndarray]:
    """The gradients of the outputs and of the last states, the part that both hold in the first."""
    outputs, states = (np.array(each) for each in gradients)
    directions = 2 if config.get("bidirectional") else 1
    size = outputs.shape[-1] // directions
    time = 1 if config.get("batch_first") and outputs.ndim == 3 else 0
    for number, moment in zip(range(directions), (-1, 0), strict=False):
        row = number - directions
        part = np.moveaxis(outputs, time, 0)[moment, ..., number * size : (number + 1) * size]
        part += states[row]
        states[row] = 0
    return [outputs, states]
