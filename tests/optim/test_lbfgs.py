"""L-BFGS against torch: the same points after the same number of evaluations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator

OPTIONS = [
    {"lr": 0.1},
    {"lr": 0.01, "max_iter": 1},
    {"lr": 0.05, "max_iter": 8, "history_size": 3},
    {"line_search_fn": "strong_wolfe"},
    {"line_search_fn": "strong_wolfe", "max_iter": 5, "history_size": 2},
    {"line_search_fn": "strong_wolfe", "max_iter": 10, "max_eval": 4, "lr": 5.0},
]


def rosenbrock(p: Any) -> Any:
    x = p["x"]
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum() + (p["y"] ** 2).sum()


def start() -> dict[str, np.ndarray]:
    rng = np.random.RandomState(0)
    return {"x": rng.standard_normal(6), "y": rng.standard_normal((2, 1))}


@pytest.mark.torch
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_torch(options: Any) -> None:
    import torch

    tensors = {k: torch.tensor(v).requires_grad_() for k, v in start().items()}
    theirs = torch.optim.LBFGS(list(tensors.values()), **options)

    def closure() -> Any:
        theirs.zero_grad()
        loss = rosenbrock(tensors)
        loss.backward()
        return loss

    with jax.enable_x64(True):
        optimizer = optim.LBFGS(**options)

        @jax.jit
        def step(params: Any, state: Any) -> Any:
            grads = jax.grad(rosenbrock)(params)
            updates, state = optimizer.update(grads, state, params, value_fn=rosenbrock)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(jnp.asarray, start())
        state = optimizer.init(params)
        for _ in range(3):
            theirs.step(closure)
            params, state = step(params, state)
            for name, tensor in tensors.items():
                np.testing.assert_allclose(params[name], tensor.detach().numpy(), atol=1e-9)
        history = theirs.state[theirs._params[0]]
        assert int(state.shared["n_iter"]) == history["n_iter"]
        assert int(state.shared["func_evals"]) == history["func_evals"]


def test_finds_the_minimum_without_torch() -> None:
    optimizer = optim.LBFGS(line_search_fn="strong_wolfe", max_iter=60)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), start())
    step = jax.jit(
        lambda p, s: optimizer.update(jax.grad(rosenbrock)(p), s, p, value_fn=rosenbrock)
    )
    updates, _ = step(params, optimizer.init(params))
    np.testing.assert_allclose(optax.apply_updates(params, updates)["x"], np.ones(6), atol=1e-2)


def test_one_iteration_an_update_trains_a_model() -> None:
    optimizer = optim.LBFGS(lr=0.5, max_iter=1, history_size=5)
    state = train.create(nn.Linear(2, 1, rngs=Generator(0)), optimizer)
    step = train.make_train_step(train.supervised(losses.mse_loss), optimizer)
    inputs = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    state, metrics = train.make_repeat(step, 30)(state, (inputs, inputs @ jnp.ones((2, 1))))
    assert float(metrics["loss"][-1]) < 1e-6


def test_a_missing_closure_is_an_error() -> None:
    optimizer = optim.LBFGS()
    params = {"x": jnp.zeros(2)}
    with pytest.raises(ValueError, match="LBFGS: value_fn is missing"):
        optimizer.update(params, optimizer.init(params), params)
