"""Traces of optimizers alone: torch's updates from given gradients, and a JAX program's."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet.parity._evidence import FourRuns
from jaxnet.parity._findings import findings_of
from jaxnet.parity._result import Finding
from jaxnet.parity._site_results import SiteResults
from jaxnet.parity._steps import StepRuns
from jaxnet.parity._trace import Trace, TraceWriter, read
from jaxnet.parity._training_causes import Training

SHAPES = {"net.weight": (3, 4), "net.bias": (4,), "norm.weight": (5,)}
STEPS = 4
Arrays = dict[str, np.ndarray]


def numbers(seed: int = 0, scale: float = 1.0) -> Arrays:
    """Parameters or gradients, numbers of float32."""
    rng = np.random.default_rng(seed)
    return {n: np.float32(scale * rng.normal(size=shape)) for n, shape in SHAPES.items()}


GRADIENTS = [numbers(10 + k, scale) for k, scale in enumerate((0.5, 0.05, 1.0, 0.2))]


def record(
    path: Path,
    make: Callable[[list[dict[str, Any]]], Any],
    *,
    lrs: Sequence[float] | None = None,
    clip: Callable[[list[Any]], Any] | None = None,
    after: Callable[[list[Any]], Any] | None = None,
    apart: Sequence[str] = (),
    schedulers: Sequence[Mapping[str, Any]] = (),
    backwards: int = 1,
) -> Trace:
    """The trace of a torch optimizer on given gradients.

    Each step is computed in float32, and in float64 from the same float32 numbers.

    Args:
        path: The folder.
        make: A function of the parameter groups that makes the optimizer.
        lrs: The learning rates of the steps.
        clip: A function that clips the gradients of parameters.
        after: A function that changes the parameters after the optimizer's step.
        apart: The parameters of the second group, which has no weight decay.
        schedulers: What the trace says of schedulers.
        backwards: The number of backward() calls in a step.
    """
    import torch

    groups = [[n for n in SHAPES if n not in apart], list(apart)]
    groups = [g for g in groups if g]

    def built(values: Arrays, dtype: Any) -> tuple[dict[str, Any], Any]:
        tensors = {n: torch.nn.Parameter(torch.tensor(v, dtype=dtype)) for n, v in values.items()}
        extra: list[dict[str, Any]] = [{}, {"weight_decay": 0.0}]
        given = [{"params": [tensors[n] for n in g], **extra[i]} for i, g in enumerate(groups)]
        return tensors, make(given)

    writer = TraceWriter(path)
    tensors, optimizer = built(numbers(), torch.float32)
    for k, gradients in enumerate(GRADIENTS[:STEPS]):
        start = {n: t.detach().numpy().copy() for n, t in tensors.items()}
        wide, other = built(start, torch.float64)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        arrays: Arrays = {f"before:{n}": v for n, v in start.items()}
        arrays |= _states("state_before", tensors, optimizer)
        doubles: Arrays = {}
        for params, step in ((tensors, optimizer), (wide, other)):
            for group in step.param_groups:
                group["lr"] = lrs[k] if lrs else group["lr"]
            for n, p in params.items():
                p.grad = torch.tensor(gradients[n], dtype=p.dtype)
            into = doubles if step is other else arrays
            into |= {f"param_grad:{n}": p.grad.numpy().copy() for n, p in params.items()}
            if clip:
                clip(list(params.values()))
                into |= {f"clipped:{n}": p.grad.numpy().copy() for n, p in params.items()}
            step.step()
            if after:
                after(list(params.values()))
            into |= {f"update:{n}": p.detach().numpy().copy() for n, p in params.items()}
            into |= _states("state", params, step)
        content = {
            "full": False,
            "calls": [],
            "functions": [],
            "draws": [],
            "batches": [],
            "losses": [],
            "groups": [
                [{a: b for a, b in g.items() if a != "params"} for g in optimizer.param_groups]
            ],
            "events": ["forward", "backward"] * backwards + ["step"],
        }
        writer.write_step(content, arrays, {s: v for s, v in doubles.items() if v.ndim})
    writer.write_about(
        {
            "models": [""],
            "modules": {},
            "parameters": {n: {"shape": s, "names": [n]} for n, s in SHAPES.items()},
            "buffers": {},
            "optimizers": [
                {
                    "class": type(optimizer).__name__,
                    "defaults": {},
                    "groups": [{"params": g} for g in groups],
                }
            ],
            "schedulers": list(schedulers),
        }
    )
    return read(path)


def _states(phase: str, tensors: Mapping[str, Any], optimizer: Any) -> Arrays:
    found = {}
    for n, p in tensors.items():
        for slot, value in optimizer.state.get(p, {}).items():
            if value is not None:
                found[f"{phase}:{n}.{slot}"] = value.detach().numpy().copy()
    return found


def updated(
    trace: Trace, optimizer: Callable[[], Any], given: str = "clipped"
) -> tuple[dict[int, Arrays], dict[int, Arrays]]:
    """A JAX program's updates in float32 and float64, from torch's parameters in each step.

    Args:
        trace: The trace.
        optimizer: A function that makes the optimizer, optax's or jaxnet's; it is called in the
            precision of the run. Its state is its own from the first step on.
        given: The gradients that it is given: "param_grad" for those before clipping.
    """
    runs = []
    for double in (False, True):
        with jax.enable_x64(double), jax.numpy_dtype_promotion("standard"):
            made = optimizer()
            run, state = {}, None
            for step in trace.steps:
                read = step.double if double else step.__getitem__
                params = {n: jax.numpy.asarray(read(f"before:{n}")) for n in SHAPES}
                phase = given if f"{given}:net.bias" in step else "param_grad"
                gradients = {n: jax.numpy.asarray(read(f"{phase}:{n}")) for n in SHAPES}
                state = made.init(params) if state is None else state
                changes, state = made.update(gradients, state, params)
                run[step.index] = {
                    f"update:{n}": np.asarray(params[n] + changes[n]) for n in SHAPES
                }
            runs.append(run)
    return runs[0], runs[1]


def explained(
    trace: Trace, optimizer: Callable[[], Any], kept: int = STEPS
) -> tuple[list[Finding], list[str]]:
    """What a check of a JAX program's updates finds, and its notes.

    Args:
        trace: The trace.
        optimizer: As in `updated`.
        kept: The number of steps whose numbers are kept for the causes.
    """
    jax32, jax64 = updated(trace, optimizer)
    results, causes = SiteResults(trace), Training(trace, carried=True)
    for step in trace.steps:
        k = step.index
        found = {
            site: FourRuns(step[site], step.double(site), jax32[k][site], jax64[k][site])
            for site in jax64[k]
        }
        results.judge(step, found, "layer")
        causes.keep(step, None, StepRuns({}, found if k < kept else {}, {}, {}))
    findings = findings_of(trace, results.all, {})
    return [each for finding in findings for each in causes.explain(finding)], causes.notes
