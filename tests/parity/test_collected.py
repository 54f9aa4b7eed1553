"""Gradients of several batches that optax.MultiSteps collects, and what else optimizers refuse."""

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
from tests.marks import slow_among

pytestmark = pytest.mark.usefixtures("usual_settings")


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
@pytest.mark.parametrize("form", slow_among(FORMS, [in_flax, in_a_step_of_jaxnet]))
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


@pytest.mark.torch
@pytest.mark.long  # two checks
def test_another_loss_is_one_difference(trace):
    """Flax's model has no partner of torch's outermost module, whose output the loss gets."""

    def absolute(model, batch):
        inputs, targets = batch
        return jnp.mean(jnp.abs(model(inputs) - targets))

    def downwards(model, batch):
        value = squares(model, batch)
        return 2 * jax.lax.stop_gradient(value) - value

    steps = several().gradient_transformation()
    report = parity.check(trace, Flax(), absolute, steps, weights="copy")
    assert [finding.site for finding in report.findings] == ["loss:0"], str(report)
    report = parity.check(trace, Flax(), downwards, steps, weights="copy")
    (finding,) = report.findings
    assert "the loss's gradient differs" in finding.message
    assert "-1 times torch's" in finding.cause


@pytest.mark.torch
def test_optimizers_that_cannot_be_compared_are_refused(trace):
    inner = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    with pytest.raises(SubjectError, match="MultiSteps inside of another transformation"):
        parity.check(trace, Flax(), squares, optax.chain(optax.identity(), inner))
    model = ours()
    whole = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)
    assert make_subject(trace, model, squares, whole).parts[0].optimizer is whole.tx
    some = nnx.All(nnx.Param, nnx.PathContains("last"))
    optimizer = nnx.Optimizer(Flax(), optax.sgd(0.1), wrt=some)
    with pytest.raises(SubjectError, match=r"its wrt leaves first.bias, first.kernel out"):
        parity.check(trace, Flax(), squares, optimizer)


@pytest.mark.torch
def test_parameters_of_fewer_digits_are_refused(trace):
    model = Flax()
    model.first = nnx.Linear(4, 3, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    words = r"first\.kernel, first\.bias are bfloat16 \(param_dtype\); torch's float32.*Leave"
    with pytest.raises(SubjectError, match=words):
        parity.check(trace, model, squares, optax.sgd(0.1), weights="copy")
    state = (model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param))
    with pytest.raises(SubjectError, match=words):
        parity.check(trace, step=lambda state, batch: 0.0, state=state, weights="copy")
