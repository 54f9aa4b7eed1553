"""Hyperparameters as data, and arguments out of range."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator

PARAMS = {"w": jnp.arange(3.0), "b": jnp.ones(())}
GRADS = {"w": jnp.ones(3), "b": jnp.full((), 0.5)}


@pytest.mark.parametrize(
    ("optimizer", "values"),
    [
        (
            optim.SGD(0.1, momentum=0.9, weight_decay=0.5),
            {"lr": 0.2, "momentum": 0.5, "weight_decay": 0.1},
        ),
        (optim.Adam(), {"lr": 0.2, "betas": (0.8, 0.99), "eps": 1e-4}),
        (optim.RMSprop(), {"alpha": 0.9}),
        (optim.Adadelta(), {"rho": 0.5}),
        (optim.Rprop(), {"etas": (0.25, 2.0), "step_sizes": (1e-4, 1.0)}),
    ],
    ids=lambda x: repr(x)[:20],
)
def test_a_changed_hyperparameter_acts_as_if_built_in(optimizer: Any, values: Any) -> None:
    state = optim.set_hyperparams(optimizer.init(PARAMS), **values)
    built = getattr(optim, optimizer.name)(**{**optimizer.defaults, **values})
    ours, _ = optimizer.update(GRADS, state, PARAMS)
    expected, _ = built.update(GRADS, built.init(PARAMS), PARAMS)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)
    for name, value in values.items():
        got = optim.get_hyperparams(state)[name]
        np.testing.assert_allclose(got, value, rtol=1e-6)


def test_changing_the_rate_compiles_nothing_anew() -> None:
    optimizer = optim.Adam()
    compiled = jax.jit(optimizer.update)
    state = optimizer.init(PARAMS)
    _, state = compiled(GRADS, state, PARAMS)
    slow, _ = compiled(GRADS, optim.set_hyperparams(state, lr=1e-3), PARAMS)
    fast, _ = compiled(GRADS, optim.set_hyperparams(state, lr=np.float64(0.5)), PARAMS)
    assert compiled._cache_size() == 1
    assert float(fast["b"]) == pytest.approx(500 * float(slow["b"]), rel=1e-5)


def test_a_sweep_over_rates_is_one_vmap() -> None:
    rates = jnp.array([0.1, 0.01, 0.001])
    optimizer = optim.Adam()

    def first_step(lr: jax.Array) -> Any:
        state = optim.set_hyperparams(optimizer.init(PARAMS), lr=lr)
        return optimizer.update(GRADS, state, PARAMS)[0]

    swept = jax.vmap(first_step)(rates)
    built = jax.vmap(
        lambda lr: optim.Adam(lr).update(GRADS, optim.Adam(lr).init(PARAMS), PARAMS)[0]
    )(rates)
    for i, lr in enumerate((0.1, 0.01, 0.001)):
        alone, _ = optim.Adam(lr).update(GRADS, optim.Adam(lr).init(PARAMS), PARAMS)
        for got in (swept, built):
            jax.tree.map(
                lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-6), got, alone
            )


def test_float32_keeps_the_digits_of_one_minus_beta() -> None:
    state = optim.Adam(betas=(0.9, 0.9999)).init(PARAMS)
    np.testing.assert_allclose(state.hyperparams["one_minus_beta2"], 1e-4, rtol=1e-7)
    state = optim.set_hyperparams(state, betas=(0.9, 0.999))
    np.testing.assert_allclose(state.hyperparams["one_minus_beta2"], 1e-3, rtol=1e-7)


def test_trains_a_model() -> None:
    model = nn.Linear(2, 1, rngs=Generator(0))
    optimizer = optim.chain(optim.clip_by_norm(1.0), optim.SGD(lr=0.1, momentum=0.9))
    step = jax.jit(train.make_train_step(train.supervised(losses.mse_loss), optimizer))
    state = train.create(model, optimizer)
    batch = (jnp.eye(2), jnp.array([[1.0], [-1.0]]))
    for _ in range(60):
        state, metrics = step(state, batch)
    assert float(metrics["loss"]) < 1e-2


REFUSED = [
    ("SGD", {"lr": -0.1}, r"SGD: lr: -0.1; accepted is a finite number, at least 0"),
    ("SGD", {"lr": float("nan")}, r"SGD: lr: nan"),
    ("SGD", {"lr": float("inf")}, r"SGD: lr: inf"),
    ("SGD", {"momentum": -0.5}, r"SGD: momentum: -0.5"),
    ("SGD", {"weight_decay": -1}, r"SGD: weight_decay: -1"),
    ("SGD", {"nesterov": True}, r"SGD: nesterov with momentum=0"),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, r"dampening=0.1"),
    ("Adam", {"betas": (1.0, 0.999)}, r"Adam: betas\[0\]: 1.0; accepted is \[0, 1\)"),
    ("Adam", {"betas": (0.9, -0.1)}, r"Adam: betas\[1\]: -0.1"),
    ("Adam", {"betas": 0.9}, r"Adam: betas: 0.9; accepted are two numbers"),
    ("Adam", {"eps": -1e-8}, r"Adam: eps: -1e-08"),
    ("AdamW", {"weight_decay": -0.1}, r"AdamW: weight_decay: -0.1"),
    ("NAdam", {"momentum_decay": -1}, r"NAdam: momentum_decay: -1"),
    ("RAdam", {"lr": -1}, r"RAdam: lr: -1"),
    ("Adamax", {"eps": -1}, r"Adamax: eps: -1"),
    ("RMSprop", {"alpha": -0.1}, r"RMSprop: alpha: -0.1"),
    ("Adagrad", {"initial_accumulator_value": -1}, r"initial_accumulator_value: -1"),
    ("Adadelta", {"rho": 1.1}, r"Adadelta: rho: 1.1; accepted is \[0, 1\]"),
    ("Rprop", {"etas": (1.1, 1.2)}, r"Rprop: etas\[0\]: 1.1; accepted is \(0, 1\)"),
    ("Rprop", {"etas": (0.5, 0.9)}, r"Rprop: etas\[1\]: 0.9"),
    ("ASGD", {"weight_decay": -1}, r"ASGD: weight_decay: -1"),
    ("Adafactor", {"d": 0.5}, r"Adafactor: d: 0.5"),
    ("Adafactor", {"beta2_decay": 0.8}, r"Adafactor: beta2_decay: 0.8"),
    ("Adafactor", {"eps": (-1.0, 1e-3)}, r"Adafactor: eps\[0\]: -1.0"),
    ("Muon", {"adjust_lr_fn": "other"}, r"Muon: adjust_lr_fn: 'other'"),
    ("Muon", {"ns_steps": 100}, r"Muon: ns_steps: 100"),
    ("LBFGS", {"lr": -1}, r"LBFGS: lr: -1"),
    ("LBFGS", {"history_size": 0}, r"LBFGS: history_size: 0"),
    ("LBFGS", {"line_search_fn": "armijo"}, r"LBFGS: line_search_fn: 'armijo'"),
]


@pytest.mark.parametrize(("name", "kwargs", "message"), REFUSED)
def test_arguments_out_of_range_are_refused(name: str, kwargs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        getattr(optim, name)(**kwargs)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(TypeError, match=r"SGD: lr: '0.1'"):
        optim.SGD(lr="0.1")  # type: ignore[arg-type]


def test_set_hyperparams_skips_no_group() -> None:
    decays = optim.SGD(lr=0.1, weight_decay=0.1, momentum=0.9)
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    state = optim.groups([("a", optim.SGD(lr=0.1))], decays).init(params)
    for name in ("weight_decay", "momentum"):
        with pytest.raises(ValueError, match=rf"{name}: no hyperparameter of group 0.*group=1"):
            optim.set_hyperparams(state, **{name: 0.5})
        changed = optim.set_hyperparams(state, group=1, **{name: 0.5})
        assert float(optim.get_hyperparams(changed, 1)[name]) == 0.5
    off = optim.set_hyperparams(state, weight_decay=0.0)  # a group that was built with 0 has it
    assert float(optim.get_hyperparams(off, 1)["weight_decay"]) == 0
    mixed = optim.groups([("a", optim.SGD(lr=0.1))], optim.Adam(lr=0.1)).init(params)
    with pytest.raises(ValueError, match=r"betas: no hyperparameter of group 0.*group=1"):
        optim.set_hyperparams(mixed, betas=(0.5, 0.9))


def test_set_hyperparams_refuses_what_the_state_lacks() -> None:
    state = optim.SGD().init(PARAMS)
    with pytest.raises(ValueError, match=r"momentum: no hyperparameter.*\['lr'\]"):
        optim.set_hyperparams(state, momentum=0.9)
    with pytest.raises(ValueError, match=r"weight_decay: no .* cannot be turned on later"):
        optim.set_hyperparams(state, weight_decay=0.1)
    with pytest.raises(ValueError, match=r"group: 1; the state has 1 parameter groups"):
        optim.set_hyperparams(state, group=1, lr=0.1)
    with pytest.raises(ValueError, match=r"lr: -1"):
        optim.set_hyperparams(state, lr=-1)
    with pytest.raises(ValueError, match=r"group: 3"):
        optim.get_hyperparams(state, group=3)
