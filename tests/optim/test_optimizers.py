"""Every optimizer and option set against torch: 100 steps of the same gradients."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import optim
from tests.optim.runs import Row, run_ours, run_torch
from tests.rows.optim import ROWS, SHOWN
from tests.table import GOLDEN
from tests.tolerances import distance, tolerance


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
def test_follows_golden(row: Row, dtype: str) -> None:
    shown = {name: value[list(SHOWN)] for name, value in run_ours(row, dtype).items()}
    kept = {name: golden()[f"{row}|{dtype}|{name}"] for name in row.shapes}
    assert_follows(row, shown, kept, dtype)


@pytest.mark.torch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_follows_torch(row: Row, dtype: str) -> None:
    assert_follows(row, run_ours(row, dtype), run_torch(row, dtype), dtype)


LATE = [
    Row("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    Row("Adam", {"lr": 0.1, "weight_decay": 0.1}),
    Row("NAdam", {"lr": 0.05}),
    Row("RAdam", {"lr": 0.05, "betas": (0.8, 0.9)}),
    Row("Adamax", {"lr": 0.1}),
    Row("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
    Row("ASGD", {"lr": 0.1, "lambd": 0.1, "t0": 5, "weight_decay": 0.1}),
    Row("Adafactor", {"lr": 0.1}),
]


@pytest.mark.torch
@pytest.mark.parametrize("row", LATE, ids=str)
def test_a_parameter_without_a_gradient_at_first_counts_its_own_steps(row: Row) -> None:
    runs = [run(row, "float64", {"b": 3}, 20) for run in (run_ours, run_torch)]
    assert_follows(row, *runs, "float64")


@pytest.mark.torch
@pytest.mark.parametrize(
    "row",
    [
        Row("AdamW", {"weight_decay": 0.1, "amsgrad": True}),
        Row("Adagrad", {"lr": 0.1, "weight_decay": 0.1}),
        Row("Rprop"),
    ],
    ids=str,
)
def test_bfloat16_is_rounded_where_torch_rounds(row: Row) -> None:
    ours = run_ours(row, jnp.bfloat16)
    theirs = run_torch(row, jnp.bfloat16)
    for name, value in theirs.items():
        assert ours[name].dtype == jnp.bfloat16
        assert np.array_equal(ours[name].astype(np.float32), value), name


def test_an_empty_parameter_and_a_single_array_pass() -> None:
    optimizer = optim.AdamW()
    params = {"empty": jnp.zeros((0, 3)), "nested": [jnp.ones(2), {"deep": jnp.ones(())}]}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, params)
    updates, _ = optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2))
    assert updates.shape == (2,)


def test_momentum_buffer_starts_with_the_undamped_gradient() -> None:
    optimizer = optim.SGD(lr=1.0, momentum=0.9, dampening=0.5, weight_decay=0.1)
    params = {"w": jnp.full(1, 2.0)}
    state = optimizer.init(params)
    updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
    assert float(updates["w"][0]) == pytest.approx(-1.2, rel=1e-6)
    updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
    assert float(updates["w"][0]) == pytest.approx(-(0.9 * 1.2 + 0.5 * 1.2), rel=1e-6)
    assert float(state.slots["momentum_buffer"]["w"][0]) == pytest.approx(1.68, rel=1e-6)


def test_adamw_decays_by_a_hundredth_unless_told() -> None:
    assert optim.AdamW().defaults["weight_decay"] == 1e-2
    assert optim.Adam().defaults["weight_decay"] == 0


@pytest.mark.parametrize("name", ["RMSprop", "Adagrad"])
def test_eps_stands_outside_the_root(name: str) -> None:
    optimizer = getattr(optim, name)(lr=1.0, eps=0.5)
    params = {"w": jnp.zeros(1)}
    updates, _ = optimizer.update({"w": jnp.ones(1)}, optimizer.init(params), params)
    root = 0.1 if name == "RMSprop" else 1.0
    assert float(updates["w"][0]) == pytest.approx(-1 / (root + 0.5), rel=1e-6)


def test_muon_takes_matrices_only() -> None:
    with pytest.raises(ValueError, match=r"Muon: parameter 'bias' has shape \(3,\)"):
        optim.Muon().init({"weight": jnp.zeros((2, 3)), "bias": jnp.zeros(3)})


def test_what_cannot_be_trained_is_named() -> None:
    with pytest.raises(TypeError, match=r"Adam: parameter 'a.b' is of dtype int32"):
        optim.Adam().init({"a": {"b": jnp.zeros(3, jnp.int32)}})


def test_update_without_parameters_is_an_error() -> None:
    optimizer = optim.SGD()
    state = optimizer.init({"w": jnp.zeros(1)})
    with pytest.raises(ValueError, match=r"SGD: update.* needs the parameters"):
        optimizer.update({"w": jnp.zeros(1)}, state)
