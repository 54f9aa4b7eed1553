"""Schedules that both libraries have, each written once for both."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxnet import optim

STEPS = 200
SHOWN = np.unique(np.r_[:12, 12:STEPS:17, STEPS - 1])
"""The steps that are kept as golden arrays."""

Build = Callable[[Any, Any], Any]
MOMENTUM: tuple[str, dict[str, Any]] = ("SGD", {"lr": 0.1, "momentum": 0.9})

# m: the module with the schedules; o: the optimizer
ROWS: dict[str, tuple[Build, tuple[str, dict[str, Any]]]] = {
    name: (row if isinstance(row, tuple) else (row, MOMENTUM))
    for name, row in {
        "StepLR": lambda m, o: m.StepLR(o, 30, 0.5),
        "StepLR every step": lambda m, o: m.StepLR(o, 1),
        "MultiStepLR": lambda m, o: m.MultiStepLR(o, [80, 20, 20, 150], 0.3),
        "ConstantLR": lambda m, o: m.ConstantLR(o),
        "LinearLR": lambda m, o: m.LinearLR(o),
        "LinearLR down": lambda m, o: m.LinearLR(o, 0.9, 0.0, 100),
        "ExponentialLR": lambda m, o: m.ExponentialLR(o, 0.95),
        "PolynomialLR": lambda m, o: m.PolynomialLR(o),
        "PolynomialLR squared": lambda m, o: m.PolynomialLR(o, 100, 2.0),
        "CosineAnnealingLR": lambda m, o: m.CosineAnnealingLR(o, 50, 0.001),
        "CosineAnnealingLR short": lambda m, o: m.CosineAnnealingLR(o, 1),
        "WarmRestarts": lambda m, o: m.CosineAnnealingWarmRestarts(o, 17),
        "WarmRestarts longer": lambda m, o: m.CosineAnnealingWarmRestarts(o, 10, 2, 0.01),
        "LambdaLR": lambda m, o: m.LambdaLR(o, lambda t: 0.95**t if t < 50 else 0.1),
        "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, lambda t: 1 - 1 / (t + 3)),
        "CyclicLR": lambda m, o: m.CyclicLR(o, 0.01, 0.2, 13, 7),
        "CyclicLR halved": lambda m, o: m.CyclicLR(o, 0.01, 0.2, 13, mode="triangular2"),
        "CyclicLR range": lambda m, o: m.CyclicLR(
            o, 0.01, 0.2, 13, 7, "exp_range", 0.99, cycle_momentum=False
        ),
        "CyclicLR own": (
            lambda m, o: m.CyclicLR(
                o, 0.01, 0.2, 10, scale_fn=lambda x: 0.9**x, scale_mode="iterations"
            ),
            ("AdamW", {}),
        ),
        "OneCycleLR": lambda m, o: m.OneCycleLR(o, 0.5, 200),
        "OneCycleLR linear": lambda m, o: m.OneCycleLR(
            o, 0.5, 200, anneal_strategy="linear", three_phase=True
        ),
        "OneCycleLR plain": lambda m, o: m.OneCycleLR(
            o, 0.5, 300, pct_start=0.5, div_factor=10.0, final_div_factor=9.0, cycle_momentum=False
        ),
        "OneCycleLR epochs": (
            lambda m, o: m.OneCycleLR(o, 0.5, epochs=20, steps_per_epoch=10),
            ("Adam", {"betas": (0.8, 0.99)}),
        ),
        "SWALR": lambda m, o: m.SWALR(o, 0.02),
        "SWALR linear": lambda m, o: m.SWALR(o, 0.5, 30, "linear"),
        "SWALR at once": lambda m, o: m.SWALR(o, 0.5, 0),
        "Chained": lambda m, o: m.ChainedScheduler(
            [m.LinearLR(o, 0.1, 1.0, 20), m.CosineAnnealingLR(o, 40), m.StepLR(o, 50)]
        ),
        "Sequential": lambda m, o: m.SequentialLR(
            o,
            [m.LinearLR(o, 0.01, 1.0, 10), m.CosineAnnealingLR(o, 90), m.StepLR(o, 20)],
            [10, 100],
        ),
        "Sequential restarts": lambda m, o: m.SequentialLR(
            o,
            [
                m.LinearLR(o, 0.01, 1.0, 10),
                m.CosineAnnealingWarmRestarts(o, 30, 2),
                m.PolynomialLR(o, 50),
            ],
            [10, 120],
        ),
        "Sequential factors": lambda m, o: m.SequentialLR(
            o,
            [
                m.MultiplicativeLR(o, lambda t: 0.9),
                m.LambdaLR(o, lambda t: 0.99**t),
                m.MultiplicativeLR(o, lambda t: 0.95),
            ],
            [10, 120],
        ),
        "Sequential cycle": lambda m, o: m.SequentialLR(
            o, [m.LinearLR(o, 0.01, 1.0, 10), m.OneCycleLR(o, 0.2, 250)], [10]
        ),
        "Sequential averaging": lambda m, o: m.SequentialLR(
            o,
            [m.SWALR(o, 0.2, 0), m.CosineAnnealingLR(o, 90), m.SWALR(o, 0.02), m.SWALR(o, 0.1, 0)],
            [8, 20, 50],
        ),
        "Chained cycle": lambda m, o: m.ChainedScheduler(
            [m.StepLR(o, 7), m.CyclicLR(o, 0.01, 0.2, 4)]
        ),
        "Sequential of chained": lambda m, o: m.SequentialLR(
            o,
            [
                m.ChainedScheduler([m.ConstantLR(o, 0.1, 20), m.ExponentialLR(o, 0.9)]),
                m.ExponentialLR(o, 0.99),
            ],
            [30],
        ),
        "Chained sequential": lambda m, o: m.ChainedScheduler(
            [
                m.SequentialLR(o, [m.ConstantLR(o, 0.1, 20), m.ExponentialLR(o, 0.9)], [10]),
                m.MultiStepLR(o, [30]),
            ]
        ),
    }.items()
}


def ours(name: str) -> tuple[Any, Any]:
    """The optimizer and the schedule of a row."""
    build, (kind, kwargs) = ROWS[name]
    optimizer = getattr(optim, kind)(**kwargs)
    return optimizer, build(optim, optimizer)


def our_values(name: str) -> np.ndarray:
    """(STEPS, 2): learning rate, and momentum or the first of betas."""
    optimizer, schedule = ours(name)
    return np.array([_pair({**optimizer.defaults, **schedule(t)[0]}) for t in range(STEPS)])


def torch_values(name: str) -> np.ndarray:
    """The same, by torch's optimizer.step() and scheduler.step()."""
    import torch

    module = SimpleNamespace(**{**vars(torch.optim.lr_scheduler), **vars(torch.optim.swa_utils)})
    build, (kind, kwargs) = ROWS[name]
    optimizer = getattr(torch.optim, kind)([torch.zeros(1, requires_grad=True)], **kwargs)
    schedule = build(module, optimizer)
    values = []
    for _ in range(STEPS):
        values.append(_pair(optimizer.param_groups[0]))
        optimizer.step()
        schedule.step()
    return np.array(values)


def _pair(group: Any) -> tuple[float, float]:
    return group["lr"], group["betas"][0] if "betas" in group else group["momentum"]
