"""Every optimizer and option set against torch: 100 steps of the same gradients."""

from functools import cache
from typing import Any

import numpy as np
import pytest

from jaxnet.parity.tolerances import distance, tolerance
from tests.optim.runs import MATRICES, Row, run_ours, run_torch
from tests.table import GOLDEN, HAS_TORCH

ROWS = [
    Row("SGD"),
    Row("SGD", {"lr": 0.1, "momentum": 0.9, "maximize": True}),
    Row("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    Row("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    Row("Adam"),
    Row("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    Row("Adam", {"lr": 0.03, "amsgrad": True, "maximize": True}),
    Row("Adam", {"lr": 0.01, "betas": (0.0, 0.0)}),
    Row("AdamW"),
    Row("AdamW", {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
    Row("NAdam"),
    Row("NAdam", {"lr": 0.05, "weight_decay": 0.1, "momentum_decay": 0.1, "maximize": True}),
    Row("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    Row("RAdam"),
    Row("RAdam", {"lr": 0.05, "betas": (0.8, 0.9), "weight_decay": 0.1}),
    Row("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True}),
    Row("RAdam", {"lr": 0.1, "betas": (0.9, 0.5)}),
    Row("Adamax"),
    Row("Adamax", {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.1, "maximize": True}),
    Row("RMSprop"),
    Row("RMSprop", {"lr": 0.05, "alpha": 0.9, "momentum": 0.9, "weight_decay": 0.1}),
    Row("RMSprop", {"centered": True, "momentum": 0.5, "eps": 0.1, "maximize": True}),
    Row("Adagrad"),
    Row(
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    Row("Adadelta"),
    Row("Adadelta", {"lr": 0.5, "rho": 0.5, "eps": 1e-3, "weight_decay": 0.1, "maximize": True}),
    Row("Rprop"),
    Row("Rprop", {"lr": 0.1, "etas": (0.3, 1.5), "step_sizes": (1e-3, 0.5), "maximize": True}),
    Row("ASGD"),
    Row("ASGD", {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 10, "weight_decay": 0.1}),
    Row("Adafactor"),
    Row(
        "Adafactor",
        {"lr": 0.1, "beta2_decay": -0.5, "eps": (1e-3, 1e-2), "d": 2.0, "weight_decay": 0.1},
    ),
    Row("Muon", {"lr": 0.02, "ns_steps": 3}, MATRICES),
    Row("Muon", {"ns_steps": 2, "nesterov": False, "adjust_lr_fn": "match_rms_adamw"}, MATRICES),
]
SHOWN = (0, 1, 9, 99)
"""The steps that are kept as golden arrays."""


@cache
def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "optim.npz") as archive:
        return dict(archive)


def assert_follows(row: Row, ours: Any, theirs: Any, dtype: str) -> None:
    """Each parameter, over all steps, relative to its largest value."""
    kind = "muon" if row.name == "Muon" else "optimizer"
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype == dtype, f"{row}: {name} is {ours[name].dtype}"
        gap, allowed = distance(kind, ours[name], value), tolerance(kind, dtype)
        assert gap <= allowed, f"{row}: {name} is {gap:.2e} off in {dtype}; {allowed:.0e} allowed"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_follows_torch(row: Row, dtype: str) -> None:
    ours = run_ours(row, dtype)
    shown = {name: value[list(SHOWN)] for name, value in ours.items()}
    kept = {name: golden()[f"{row}|{dtype}|{name}"] for name in row.shapes}
    assert_follows(row, shown, kept, dtype)
    if HAS_TORCH:
        assert_follows(row, ours, run_torch(row, dtype), dtype)
