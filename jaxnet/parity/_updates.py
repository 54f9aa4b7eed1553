"""An optimizer's steps on one parameter, from recorded gradients and states, in float64.

The arithmetic is written out in numpy, because the faults of optimizers lie inside of it (where
epsilon stands, what the buffer holds) and hundreds of them are tried in the time in which JAX
compiles one. A test compares it with jaxnet.optim, and no fault is looked for before it has given
torch's own numbers.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self

import numpy as np

from jaxnet.parity._fit import rounded
from jaxnet.parity._judge import LEFT, SAME, SAME_SCALE, rms
from jaxnet.parity._trace import Step, Trace

State = dict[str, np.ndarray]
KINDS = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad")


# Elementwise arithmetic needs no more elements than these to be told apart.
ELEMENTS = 4096


@dataclasses.dataclass(frozen=True)
class Clip:
    """What clipping needs to know of all gradients of a step.

    Attributes:
        norm: The 2-norm of all gradients before clipping.
        own: That of this parameter.
        units: For each element the 2-norm of the gradient of its unit, the row of a matrix or
            the filter of a convolution; of a vector that of all of it.
        sizes: The same of the parameter itself.
    """

    norm: float
    own: float
    units: np.ndarray
    sizes: np.ndarray


@dataclasses.dataclass(frozen=True)
class Record:
    """One recorded update of one parameter.

    Attributes:
        step: The step of the trace.
        t: The number of the update, from 1.
        config: The hyperparameters of the parameter's group in this step.
        before: The parameter.
        gradient: The gradient that torch's optimizer was given.
        raw: The gradient before clipping.
        state: The optimizer's state before the update, empty before the first one.
        clip: The norms.
        parts: The gradient of each of the batches that are accumulated, with the norm of all
            gradients of the batch; () where they are not known.
        batches: The number of backward() calls before the update.
    """

    step: int
    t: int
    config: Mapping[str, Any]
    before: np.ndarray
    gradient: np.ndarray
    raw: np.ndarray
    state: Mapping[str, np.ndarray]
    clip: Clip
    parts: tuple[tuple[np.ndarray, float], ...] = ()
    batches: int = 1

    def shortened(self) -> Self:
        """The same with the chosen elements only."""
        return dataclasses.replace(
            self,
            before=chosen(self.before),
            gradient=chosen(self.gradient),
            raw=chosen(self.raw),
            state={slot: chosen(value) for slot, value in self.state.items()},
            clip=dataclasses.replace(
                self.clip, units=chosen(self.clip.units), sizes=chosen(self.clip.sizes)
            ),
        )

    @cached_property
    def max_norm(self) -> float | None:
        """The bound of torch's clip_grad_norm_, where it changed the gradient of this step."""
        raw, given = np.linalg.norm(self.raw), np.linalg.norm(self.gradient)
        if not raw or not given < raw:
            return None
        share = float(given / raw)
        if np.max(np.abs(self.gradient - share * self.raw)) > 1e-6 * np.max(np.abs(given)):
            return None
        return rounded(share * (self.clip.norm + 1e-6))


@dataclasses.dataclass(frozen=True)
class Update:
    """The updates of one parameter: a reference for the traps of optimizers.

    Attributes:
        kind: The class of torch's optimizer.
        parameter: The parameter's name.
        records: The recorded updates in their order.
        changes: What a trap changes: hyperparameters by torch's names, and the words of `rule`.
        carried: Whether the JAX program's optimizer went on from its own state; its state is
            torch's before each update otherwise.
    """

    kind: str
    parameter: str
    records: tuple[Record, ...]
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    carried: bool = False

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The hyperparameters of the first update, and max_norm where torch clips."""
        first = next((r.max_norm for r in self.records if r.max_norm is not None), None)
        return {**self.records[0].config, "max_norm": first}

    def altered(self, kind: str | None = None, **changes: Any) -> Self:
        """The same updates by another arithmetic."""
        return dataclasses.replace(
            self, kind=kind or self.kind, changes={**self.changes, **changes}
        )

    def observe(self) -> dict[str, np.ndarray]:
        """What each update adds to the parameter, and the states: {"0:change": ..., ...}."""
        numbers = {}
        state: Mapping[str, np.ndarray] = self.records[0].state
        first_lr = self.records[0].config["lr"]
        for record in self.records:
            change = {**record.config, **self.changes}
            if not self.carried:
                state = record.state
            change["lr"] *= change.get("lr_factor", 1.0)
            gradient = clipped(record, change.get("clip"))
            after, state = rule(
                self.kind, change, record.before, gradient, state, record.t, first_lr
            )
            numbers[f"{record.step}:change"] = after - record.before
            numbers |= {f"{record.step}:{slot}": value for slot, value in state.items()}
        return numbers


def clipped(record: Record, how: Any) -> np.ndarray:
    """The gradient of a record as torch's optimizer got it, or clipped in another way.

    Args:
        record: The record.
        how: None, or (kind, bound) or (kind, bound, scale of all gradients). The kinds are "none",
            "norm" (as torch does), "exact" (without the 1e-6), "always" (scaled up too), "value",
            "own" (each parameter by its own norm), "adaptive" (each unit to a share of its
            parameters' norm) and "parts" (each batch by itself).
    """
    if how is None:
        return record.gradient
    kind, bound, scale = (*how, 1.0)[:3]
    raw, clip = record.raw, record.clip
    if kind == "none":
        return raw
    if kind == "parts":
        return np.sum([part * min(1.0, bound / (norm + 1e-6)) for part, norm in record.parts], 0)
    if kind == "value":
        return np.clip(raw, -bound, bound)
    if kind == "adaptive":
        largest = bound * np.maximum(clip.sizes, 1e-3)
        return np.where(clip.units > largest, raw * largest / np.maximum(clip.units, 1e-6), raw)
    norm = clip.own if kind == "own" else clip.norm
    factor = bound / (scale * norm + (0.0 if kind in ("exact", "always", "own") else 1e-6))
    return raw * (factor if kind == "always" else min(1.0, factor))


def rule(
    kind: str,
    h: Mapping[str, Any],
    p: np.ndarray,
    g: np.ndarray,
    state: Mapping[str, np.ndarray],
    t: int,
    first_lr: float,
) -> tuple[np.ndarray, State]:
    """One step of an optimizer on one parameter.

    Args:
        kind: The class of torch's optimizer, one of `KINDS`.
        h: Its hyperparameters by torch's names. Beside them may stand what torch has not:
            "coupled": whether the weight decay is added to the gradient;
            "decay_by": what decoupled decay is scaled by, "lr" (torch), "one", or "relative", the
            learning rate over the first one;
            "decay_late": whether decoupled decay comes after the step;
            "gradient_factor": a factor of the gradient, after clipping;
            "frozen": whether nothing is done;
            "lr_inside": whether the buffer holds the gradient times the learning rate;
            "first": the factor of the first gradient in an empty buffer;
            "eps_at": "outside" the root and its correction (torch), "uncorrected", outside of the
            root and inside of the correction, or "inside" the root;
            "eps_root": a further epsilon inside the root;
            "correct1", "correct2": whether the moments are corrected for their start at 0;
            "t_shift": what is added to the number of the update;
            "amsgrad": also "corrected", the largest of the corrected moments;
            "initial": the first value of the accumulator.
        p, g: The parameter and its gradient.
        state: The optimizer's state by torch's names; empty before the first update.
        t: The number of the update, from 1.
        first_lr: The first learning rate.

    Returns:
        The parameter and the state after the step.
    """
    if h.get("frozen"):
        return p, dict(state)
    g = g * h.get("gradient_factor", 1.0)
    if h.get("maximize"):
        g = -g
    lr, decay = h["lr"], h.get("weight_decay", 0.0)
    coupled = h.get("coupled", not (kind == "AdamW" or h.get("decoupled_weight_decay", False)))
    late = h.get("decay_late", False)
    keep = 1.0
    if decay and coupled:
        g = g + decay * p
    elif decay:
        scale = {"lr": lr, "one": 1.0, "relative": lr / first_lr if first_lr else 0.0}
        keep = 1 - decay * scale[h.get("decay_by", "lr")]
    start = p if late else p * keep
    with np.errstate(all="ignore"):  # a fault that is tried may divide by 0
        step, state = _FORMULAS[kind](h, g, state, t, lr)
    after = start + step
    return (after * keep if late else after), state


def _sgd(
    h: Mapping[str, Any], g: np.ndarray, state: Mapping[str, np.ndarray], t: int, lr: float
) -> tuple[np.ndarray, State]:
    del t
    momentum, nesterov = h.get("momentum", 0.0), h.get("nesterov", False)
    inside = h.get("lr_inside", False)
    if inside:
        g = g * lr
    size = 1.0 if inside else lr
    if not momentum:
        return -size * g, {}
    old = state.get("momentum_buffer")
    share = 1 - h.get("dampening", 0.0)
    if old is None:
        first = h.get("first", 1.0)
        buffer = (share if first == "damped" else first) * g
    else:
        buffer = momentum * old + share * g
    ahead = g + momentum * buffer if nesterov else buffer
    return -size * ahead, {"momentum_buffer": buffer}


def _adam(
    h: Mapping[str, Any], g: np.ndarray, state: Mapping[str, np.ndarray], t: int, lr: float
) -> tuple[np.ndarray, State]:
    b1, b2 = h["betas"]
    b1, b2 = h.get("beta1", b1), h.get("beta2", b2)
    if not (0 <= b1 < 1 and 0 <= b2 < 1):
        raise ValueError("betas")
    eps, at = h["eps"], h.get("eps_at", "outside")
    zero = np.zeros_like(g)
    m = state.get("exp_avg", zero)
    m = m + (1 - b1) * (g - m)
    v = b2 * state.get("exp_avg_sq", zero) + (1 - b2) * g * g
    new = {"exp_avg": m, "exp_avg_sq": v}
    t = max(t + h.get("t_shift", 0), 1)
    c1 = 1 - b1**t if h.get("correct1", True) else 1.0
    c2 = 1 - b2**t if h.get("correct2", True) else 1.0
    amsgrad = h.get("amsgrad", False)
    if amsgrad:
        largest = np.maximum(
            state.get("max_exp_avg_sq", zero), v / c2 if amsgrad == "corrected" else v
        )
        new["max_exp_avg_sq"] = largest
        v = largest * c2 if amsgrad == "corrected" else largest
    ahead = m / c1
    if h.get("nesterov"):  # Dozat's form, as optax has it
        ahead = b1 * m / (1 - b1 ** (t + 1)) + (1 - b1) * g / c1
    if at == "inside":
        root = np.sqrt(v / c2 + eps)
    elif at == "uncorrected":
        root = (np.sqrt(v) + eps) / math.sqrt(c2)
    else:
        root = np.sqrt(v / c2 + h.get("eps_root", 0.0)) + eps
    return -lr * ahead / root, new


def _rmsprop(
    h: Mapping[str, Any], g: np.ndarray, state: Mapping[str, np.ndarray], t: int, lr: float
) -> tuple[np.ndarray, State]:
    alpha, eps, momentum = h["alpha"], h["eps"], h.get("momentum", 0.0)
    zero = np.zeros_like(g)
    v = state.get("square_avg", zero + h.get("initial", 0.0))
    v = alpha * v + (1 - alpha) * g * g
    new, mean = {"square_avg": v}, v
    if h.get("centered"):
        a = state.get("grad_avg", zero)
        new["grad_avg"] = a = a + (1 - alpha) * (g - a)
        mean = v - a * a
    if h.get("correct2", False):
        mean = mean / (1 - alpha**t)
    inside = h.get("eps_at", "outside") == "inside"
    step = g / (np.sqrt(mean + eps) if inside else np.sqrt(mean) + eps)
    if not momentum:
        return -lr * step, new
    if h.get("lr_inside", False):
        step, lr = lr * step, 1.0
    buffer = momentum * state.get("momentum_buffer", zero) + step
    new["momentum_buffer"] = buffer
    ahead = step + momentum * buffer if h.get("nesterov") else buffer
    return -lr * ahead, new


def _adagrad(
    h: Mapping[str, Any], g: np.ndarray, state: Mapping[str, np.ndarray], t: int, lr: float
) -> tuple[np.ndarray, State]:
    first = h.get("initial_accumulator_value", 0.0)
    total = state.get("sum", np.zeros_like(g) + first)
    if t == 1 and "initial" in h:  # torch has its accumulator before the first update
        total = np.zeros_like(g) + h["initial"]
    total = total + g * g
    rate = lr / (1 + (t - 1) * h.get("lr_decay", 0.0))
    eps = h["eps"]
    inside = h.get("eps_at", "outside") == "inside"
    root = np.sqrt(total + eps) if inside else np.sqrt(total) + eps
    return -rate * g / root, {"sum": total}


_FORMULAS = {
    "SGD": _sgd,
    "Adam": _adam,
    "AdamW": _adam,
    "RMSprop": _rmsprop,
    "Adagrad": _adagrad,
}


def updates(trace: Trace, carried: bool = False) -> dict[str, Update]:
    """The updates of all parameters of a trace whose optimizers have a formula here.

    Args:
        trace: The trace.
        carried: As in `Update`.

    Returns:
        The updates by parameter. At most `ELEMENTS` elements of a parameter are used; `chosen`
        takes the same of the JAX program's arrays.
    """
    found: dict[str, list[Record]] = {}
    groups = _groups(trace)
    for step in trace.steps:
        raws, norm = gradients_of(step)
        for name, (i, j, _) in groups.items():
            if name in raws and f"before:{name}" in step:
                known = found.setdefault(name, [])
                t = known[-1].t + 1 if known else 1
                record = _record(step, name, step.groups[i][j], t, raws[name], norm)
                known.append(record.shortened())
        step.forget()
    return {
        name: Update(groups[name][2], name, tuple(records), carried=carried)
        for name, records in found.items()
    }


class Carried:
    """torch's updates as they are with a state of float64 that goes on from step to step.

    What is recorded of torch in float64 begins in each step with the float32 state of torch's
    optimizer. An optimizer of the JAX program whose state has no form in torch goes on from its
    own state instead, that of its float64 run too, so it is compared with these numbers.

    Args:
        trace: The trace.
    """

    def __init__(self, trace: Trace) -> None:
        self._groups = _groups(trace)
        self._states: dict[str, tuple[int, State]] = {}
        self._first: dict[str, float] = {}

    def advance(self, step: Step) -> dict[str, np.ndarray]:
        """The parameters after a step by site, in float64.

        Those are left out whose optimizers have no formula here, and those of which the formula
        does not give torch's numbers.

        Args:
            step: The step; the first one that is given begins with a new state.
        """
        found = {}
        raws, norm = gradients_of(step)
        for name, (i, j, kind) in self._groups.items():
            if name not in raws or f"before:{name}" not in step:
                continue
            t, state = self._states.get(name, (0, {}))
            record = _record(step, name, step.groups[i][j], t + 1, raws[name], norm)
            lr = self._first.setdefault(name, float(record.config["lr"]))
            given = record.config, record.before, record.gradient
            own, _ = rule(kind, *given, record.state, record.t, lr)
            after, state = rule(kind, *given, state, t + 1, lr)
            self._states[name] = t + 1, state
            theirs = step.double(f"update:{name}")
            error = rms(step[f"update:{name}"] - theirs)
            scale = rms(theirs - record.before)
            if rms(own - theirs) <= max(SAME * LEFT * error, SAME_SCALE * scale):
                found[f"update:{name}"] = after
        return found


def _groups(trace: Trace) -> dict[str, tuple[int, int, str]]:
    """For each parameter the numbers of its optimizer and group, and the optimizer's class."""
    return {
        name: (i, j, optimizer["class"])
        for i, optimizer in enumerate(trace.optimizers)
        for j, group in enumerate(optimizer["groups"])
        for name in group["params"]
        if optimizer["class"] in KINDS
    }


def gradients_of(step: Step) -> tuple[dict[str, np.ndarray], float]:
    """The gradients of a step before clipping, and the norm of all."""
    raws = {name: step.double(site) for name, site in step.of("param_grad").items()}
    return raws, math.sqrt(sum(float(np.sum(np.square(raw))) for raw in raws.values()))


def _record(
    step: Step, name: str, config: Mapping[str, Any], t: int, raw: np.ndarray, norm: float
) -> Record:
    """The recorded update of a parameter; t is its number where torch's state does not say it."""
    state = _state(step, name)
    before = step.double(f"before:{name}")
    return Record(
        step=step.index,
        t=int(state.pop("step", t - 1)) + 1,
        config=config,
        before=before,
        gradient=step.double(f"clipped:{name}") if f"clipped:{name}" in step else raw,
        raw=raw,
        state=state,
        clip=Clip(norm, float(np.linalg.norm(raw)), _units(raw), _units(before)),
        batches=max(step.events.count("backward"), 1),
    )


def _state(step: Step, name: str) -> dict[str, np.ndarray]:
    """The state of one parameter before a step, by torch's names."""
    found = {}
    for place, site in step.of("state_before").items():
        owner, _, slot = place.rpartition(".")
        if owner == name:
            found[slot] = step.double(site)
    return found


def _units(array: np.ndarray) -> np.ndarray:
    """For each element the 2-norm of its unit (see `Clip`)."""
    axes = tuple(range(1, array.ndim)) if array.ndim > 1 else None
    norms = np.sqrt(np.sum(np.square(array), axes, keepdims=True))
    return np.broadcast_to(norms, array.shape)


def chosen(array: np.ndarray) -> np.ndarray:
    """At most `ELEMENTS` elements of a parameter, spread over it, as a flat float64 array."""
    flat = np.asarray(array, np.float64).ravel()
    if flat.size <= ELEMENTS:
        return flat
    return flat[np.linspace(0, flat.size - 1, ELEMENTS).astype(int)]
