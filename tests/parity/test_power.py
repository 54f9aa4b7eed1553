"""Which mistakes the recorded numbers of a part of a program would show."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, parity
from jaxnet.parity._generic import numbers, weight
from jaxnet.parity._losses import Loss, LossRecord
from jaxnet.parity._power import Recorded, alternatives, power
from jaxnet.parity._reference import Layer, of_module
from jaxnet.parity._result import Alternative
from jaxnet.parity._trace import read
from jaxnet.parity._traps import Trap
from jaxnet.parity._traps.losses import TRAPS as LOSSES
from jaxnet.random import Generator

R = np.random.RandomState(0)


def only(layer: Any, trap: Trap, **recorded: Any) -> Alternative:
    (found,) = alternatives("fc", [Recorded(layer, **recorded)], [trap])
    return found


def linear(**changes: Any) -> Layer:
    parameters = {"weight": R.randn(3, 4), "bias": np.zeros(3)}
    config = {"in_features": 4, "out_features": 3}
    layer = of_module("Linear", config, parameters, {}, {"0": R.randn(5, 4)})
    return dataclasses.replace(layer, **changes)


NO_BIAS = Trap(
    "no-bias",
    ("Linear",),
    lambda layer: layer.with_parameters(bias=jnp.zeros_like),
    "The bias is missing.",
    "bias=True",
)


def test_a_bias_of_zero_may_be_missing():
    found = only(linear(), NO_BIAS)
    assert not found.excluded
    assert found.reason == 'its bias is 0 throughout; weights="generic" shows it'
    parameters = {**linear().parameters, "bias": np.ones(3)}
    seen = only(linear(parameters=parameters), NO_BIAS)
    assert seen.excluded
    assert seen.reason == ""
    assert seen.separation > 1e6


def test_a_gradient_alone_excludes_it():
    found = only(linear(cotangents={"output": R.randn(5, 3)}), NO_BIAS)
    assert found.excluded


def test_several_records_exclude_together():
    with_bias = linear(parameters={**linear().parameters, "bias": np.ones(3)})
    (found,) = alternatives("fc", [Recorded(linear()), Recorded(with_bias)], [NO_BIAS])
    assert found.excluded


def rotary(length: int) -> Layer:
    """Rotations by the position, of pairs of numbers, as attention has them."""

    def compute(layer, parameters, buffers, inputs):
        x = inputs["0"]
        width = layer.config["width"]
        rates = 100.0 ** (-np.arange(0, width, 2) / width)
        angle = np.arange(x.shape[0])[:, None] * rates
        angle = np.pad(angle, ((0, 0), (0, (x.shape[1] - width) // 2)))
        a, b = x[:, ::2], x[:, 1::2]
        turned = a * jnp.cos(angle) - b * jnp.sin(angle), a * jnp.sin(angle) + b * jnp.cos(angle)
        return jnp.stack(turned, -1).reshape(x.shape), buffers

    return Layer("rotary", {"width": 8}, {}, {}, {"0": R.randn(length, 8)}, compute=compute)


def test_a_wrong_rotary_width_hides_from_short_prompts():
    trap = Trap(
        "rotary-width",
        ("rotary",),
        lambda layer, width: layer.altered(width=width),
        "The rotations have the width {width}; torch's is {torch[width]}.",
        "width={torch[width]}",
        options={"width": (4,)},
    )
    found = only(rotary(1), trap)
    assert not found.excluded
    assert found.reason == "axis 0 of the input has the size 1; 3 shows it"
    assert only(rotary(2), trap).excluded


def norm(x: np.ndarray, **changes: Any) -> Layer:
    parameters = {"weight": np.ones(x.shape[-1]), "bias": np.zeros(x.shape[-1])}
    config = {"normalized_shape": (x.shape[-1],), "eps": 1e-5}
    return dataclasses.replace(of_module("LayerNorm", config, parameters, {}, {"0": x}), **changes)


EPSILON = Trap(
    "norm-epsilon",
    ("LayerNorm",),
    lambda layer, eps: layer.altered(eps=eps),
    "The epsilon is {eps:.4g}; torch's is {torch[eps]:.4g}.",
    "eps={torch[eps]:.4g}",
    constants={"eps": (1e-3, 1e-5, 1e-6, 1e-12)},
)


def test_the_nearest_usual_constant_is_tried():
    found = only(norm(30 * R.randn(6, 16)), EPSILON)
    assert found.words == "The epsilon is 1e-06; torch's is 1e-05."
    assert found.excluded


def test_an_input_that_hides_an_epsilon():
    found = only(norm(np.zeros((6, 16))), EPSILON)
    assert not found.excluded
    assert found.reason == "the input hides it; random numbers of the same shape show it"


def test_the_mode_that_was_not_recorded():
    trap = Trap(
        "evaluates",
        ("LayerNorm",),
        lambda layer: layer if layer.training else layer.then(lambda y: y + 1),
        "It adds one in evaluation.",
        "nothing",
    )
    assert only(norm(R.randn(6, 16)), trap).reason == "only evaluation mode shows it"


def test_what_makes_no_difference_anywhere_and_what_is_impossible():
    nothing = Trap("nothing", ("LayerNorm",), lambda layer: layer, "It is the same.", "-")
    assert "nothing that was tried shows it with" in only(norm(R.randn(6, 16)), nothing).reason

    def impossible(layer):
        raise ValueError("no such layer")

    refused = dataclasses.replace(nothing, change=impossible)
    absent = dataclasses.replace(nothing, when=lambda config: False)
    assert alternatives("n", [Recorded(norm(R.randn(6, 16)))], [refused, absent]) == []


def test_a_reference_that_is_not_torchs_excludes_nothing():
    layer = norm(R.randn(6, 16))
    own = layer.observe()["output"]
    torch = {"output": own.astype(np.float32)}
    assert only(layer, EPSILON, torch=torch, torch64={"output": own}).excluded
    found = only(layer, EPSILON, torch=torch, torch64={"output": own + 1e-3})
    assert not found.excluded
    assert "another output than torch's" in found.reason


def test_large_rounding_hides_small_mistakes():
    layer = norm(30 * R.randn(6, 16))
    own = layer.observe()["output"]
    rough = (own + 1e-2 * R.randn(*own.shape)).astype(np.float32)
    seen = only(layer, EPSILON, torch={"output": own.astype(np.float32)}, torch64={"output": own})
    hidden = only(layer, EPSILON, torch={"output": rough}, torch64={"output": own})
    assert seen.separation > 1e4 * hidden.separation


def test_faults_of_float32():
    def half(layer):
        return dataclasses.replace(layer, dtype=np.float16)

    trap = Trap("half", ("LayerNorm",), half, "It is float16.", "float32", precision=True)
    assert only(norm(R.randn(6, 16)), trap).excluded


@pytest.mark.parametrize("ignored", [False, True])
def test_targets_that_are_ignored(ignored):
    target = np.array([1, 2, -100 if ignored else 0, 1])
    arguments = {"input": R.randn(4, 3), "target": target}
    loss = Loss("cross_entropy", (LossRecord(0, arguments),))
    rows = [trap for trap in LOSSES if trap.name == "loss-ignored-counted"]
    (found,) = alternatives("loss", [Recorded(loss)], rows)
    assert found.excluded == ignored
    assert ignored or found.reason == "no target is -100; some that are ignored show it"


def test_numbers_in_general_position():
    positive = numbers(np.ones(100), "running_var")
    assert positive.min() > 0
    assert np.unique(positive).size == 100
    assert not np.array_equal(numbers(np.zeros(9), "a"), numbers(np.zeros(9), "b"))
    assert numbers(np.arange(3), "ids").tolist() == [0, 1, 2]
    assert numbers(np.ones(50, bool), "mask").any() != numbers(np.ones(50, bool), "mask").all()


def test_weights_in_general_position():
    assert abs(weight(np.ones(500, np.float32), "bn.weight").mean() - 1) < 0.1
    assert abs(weight(np.zeros(500), "bn.bias").mean()) < 0.1
    assert weight(np.ones(500), "bn.running_var").min() >= 0.5
    assert weight(np.array(0), "bn.num_batches_tracked") == 0
    table = np.ones((4, 3), np.float32)
    table[1] = 0  # the padding of an embedding
    drawn = weight(table, "embed.weight")
    assert drawn.dtype == np.float32
    assert drawn.any(1).tolist() == [True, False, True, True]
    assert weight(np.zeros((4, 3)), "last.weight").all()


@pytest.mark.torch
def test_a_trace(tmp_path):
    import torch

    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with parity.recording(tmp_path / "trace", steps=1):
        torch.nn.functional.mse_loss(layer(torch.randn(4, 3)), torch.zeros(4, 2)).backward()
        optimizer.step()
    model, loss, sgd = nn.Linear(3, 2, rngs=Generator(0)), losses.mse_loss, optim.SGD(0.1)
    report = parity.check(tmp_path / "trace", model, loss, sgd, weights="copy")
    found = power(read(tmp_path / "trace"), report)
    places = list(dict.fromkeys(each.place for each in found))
    assert places == ["the model", "loss", "SGD optimizer"]
    assert {each.excluded for each in found} == {True, False}
    assert all(bool(each.reason) != each.excluded for each in found)
    (clipped,) = [each for each in found if each.words.startswith("Each element of the gradients")]
    assert clipped.reason == "larger gradients show it"
