"""The checks of the experiments: each holds for what is right, and is off for a planted fault."""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import activations, autograd, bike_forecast, ct_scan, images, thermometer
from jaxnet import optim, train, weights
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


def shrinking(change=lambda small: small):
    image = Generator(0).rand(3, 8, 8)
    return images.shrink_checks(image, change(images.shrink(image, 2)), 2)


def wrong_shrinking():
    swap = {"average pool": "max pool", "max pool": "average pool"}
    yield shrinking(lambda small: small | {name: small[other] for name, other in swap.items()})
    yield shrinking(lambda small: small | {"strided convolution": small["max pool"]})
    yield shrinking(lambda small: {name: x[:, :-1] for name, x in small.items()})


def batches(scale=1.0):
    cats = Generator(0).rand(3, 3, 4, 4)
    batch = np.concatenate([cats * np.float32(scale), np.zeros((97, 3, 4, 4), np.float32)])
    return images.batch_checks(cats, batch)


def denoised(**errors):
    return ct_scan.denoise_checks(errors)


def labels(forecast=0.0, error=0.0):
    counted = np.arange(1, 9, dtype=np.float32)
    return bike_forecast.label_checks(counted, counted + np.float32(3 + forecast), 3 + error)


def hidden(change=lambda grads: grads):
    model = thermometer.net(8, Generator(0))
    states = jax.tree.map(lambda leaf: leaf[None], train.create(model, optim.SGD(lr=1e-3)))
    return [thermometer.gradient_check(states, change(thermometer.hidden_grad(states)))]


def thirteen(units):
    return [thermometer.thirteen_check(thermometer.net(units, Generator(0)))]


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
    "shrinking": (shrinking, wrong_shrinking),
    "batches": (batches, lambda: iter([batches(scale=0.5), batches(scale=1.01)])),
    "slices": (
        lambda: ct_scan.order_checks([3, 2, 1]),
        lambda: iter([ct_scan.order_checks([1, 2, 3]), ct_scan.order_checks([4, 3, 2])]),
    ),
    "noise": (
        lambda: denoised(noise=3.0, mean=2.0, net=1.0),
        lambda: iter([denoised(noise=3.0, mean=1.0, net=2.0), denoised(a=1.0, b=float("nan"))]),
    ),
    "labels": (labels, lambda: iter([labels(forecast=1.0), labels(error=-0.1)])),
    "gradient": (hidden, lambda: iter([hidden(lambda g: -g), hidden(lambda g: g * 1.01)])),
    "thirteen": (lambda: thirteen(13), lambda: iter([thirteen(8)])),
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


@pytest.mark.torch
def test_the_hidden_gradient_is_torchs():
    import torch

    model = thermometer.net(8, Generator(3))
    states = jax.tree.map(lambda leaf: leaf[None], train.create(model, optim.SGD(lr=1e-3)))
    theirs = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    ours = [torch.tensor(array) for array in weights.state_dict(model).values()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours, strict=True)))
    x, y = (torch.tensor(np.asarray(part)) for part in thermometer.net_rows()[0])
    torch.nn.MSELoss()(theirs(x), y).backward()
    wanted = theirs[0].weight.grad[:, 0]
    # The sums are of numbers of about 10, in another order.
    np.testing.assert_allclose(thermometer.hidden_grad(states)[0], wanted, rtol=1e-5, atol=1e-5)
