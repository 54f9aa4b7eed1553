"""The checks of the experiments: each holds for what is right, and is off for a planted fault."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import pytest

from experiments import activations, autograd
from jaxnet.nn import functional as F
from jaxnet.random import Generator


def drawn():
    generator = Generator(1)
    x, y = (jnp.asarray(generator.randn(n, 1)) for n in (5, 3))
    return {"w": jnp.asarray(generator.randn(3, 5)), "b": jnp.asarray(generator.randn(3, 1))}, x, y


def gradients(change=lambda grads: grads, operations=("dot_general", "add", "sub", "square",
                                                      "reduce_sum", "div")):  # fmt: skip
    params, x, y = drawn()
    grads = jax.grad(autograd.loss_of)(params, x, y)
    others = {"the formula": change(autograd.by_hand(params, x, y)),
              "the vjps": change(autograd.backward(params, x, y)[0])}  # fmt: skip
    return autograd.checks_of(grads, others, list(operations))


def wrong_gradients():
    yield gradients(lambda grads: grads | {"b": grads["b"] * 1.00001})
    yield gradients(lambda grads: grads | {"w": -grads["w"]})
    yield gradients(operations=["dot_general", "add"])


def wrong_limits():
    inf = float("inf")
    shapes = [(jnp.tanh, (0, 1)), (F.relu, (0, 1)), (F.leaky_relu, (0, inf)), (F.selu, (-1.7, inf))]
    for row in activations.limit_checks(
        {str(i): activations.Shape(*shape) for i, shape in enumerate(shapes)}
    ):
        yield [row]


def speed(**last):
    runs = {name: [[2.0, loss], [2.0, loss]] for name, loss in last.items()}
    return activations.speed_checks(runs)


Rows = list[dict[str, str]]
CASES: dict[str, tuple[Callable[[], Rows], Callable[[], Iterator[Rows]]]] = {
    "gradients": (gradients, wrong_gradients),
    "limits": (lambda: activations.limit_checks(activations.SHAPES), wrong_limits),
    "linear": (
        lambda: activations.linear_checks({"nothing": None, "relu": F.relu}),
        lambda: iter([activations.linear_checks({"twice": lambda x: 2 * x})]),
    ),
    "speed": (
        lambda: speed(relu=0.8, tanh=0.9, sigmoid=2.3),
        lambda: iter([speed(relu=0.9, tanh=0.8), speed(relu=float("nan"), tanh=0.8)]),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_right_is_ok_and_a_planted_fault_is_off(name):
    right, wrong = CASES[name]
    assert {check["verdict"] for check in right()} == {"ok"}
    for rows in wrong():
        assert "OFF" in {check["verdict"] for check in rows}


@pytest.mark.torch
def test_the_grad_functions_are_torchs():
    import torch

    w, b = torch.ones(3, 5, requires_grad=True), torch.ones(3, 1, requires_grad=True)
    loss = torch.nn.MSELoss()(torch.matmul(w, torch.ones(5, 1)) + b, torch.ones(3, 1))
    names, function = [], loss.grad_fn
    while len(names) < 3:
        names.append(function.name())
        function = function.next_functions[0][0]
    assert names == list(autograd.GRAD_FNS)
    assert function.name() == "torch::autograd::AccumulateGrad"
