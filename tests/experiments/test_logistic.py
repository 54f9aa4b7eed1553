"""experiments/logistic.py"""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import logistic
from experiments.logistic import Config
from jaxnet import nn, weights
from jaxnet.random import Generator


def rows(n=60):
    generator = Generator(0)
    x = jnp.asarray(0.2 * generator.randn(n, 784))
    return x, (x[:, 0] + 0.5 * x[:, 1] > 0).astype(jnp.float32)


def test_newton_finds_the_minimum_that_training_comes_to():
    config = Config(epochs=200, lr=0.5, weight_decay=0.1, batch_size=60)
    best = logistic.newton(config, rows())
    least = logistic.penalized(best, config, rows())
    for i in (0, 1, 783, 784):  # no step away from it is lower
        for step in (-1e-3, 1e-3):
            moved = best.copy()
            moved[i] += step
            assert logistic.penalized(moved, config, rows()) > least
    result = logistic.fit(config, nn.BCELoss(), rows(), rows())
    arrays = weights.state_dict(result.state.model())
    found = np.append(arrays["linear.weight"], arrays["linear.bias"])
    start = logistic.penalized(np.zeros(785), config, rows())
    assert logistic.penalized(found, config, rows()) - least < 0.01 * (start - least)


GOOD = {
    "writings_apart": 1e-7,
    "slopes": {"cross entropy": -0.9997, "dist": -0.0007},
    "reached": 0.1573,
    "minimum": 0.1572,
    "accuracy": {"cross entropy": 0.97, "dist": 0.97},
}


@pytest.mark.parametrize(
    ("planted", "off"),
    [
        ({}, None),
        ({"writings_apart": 1e-3}, "BCELoss of the sigmoid"),
        ({"slopes": {"cross entropy": -0.5, "dist": -0.0007}}, "far on the wrong side"),
        ({"slopes": {"cross entropy": -0.9997, "dist": 0.0}}, "far on the wrong side"),
        ({"reached": 0.16}, "training comes within"),
        ({"reached": 0.15}, "training comes within"),  # below the minimum: something is wrong
        ({"accuracy": {"cross entropy": 0.97, "dist": 0.9}}, "with dist more than"),
    ],
)
def test_a_planted_wrong_value_is_found(planted, off):
    checks = logistic.judge(GOOD | planted, Config())
    found = [check["check"] for check in checks if check["verdict"] == "OFF"]
    assert len(checks) == 5
    assert len(found) == (off is not None)
    assert all(what.startswith(off) for what in found)


def test_what_needs_no_data_holds():
    figures = GOOD | {
        "writings_apart": logistic.three_writings(0),
        "slopes": logistic.slopes_when_wrong(),
    }
    checks = logistic.judge(figures, Config(epochs=1))
    assert [check["verdict"] for check in checks] == ["ok", "ok"]


@pytest.mark.torch
def test_dist_is_torchs_squared():
    import torch

    pred, y = np.float32([0.2, 0.9, 0.6]), np.float32([0, 1, 1])
    theirs = torch.dist(torch.tensor(pred), torch.tensor(y)).item() ** 2 / 3
    assert float(logistic.dist(jnp.asarray(pred), jnp.asarray(y))) == pytest.approx(theirs)
