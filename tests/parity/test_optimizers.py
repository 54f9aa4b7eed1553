"""Optimizers of which torch has no whole float64 run, and what each begins with."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from jaxnet import losses, nn, optim, parity, train
from jaxnet.parity import _trace
from jaxnet.parity._update_causes import changed_besides
from jaxnet.random import Generator

STEPS = 3

pytestmark = [pytest.mark.torch, pytest.mark.long]  # a trace is recorded, and checked twice


def recorded(folder, make):
    """A trace of a small network that is trained by an optimizer."""
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 6), torch.nn.SiLU(), torch.nn.Linear(6, 2)
    model = torch.nn.Sequential(*layers)
    optimizer = make(torch.optim, model.parameters())
    with parity.recording(folder, steps=STEPS):
        for _ in range(STEPS):
            x, y = torch.randn(8, 4), torch.randn(8, 2)
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
    return folder


def checked(trace, optimizer):
    rngs = Generator(0)
    model = nn.Sequential(nn.Linear(4, 6, rngs=rngs), nn.SiLU(), nn.Linear(6, 2, rngs=rngs))

    def loss(model, batch):
        return losses.mse_loss(model(batch[0]), batch[1])

    return parity.check(trace, model, loss, optimizer)


class Net(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.silu(self.first(x)))


def checked_flax(trace, optimizer):
    def loss(model, batch):
        return jnp.mean((model(batch[0]) - batch[1]) ** 2)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return parity.check(trace, Net(), loss, optimizer, weights="copy")


@pytest.mark.parametrize(
    ("name", "options", "wrong"),
    [
        ("NAdam", {"lr": 0.01}, {"momentum_decay": 5e-3}),
        ("Rprop", {"lr": 0.02}, {"etas": (0.5, 1.201)}),
        ("ASGD", {"lr": 0.02, "t0": 1, "lambd": 1e-2}, {"lambd": 1.1e-2}),
    ],
)
def test_constants_that_torch_keeps_in_float32_are_no_difference(tmp_path, name, options, wrong):
    trace = recorded(tmp_path / "trace", lambda torch, p: getattr(torch, name)(p, **options))
    report = checked(trace, getattr(optim, name)(**options))
    assert report.verdict == "same", str(report)
    assert any(f"torch's {name}" in note for note in report.notes)
    report = checked(trace, getattr(optim, name)(**{**options, **wrong}))
    assert report.verdict == "different"
    assert report.findings[0].origin == "optimizer"


@pytest.mark.parametrize(
    ("name", "options", "make"),
    [
        ("Adamax", {"lr": 0.01}, optax.adamax),
        ("RAdam", {"lr": 0.01, "betas": (0.5, 0.6)}, lambda lr: optax.radam(lr, 0.5, 0.6)),
        ("Adadelta", {"lr": 0.5}, lambda lr: optax.adadelta(lr, 0.9, 1e-6)),
    ],
)
def test_a_state_of_optax_that_goes_on_is_no_difference(tmp_path, name, options, make):
    trace = recorded(tmp_path / "trace", lambda torch, p: getattr(torch, name)(p, **options))
    report = checked_flax(trace, make(options["lr"]))
    assert report.verdict == "same", str(report)
    report = checked_flax(trace, make(1.01 * options["lr"]))
    assert report.verdict == "different"
    assert report.findings[0].origin == "optimizer"


def test_what_an_optimizer_begins_with_is_compared(tmp_path):
    """Each step begins with torch's state, so that no update shows what the program's was."""
    trace = recorded(
        tmp_path / "trace",
        lambda torch, p: torch.Adagrad(p, 0.05, initial_accumulator_value=0.1),
    )
    assert checked(trace, optim.Adagrad(0.05, initial_accumulator_value=0.1)).verdict == "same"
    report = checked(trace, optim.Adagrad(0.05))
    assert report.verdict == "different"
    (finding,) = report.findings
    assert finding.level == "preflight"
    assert "sum is 0; torch's is 0.1" in finding.message


def test_a_learning_rate_that_does_not_decay_is_named(tmp_path):
    trace = recorded(tmp_path / "trace", lambda torch, p: torch.Adagrad(p, 0.05, lr_decay=0.1))
    (finding,) = checked(trace, optim.Adagrad(0.05)).findings
    assert finding.cause == "lr_decay is 0; torch's is 0.1."


def test_weights_that_are_clipped_after_the_update_are_compared_in_whole_steps(tmp_path):
    import torch

    def clipped(bound):
        rngs = Generator(0)
        model, sgd = nn.Linear(4, 3, rngs=rngs), optim.SGD(lr=0.5)

        def loss(model, batch):
            return (model(batch[0]) ** 2).mean()

        once = train.make_train_step(loss, sgd)

        def step(state, batch):
            state, measured = once(state, batch)
            params = {name: jnp.clip(p, -bound, bound) for name, p in state.params.items()}
            return state.replace(params=params), measured

        return step, train.create(model, sgd)

    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with parity.recording(tmp_path / "trace", steps=STEPS):
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(5, 4)).square().mean().backward()
            optimizer.step()
            for p in model.parameters():
                p.data.clamp_(-0.2, 0.2)
    step, state = clipped(0.2)
    report = parity.check(tmp_path / "trace", step=step, state=state)
    assert report.verdict == "same", str(report)
    assert any("changes them besides its optimizer" in note for note in report.notes)
    step, state = clipped(0.21)
    report = parity.check(tmp_path / "trace", step=step, state=state)
    assert report.verdict == "different"


def test_each_step_is_read_once_to_see_what_is_changed_besides(tmp_path, monkeypatch):
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    with parity.recording(tmp_path / "trace", steps=STEPS):
        for _ in range(STEPS):
            optimizer.zero_grad()
            model(torch.randn(5, 4)).square().mean().backward()
            optimizer.step()
            model[1].weight.data.clamp_(-0.2, 0.2)
    read_files, whole = [], _trace.load_file

    def counted(file):
        read_files.append(file.name)
        return whole(file)

    monkeypatch.setattr(_trace, "load_file", counted)
    trace = _trace.read(tmp_path / "trace")
    assert changed_besides(trace) == {"1.weight"}
    # Once for the formula of the optimizer, and once for what the program left.
    assert sorted(read_files) == sorted(2 * [f"step-{i:04d}.safetensors" for i in range(STEPS)])
