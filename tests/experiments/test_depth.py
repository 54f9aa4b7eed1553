"""experiments/depth.py"""

import jax.numpy as jnp
import pytest

from experiments import depth
from experiments.cifar2_nets import NetBatchNorm, NetWidth
from jaxnet.random import Generator


def saturated(untrained, large):
    return {"untrained": untrained, "untrained, ten times the input": large, "trained": 0.0}


def figures(**planted):
    plain = {"saturated": saturated(0.01, 0.5), "train_loss": [0.6, 0.5]}
    norm = {"saturated": saturated(0.07, 0.07), "train_loss": [0.6, 0.4]}
    gradients = {kind: [2.0, 1.0] for kind in depth.KINDS} | {"neither": [1e-7, 1.0]}
    return {
        "saturation": {"plain": plain, "batch norm": norm},
        "gradients": gradients,
        "slopes": depth.slopes_at_zero(),
    } | planted


GOOD = figures()
NORM, PLAIN = GOOD["saturation"]["batch norm"], GOOD["saturation"]["plain"]


@pytest.mark.parametrize(
    ("planted", "off"),
    [
        ({}, None),
        (
            {"saturation": {"plain": PLAIN, "b": NORM | {"saturated": saturated(0.07, 0.5)}}},
            "inputs ten times",
        ),
        (
            {"saturation": {"plain": PLAIN, "b": NORM | {"train_loss": [0.9]}}},
            "with the document's inputs",
        ),
        ({"gradients": GOOD["gradients"] | {"neither": [1.0, 1.0]}}, "without skips and"),
        ({"gradients": GOOD["gradients"] | {"skips alone": [0.1, 1.0]}}, "with skips"),
        ({"slopes": GOOD["slopes"] | {"SELU": (1.05, 1.05)}}, "ReLU's slope"),
        ({"slopes": GOOD["slopes"] | {"softplus": (0.4, 0.6)}}, "ReLU's slope"),
    ],
)
def test_a_planted_wrong_value_is_found(planted, off):
    checks = depth.judge(GOOD | planted)
    found = [check["check"] for check in checks if check["verdict"] == "OFF"]
    assert len(checks) == 5
    assert len(found) == (off is not None)
    assert all(what.startswith(off) for what in found)


@pytest.mark.parametrize(("build", "large"), [(NetWidth, True), (NetBatchNorm, False)])
def test_saturation_is_that_of_the_inputs_of_tanh(build, large):
    model = build(rngs=Generator(0))
    images = jnp.asarray(Generator(1).randn(4, 3, 32, 32))
    small = depth.saturation(model, 0.1 * images, training=True)
    assert (depth.saturation(model, 100 * images, training=True) > 0.5) == large
    # Batch norm makes inputs of any size alike; without it small ones never saturate.
    assert small == pytest.approx(0.0 if large else 0.07, abs=0.02)


@pytest.mark.parametrize(("skip", "norm"), depth.KINDS.values())
def test_a_deep_net_with_and_without_its_parts(skip, norm):
    net = depth.DeepNet(2, skip, norm, rngs=Generator(0))
    out = net(jnp.ones((2, 3, 32, 32)))
    assert out.shape == (2, 2)
    tracked = int(net.blocks[0].batch_norm.num_batches_tracked[...])
    assert tracked == int(norm)
