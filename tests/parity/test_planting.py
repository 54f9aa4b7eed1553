"""Known mistakes that are really made in the checked program, and looked for."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, parity
from jaxnet.parity._judgement import Judgement
from jaxnet.parity._plant import _CannotPlantError, _planted
from jaxnet.parity._power import parts
from jaxnet.parity._result import Coverage, Report, SiteResult
from jaxnet.parity._subject import make_subject
from jaxnet.parity._trace import read
from jaxnet.parity._traps import ALL
from jaxnet.random import Generator

pytestmark = pytest.mark.torch

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
TRAPS = {trap.name: trap for trap in ALL}


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, weight_decay=0.1)
    folder = tmp_path_factory.mktemp("planting") / "trace"
    with parity.recording(folder, steps=1):
        torch.nn.functional.cross_entropy(network(torch.tensor(X)), torch.arange(6) % 2).backward()
        optimizer.step()
    return read(folder)


def loss(model, batch):
    inputs, targets = batch
    return losses.cross_entropy(model(inputs), targets)


@pytest.fixture(scope="module")
def program():
    rngs = Generator(0)
    layers = (
        nn.Linear(3, 4, rngs=rngs),
        nn.LayerNorm(4),
        nn.Dropout(0.5),
        nn.Linear(4, 2, rngs=rngs),
    )
    return nn.Sequential(*layers), loss, optim.Adam(lr=1e-2, weight_decay=0.1)


@pytest.fixture(scope="module")
def subject(trace, program):
    return make_subject(trace, *program)


def planted(trace, subject, place, name, **values):
    hypothesis = next(iter(TRAPS[name].choices(_reference(trace, place)))).fitted(**values)
    return _planted(subject, place, _reference(trace, place), hypothesis)


def _reference(trace, place):
    same = Judgement("same", 0.0, 0.0, 0.0, 0.0, 1.0)
    modules = Coverage(tuple(trace.modules), {})
    report = Report("same", coverage={"modules": modules, "steps": Coverage(("0",), {})})
    report.results = [
        SiteResult(0, f"update:{name}", "layer", same, name) for name in trace.parameters
    ]
    return parts(trace, report)[place][0].reference


def test_a_layer_has_the_mistake_and_its_own_weights(trace, subject):
    with planted(trace, subject, "1", "norm-epsilon", eps=0.1) as (changed, _):
        model, other = subject.state.model(), changed.state.model()
        hidden = model[0](jnp.asarray(X))
        wrong = nn.LayerNorm(4, eps=0.1)(hidden)
        np.testing.assert_allclose(other[1](hidden), wrong, rtol=1e-6)
        assert abs(np.asarray(wrong - model[1](hidden))).max() > 1e-3
        np.testing.assert_array_equal(other[0](jnp.asarray(X)), hidden)


def test_a_loss_has_the_mistake_inside_only(trace, subject):
    batch = jnp.asarray(X), jnp.arange(6) % 2
    model = subject.state.model()
    plain = loss(model, batch)
    with planted(trace, subject, "loss", "loss-reduction") as (_, calls):
        assert loss(model, batch) != plain
        assert calls == [1]
    assert loss(model, batch) == plain


def test_a_criterion_has_the_mistake(trace, program):
    network, _, optimizer = program
    given = make_subject(trace, network, losses.cross_entropy, optimizer)
    batch = jnp.asarray(X), jnp.arange(6) % 2
    _, plain = given.step(given.state, batch)
    with planted(trace, given, "loss", "loss-reduction") as (changed, calls):
        _, metrics = changed.step(changed.state, batch)
        assert metrics["loss"] != plain["loss"]
        assert calls[0]


def test_an_optimizer_has_other_hyperparameters(trace, subject):
    with planted(trace, subject, "Adam optimizer", "decay-missing") as (changed, _):
        assert float(changed.state.opt_state.hyperparams["weight_decay"]) == 0
    with (
        pytest.raises(_CannotPlantError),
        planted(trace, subject, "Adam optimizer", "decay-decoupled"),
    ):
        pass


def test_a_layer_with_draws_is_left_alone(trace, subject):
    with (
        pytest.raises(_CannotPlantError, match="draws"),
        planted(trace, subject, "2", "dropout-rate", p=0.1),
    ):
        pass


@pytest.mark.long  # the check, and one for each mistake
def test_planted_mistakes_are_found_and_named(trace, program):
    report = parity.check(trace, *program, plant=2)
    assert report.verdict == "same", str(report)
    assert [(p.found, p.placed, p.named) for p in report.planted] == [(True, True, True)] * 2
    assert "planted in this program: 2 known mistakes, one at a time; found: 2" in str(report)
