"""Faults of gradients: of what the optimizer is given, and of gradients by themselves."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from jaxnet.parity._rules import KINDS
from jaxnet.parity._traps._trap import Trap
from jaxnet.parity._updates import Update, clipped

_BOUNDS = (1.0, 0.5, 5.0, 0.25, 0.1, 10.0, 2.0, 0.01, 100.0)
_FACTORS = (0.5, 2.0, 0.25, 4.0, 0.1, 10.0, -1.0, 100.0, 0.01, 65536.0, 1 / 65536)


@dataclasses.dataclass(frozen=True)
class Gradient:
    """The gradient of one parameter: a reference for the traps of gradients.

    Attributes:
        parameter: The parameter's name.
        gradients: Torch's gradient in each step.
        norms: The 2-norm of all gradients in each step.
        batches: The number of batches whose gradients a step adds up.
        uses: For a parameter that several calls use, the part of the gradient in each step that
            comes from each of them, by the call's name; {} where it is not known.
        factor: What the gradients are multiplied by.
    """

    parameter: str
    gradients: Mapping[int, np.ndarray]
    norms: Mapping[int, float]
    batches: int = 1
    uses: Mapping[str, Mapping[int, np.ndarray]] = dataclasses.field(default_factory=dict)
    factor: float = 1.0
    kind: str = "gradient"

    @property
    def config(self) -> Mapping[str, Any]:
        return {"batches": self.batches, "parameter": self.parameter}

    def mapped(self, change: Callable[[int, np.ndarray], np.ndarray]) -> Self:
        """The same with another gradient in each step."""
        return dataclasses.replace(
            self, gradients={step: change(step, g) for step, g in self.gradients.items()}
        )

    def observe(self) -> dict[str, np.ndarray]:
        return {f"{step}:gradient": g * self.factor for step, g in self.gradients.items()}


def _factor(gradient: Gradient, factor: float) -> Gradient:
    return dataclasses.replace(gradient, factor=gradient.factor * factor)


def _gradient_clipped(gradient: Gradient, bound: float) -> Gradient:
    return gradient.mapped(lambda step, g: g * min(1.0, bound / (gradient.norms[step] + 1e-6)))


def _without(gradient: Gradient, call: str) -> Gradient:
    return gradient.mapped(lambda step, g: g - gradient.uses[call][step])


def _only(gradient: Gradient, call: str) -> Gradient:
    return gradient.mapped(lambda step, g: gradient.uses[call][step])


def _several(gradient: Gradient) -> list[str]:
    return list(gradient.uses) if len(gradient.uses) > 1 else []


def _counts(gradient: Gradient) -> list[float]:
    """Factors that come from dividing by the number of batches, or from not doing so."""
    count = gradient.batches
    return [float(count), 1 / count] if count > 1 else []


class WithinBoundsError(ValueError):
    """No gradient of the parameter reaches the bound: its updates are those without clipping."""


def _clip(kind: str, own: bool = False) -> Callable[..., Update]:
    """A change of clipping: by the constant `bound`, or by torch's own bound."""

    def change(update: Update, bound: float | None = None) -> Update:
        if own:
            bound = _torch_bound(update)
        how = (kind, bound)
        if all(np.array_equal(clipped(record, how), record.raw) for record in update.records):
            raise WithinBoundsError("nothing is clipped")
        return update.altered(clip=how)

    return change


def _torch_bound(update: Update) -> float:
    bound: float | None = update.config["max_norm"]
    if bound is None:
        raise ValueError("torch's gradients are not clipped by their norm")
    return bound


def _unclipped(update: Update) -> Update:
    if all(r.gradient is r.raw or np.array_equal(r.gradient, r.raw) for r in update.records):
        raise ValueError("torch's gradients are not clipped")
    return update.altered(clip=("none", None))


def _clipped_before_unscaling(update: Update, scale: float) -> Update:
    return update.altered(clip=("norm", _torch_bound(update), scale))


def _batches(update: Update) -> list[float]:
    count = max(record.batches for record in update.records)
    return [1 / count, float(count)] if count > 1 else []


def _gradient_factor(update: Update, gradient_factor: float) -> Update:
    return update.altered(gradient_factor=gradient_factor)


def _clips(config: Mapping[str, Any]) -> bool:
    return config.get("max_norm") is not None


TRAPS: tuple[Trap, ...] = (
    Trap(
        "clip-missing",
        KINDS,
        _unclipped,
        "The gradients are not clipped; torch's program clips them.",
        "optim.clip_by_norm or optim.clip_by_value before the optimizer (optim.chain)",
    ),
    Trap(
        "clip-without-epsilon",
        KINDS,
        _clip("exact", own=True),
        "The gradients are divided by their norm; clip_grad_norm_ divides by the norm + 1e-6.",
        "optim.clip_by_norm({torch[max_norm]:.6g}) instead of optax.clip_by_global_norm",
        when=_clips,
    ),
    Trap(
        "clip-each-parameter",
        KINDS,
        _clip("own", own=True),
        "The gradient of each parameter is clipped by its own norm; torch takes the norm of all "
        "gradients.",
        "optim.clip_by_norm({torch[max_norm]:.6g})",
        when=_clips,
    ),
    Trap(
        "clip-normalizes",
        KINDS,
        _clip("always", own=True),
        "The gradients are always scaled to the norm {torch[max_norm]:.6g}; torch only scales "
        "larger ones down.",
        "optim.clip_by_norm({torch[max_norm]:.6g})",
        when=_clips,
    ),
    Trap(
        "clip-before-unscaling",
        KINDS,
        _clipped_before_unscaling,
        "The gradients are clipped while they are multiplied by the loss scale {scale:.6g}; torch "
        "divides them by it before.",
        "the gradients divided by the scale, and clipped after it",
        when=_clips,
        options={"scale": tuple(2.0**k for k in range(7, 25))},
    ),
    Trap(
        "clip-norm",
        KINDS,
        _clip("norm"),
        "The gradients are clipped to the norm {bound:.6g}; torch's bound is "
        "{torch[max_norm]} (None: not clipped by the norm).",
        "the clipping of the torch program",
        constants={"bound": _BOUNDS},
    ),
    Trap(
        "clip-norm-without-epsilon",
        KINDS,
        _clip("exact"),
        "The gradients are clipped to the norm {bound:.6g}, without clip_grad_norm_'s 1e-6; "
        "torch's bound is {torch[max_norm]} (None: not clipped by the norm).",
        "the clipping of the torch program, by optim.clip_by_norm",
        constants={"bound": _BOUNDS},
    ),
    Trap(
        "clip-value",
        KINDS,
        _clip("value"),
        "Each element of the gradients is clipped to {bound:.6g}; torch's program does not do "
        "so, or by another bound.",
        "the clipping of the torch program",
        constants={"bound": _BOUNDS},
    ),
    Trap(
        "clip-adaptive",
        KINDS,
        _clip("adaptive"),
        "The gradients are clipped to {bound:.6g} of their parameters' norm (adaptive clipping); "
        "torch's program does not do so.",
        "the clipping of the torch program",
        constants={"bound": (0.01, 0.1, 0.02, 1e-3)},
    ),
    Trap(
        "accumulation",
        KINDS,
        _gradient_factor,
        "The gradients of the batches of a step are averaged where torch adds them, or the other "
        "way round: the factor is {gradient_factor:.6g}.",
        "the loss divided by the number of batches where the torch program does it",
        options={"gradient_factor": _batches},
    ),
    Trap(
        "update-gradient-factor",
        KINDS,
        _gradient_factor,
        "The optimizer gets {gradient_factor:.6g} times torch's gradients.",
        "the gradients without this factor",
        constants={"gradient_factor": _FACTORS},
    ),
    Trap(
        "gradient-stopped",
        ("gradient",),
        lambda gradient: _factor(gradient, 0.0),
        "The gradient is zero: it is stopped (stop_gradient, or the parameter is no argument of "
        "jax.grad).",
        "the parameter among those that jax.grad differentiates, without stop_gradient",
    ),
    Trap(
        "gradient-counts",
        ("gradient",),
        _factor,
        "The gradient is {factor:.6g} times torch's: those of {torch[batches]} batches are "
        "averaged where torch adds them, or the other way round.",
        "the reduction of the torch program",
        options={"factor": _counts},
    ),
    Trap(
        "gradient-use-missing",
        ("gradient",),
        _without,
        "The gradient that comes from {call} is missing: torch adds the gradients of all uses of "
        "a parameter (tied weights).",
        "one parameter for all uses, without stop_gradient",
        options={"call": _several},
    ),
    Trap(
        "gradient-of-one-use",
        ("gradient",),
        _only,
        "The gradient is that of {call} alone: the parameter is a copy; torch has one parameter "
        "for all uses and adds their gradients.",
        "one parameter for all uses: self.b = self.a, or the same variable",
        options={"call": _several},
    ),
    Trap(
        "gradient-clipped",
        ("gradient",),
        _gradient_clipped,
        "The gradient is clipped to the norm {bound:.6g} where torch's is not clipped yet.",
        "clipping after the gradients of all batches are added",
        constants={"bound": _BOUNDS},
    ),
    Trap(
        "gradient-factor",
        ("gradient",),
        _factor,
        "The gradient is {factor:.6g} times torch's.",
        "the loss without this factor",
        constants={"factor": _FACTORS},
    ),
)
