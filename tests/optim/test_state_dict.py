"""jaxnet/optim/_state_dict.py: a run that changes sides in the middle is one run."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import optim
from tests.optim.runs import MATRICES, problem
from tests.tolerances import tolerance

NAMES = ["c", "a", "b"]
"""The order in which torch has them; jax sorts."""

ROWS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("Adam", {"lr": 0.1, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    ("AdamW", {"lr": 0.03, "amsgrad": True}),
    ("NAdam", {"lr": 0.05}),
    ("RAdam", {"lr": 0.05}),
    ("Adamax", {"lr": 0.1}),
    ("RMSprop", {"momentum": 0.5, "centered": True}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1}),
    ("Adadelta", {}),
    ("Rprop", {}),
    ("ASGD", {"t0": 20, "lambd": 0.1}),
    ("Adafactor", {"lr": 0.1}),
    ("Muon", {"ns_steps": 1}),
]


def torch_run(name: str, kwargs: Any, params: Any, grads: Any, state: Any = None) -> Any:
    """Torch's parameters and state_dict after the gradients."""
    import torch

    tensors = {k: torch.tensor(np.asarray(params[k])).requires_grad_() for k in params}
    optimizer = getattr(torch.optim, name)([tensors[k] for k in NAMES if k in params], **kwargs)
    if state is not None:
        tensor = lambda x: torch.tensor(x) if isinstance(x, np.ndarray) else x  # noqa: E731
        optimizer.load_state_dict(jax.tree.map(tensor, state, is_leaf=lambda x: x is None))
    for i in range(len(next(iter(grads.values())))):
        for k, t in tensors.items():
            t.grad = torch.tensor(grads[k][i])
        optimizer.step()
    return {k: t.detach().numpy() for k, t in tensors.items()}, optimizer.state_dict()


def make_run(optimizer: Any) -> Any:
    """`run(params, grads, state)` gives the parameters and the state after the gradients."""

    def step(carry: Any, grads: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    loop = jax.jit(lambda carry, grads: jax.lax.scan(step, carry, grads)[0])
    return lambda params, grads, state: loop((jax.tree.map(jnp.asarray, params), state), grads)


@pytest.mark.torch
@pytest.mark.parametrize(("name", "kwargs"), ROWS, ids=lambda x: str(x))
def test_fifty_and_fifty_make_a_hundred(name: str, kwargs: Any) -> None:
    params, grads = problem(MATRICES) if name == "Muon" else problem()
    names = [k for k in NAMES if k in params]
    first = {k: g[:50] for k, g in grads.items()}
    second = {k: g[50:] for k, g in grads.items()}
    whole, _ = torch_run(name, kwargs, params, grads)

    optimizer = getattr(optim, name)(**kwargs)
    run = make_run(optimizer)
    half, saved = torch_run(name, kwargs, params, first)
    state = optim.load_optimizer_state_dict(optimizer, optimizer.init(params), params, saved, names)
    ours, _ = run(half, second, state)

    half, state = run(params, first, optimizer.init(params))
    dumped = optim.optimizer_state_dict(optimizer, state, params, names)
    theirs, _ = torch_run(name, kwargs, half, second, dumped)
    kind = "muon" if name == "Muon" else "optimizer"
    for k, value in whole.items():
        # over the run a parameter was at least this large
        size = max(np.abs(value).max(), np.abs(params[k]).max())
        for side in (ours, theirs):
            assert np.abs(side[k] - value).max() <= tolerance(kind, "float32") * size, k
    assert_same_form(dumped, saved)


def assert_same_form(ours: Any, theirs: Any) -> None:
    """The same keys, shapes, dtypes and groups as torch's state_dict."""
    for number, entry in theirs["state"].items():
        # SGD without momentum leaves a buffer of None
        expected = {k: v.numpy() for k, v in entry.items() if v is not None}
        assert set(ours["state"].get(number, {})) == set(expected)
        for key, value in expected.items():
            got = ours["state"][number][key]
            assert (got.shape, got.dtype) == (value.shape, value.dtype), key
    assert ours["param_groups"] == theirs["param_groups"]


def test_hyperparameters_come_back_as_they_were_set() -> None:
    optimizer = optim.Adam(lr=1 / 3)
    params = {"w": jnp.zeros(2)}
    state = optimizer.init(params)
    group = optim.optimizer_state_dict(optimizer, state, params, ["w"])["param_groups"][0]
    assert (group["lr"], group["betas"]) == (1 / 3, (0.9, 0.999))
    state = optim.set_hyperparams(state, lr=0.05, betas=(0.85, 0.99))
    saved = optim.optimizer_state_dict(optimizer, state, params, ["w"])
    group = saved["param_groups"][0]
    assert (group["lr"], group["betas"]) == (0.05, (0.85, 0.99))
    assert saved["state"] == {}
    loaded = optim.load_optimizer_state_dict(
        optimizer, optimizer.init(params), params, saved, ["w"]
    )
    assert float(optim.get_hyperparams(loaded)["lr"]) == pytest.approx(0.05)


@pytest.mark.torch
def test_groups_frozen_parameters_and_schedules_pass() -> None:
    import torch

    params, grads = problem()
    tensors = {k: torch.tensor(v).requires_grad_() for k, v in params.items()}
    theirs = torch.optim.SGD(
        [{"params": [tensors["b"]], "lr": 0.5}, {"params": [tensors["c"]]}], lr=0.1, momentum=0.9
    )
    plain = optim.groups(
        [("a", optim.frozen()), ("b", optim.SGD(0.5, momentum=0.9))], optim.SGD(0.1, momentum=0.9)
    )
    optimizer = optim.scheduled(plain, optim.StepLR(plain, 10), steps=20)
    state = optimizer.init(params)
    for k, t in tensors.items():
        t.grad = torch.tensor(grads[k][0])
    theirs.step()
    state = optim.load_optimizer_state_dict(
        optimizer, state, params, theirs.state_dict(), NAMES, step=12
    )
    # beyond the tenth step the schedule has cut the rates
    _, state = optimizer.update({k: g[1] for k, g in grads.items()}, state, params)
    rates = [float(optim.get_hyperparams(state, g)["lr"]) for g in range(2)]
    np.testing.assert_allclose(rates, [0.05, 0.01], rtol=1e-6)
    saved = optim.optimizer_state_dict(optimizer, state, params, NAMES)
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1]]
    np.testing.assert_allclose(
        saved["state"][1]["momentum_buffer"], 0.9 * grads["c"][0] + grads["c"][1], rtol=1e-5
    )


def faulty(change: Any) -> Any:
    optimizer = optim.AdamW()
    params = {"a": jnp.zeros(2), "b": jnp.zeros((2, 3))}
    _, state = optimizer.update(params, optimizer.init(params), params)
    saved = optim.optimizer_state_dict(optimizer, state, params, ["a", "b"])
    change(saved)
    return optimizer, optimizer.init(params), params, saved, ["a", "b"]


FAULTS = [
    (lambda s: s["state"][0].pop("exp_avg"), r"a has no exp_avg"),
    (lambda s: s["state"][1].update(exp_avg_sq=np.zeros(4)), r"exp_avg_sq of b has shape \(4,\)"),
    (lambda s: s["param_groups"][0].update(amsgrad=True), r"amsgrad is True"),
    (lambda s: s["param_groups"][0].update(params=[0]), r"groups of \[1\] parameters"),
    (lambda s: s["param_groups"][0].update(lr=-1.0), r"lr: -1.0"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_what_does_not_fit_is_named(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optim.load_optimizer_state_dict(*faulty(change))


@pytest.mark.torch
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("AdamW", {}), ("SGD", {"momentum": 0.9, "dampening": 0.5}), ("Adagrad", {}), ("NAdam", {})],
)
@pytest.mark.parametrize("used", [0, 1])
def test_each_parameter_has_its_own_number_of_steps(name: str, kwargs: Any, used: int) -> None:
    """Two steps, in the last `used` of which b has a gradient, change sides; two more follow."""
    import torch

    kwargs = kwargs | {"lr": 0.1, "weight_decay": 0.1}
    tensors = {k: torch.ones(2, requires_grad=True) for k in ("a", "b")}
    theirs = getattr(torch.optim, name)(list(tensors.values()), **kwargs)
    optimizer = getattr(optim, name)(**kwargs)
    params = {k: jnp.ones(2) for k in tensors}
    state = optimizer.init(params)
    for i in range(4):
        has = {"b": i + used >= 2}
        (tensors["a"] ** 2 + (tensors["b"] ** 3 if has["b"] else 0)).sum().backward()
        theirs.step()
        theirs.zero_grad()
        grads = {"a": 2 * params["a"], "b": 3 * params["b"] ** 2}
        updates, state = optimizer.update(grads, state, params, has_gradient=has)
        params = {k: p + updates[k] for k, p in params.items()}
        saved, ours = (
            theirs.state_dict(),
            optim.optimizer_state_dict(optimizer, state, params, ["a", "b"]),
        )
        assert list(ours["state"]) == list(saved["state"])
        assert_same_form(ours, saved)
        for number, entry in saved["state"].items():
            for key, value in entry.items():
                np.testing.assert_allclose(ours["state"][number][key], value, rtol=1e-6)
        if i == 1:
            state = optim.load_optimizer_state_dict(
                optimizer, optimizer.init(params), params, saved, ["a", "b"], step=2
            )
    for k, t in tensors.items():
        np.testing.assert_allclose(params[k], t.detach().numpy(), rtol=1e-6, atol=1e-7)


def test_dampening_that_was_not_built_in_is_named() -> None:
    params = {"w": jnp.zeros(2)}
    damped = optim.SGD(momentum=0.9, dampening=0.5)
    saved = optim.optimizer_state_dict(damped, damped.init(params), params, ["w"])
    plain = optim.SGD(momentum=0.9)
    with pytest.raises(ValueError, match=r"dampening is 0.5, the optimizer was built with 0"):
        optim.load_optimizer_state_dict(plain, plain.init(params), params, saved, ["w"])


def test_names_and_optimizers_that_do_not_fit() -> None:
    optimizer, state, params, saved, _ = faulty(lambda s: None)
    with pytest.raises(ValueError, match=r"missing are \['b'\], repeated are \['a'\]"):
        optim.optimizer_state_dict(optimizer, state, params, ["a", "a"])
    with pytest.raises(ValueError, match=r"\['x'\] are not among"):
        optim.load_optimizer_state_dict(optimizer, state, params, saved, ["a", "b", "x"])
    with pytest.raises(ValueError, match=r"\['LBFGS'\] has no common form"):
        optim.optimizer_state_dict(optim.LBFGS(), state, params, ["a", "b"])
    with pytest.raises(ValueError, match=r"0 parameter groups, the optimizer 1"):
        optim.optimizer_state_dict(optimizer, {}, params, ["a", "b"])
