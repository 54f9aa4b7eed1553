"""Gradients of several batches that optax.MultiSteps collects, in every form of program."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from jaxnet import losses, nn, parity, train
from jaxnet.parity._port import SubjectError
from jaxnet.parity._subject import make_subject
from jaxnet.parity._trace import read
from jaxnet.random import Generator


@pytest.fixture(autouse=True)
def usual_settings():
    """flax and optax do not run under the strictness of these tests, as a user's would not."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Two updates, each from the sum of the gradients of two batches."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("collected") / "trace"
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2)
    model = torch.nn.Sequential(*layers)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    data = torch.utils.data.TensorDataset(torch.randn(12, 4), torch.randn(12, 2))
    with parity.recording(folder, steps=2):
        optimizer.zero_grad()
        for i, (x, y) in enumerate(torch.utils.data.DataLoader(data, 3)):
            torch.nn.functional.mse_loss(model(x), y).backward()
            if i % 2:
                optimizer.step()
                optimizer.zero_grad()
    return read(folder)


class Flax(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(4, 3, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


def ours():
    generator = Generator(0)
    return nn.Sequential(
        nn.Linear(4, 3, rngs=generator), nn.Tanh(), nn.Linear(3, 2, rngs=generator)
    )


def squares(model, batch):
    inputs, targets = batch
    return jnp.mean((model(inputs) - targets) ** 2)


def several(mean=False, **options):
    return optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2, use_grad_mean=mean, **options)


def in_jaxnet(steps):
    return {"model": ours(), "loss": losses.mse_loss, "optimizer": steps}


def in_flax(steps):
    return {"model": Flax(), "loss": squares, "optimizer": steps.gradient_transformation()}


def in_a_step_of_jaxnet(steps):
    model, optimizer = ours(), steps.gradient_transformation()
    step = jax.jit(train.make_train_step(train.supervised(losses.mse_loss), optimizer))
    return {"step": step, "state": train.create(model, optimizer)}


def in_a_step_of_flax(steps):
    def step(state, batch):
        model, optimizer = state
        value, gradients = nnx.value_and_grad(squares)(model, batch)
        optimizer.update(model, gradients)
        return value

    model = Flax()
    return {"step": step, "state": (model, nnx.Optimizer(model, steps, wrt=nnx.Param))}


FORMS = [in_jaxnet, in_flax, in_a_step_of_jaxnet, in_a_step_of_flax]


@pytest.mark.torch
@pytest.mark.long  # each is two checks
@pytest.mark.parametrize("form", FORMS)
def test_the_sum_is_the_same_and_the_mean_is_not(trace, form):
    steps = several()
    report = parity.check(trace, **form(steps), weights="copy")
    assert report.verdict == "same", str(report)
    assert not any("no float64" in note for note in report.notes), str(report)
    assert steps._accumulator_dtype == jnp.float32  # the user's own is as it was
    report = parity.check(trace, **form(several(mean=True)), weights="copy")
    assert report.verdict == "different"


@pytest.mark.torch
@pytest.mark.parametrize("form", FORMS)
def test_sums_of_fewer_digits_are_refused(trace, form):
    wrong = form(several(accumulator_dtype=jnp.bfloat16))
    with pytest.raises(SubjectError, match=r"accumulator_dtype=bfloat16.*leave accumulator_dtype"):
        make_subject(trace, **wrong)


@pytest.mark.torch
@pytest.mark.parametrize("model", [ours, Flax])
def test_sums_within_another_transformation_are_refused(trace, model):
    inner = optax.chain(optax.identity(), several().gradient_transformation())
    with pytest.raises(SubjectError, match="MultiSteps inside of another transformation"):
        make_subject(trace, model(), squares, inner)
