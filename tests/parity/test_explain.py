"""One layer, and the code between layers: what differs is named, and nothing else is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn as jaxnet
from jaxnet import ops, parity
from jaxnet.nn import functional
from jaxnet.parity._attribute import attribute
from jaxnet.parity._evidence import Evidence
from jaxnet.parity._reference import of_module
from jaxnet.parity._region import arriving, region_of
from jaxnet.parity._trace import read
from jaxnet.random import Generator
from tests.parity import faulty_layers as faulty

pytestmark = pytest.mark.torch

X = np.random.RandomState(0).standard_normal((5, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def _as_jax_is():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def torch_norm():
    import torch

    norm = torch.nn.LayerNorm(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.5, -1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, -0.2, 0.3, 0.4]))
    return norm


def test_a_layer_that_is_the_same():
    found = parity.explain(torch_norm(), jaxnet.LayerNorm(4), X)
    assert found.kind == "same"
    assert found.cause is None


def test_the_epsilon_of_a_float32_program_is_float32s_in_float64_too():
    import torch

    # Neither is given an eps, which is then the machine epsilon of the program's dtype.
    found = parity.explain(torch.nn.RMSNorm(4), jaxnet.RMSNorm(4), 1e-3 * X)
    assert found.kind == "same"


def test_a_layer_with_one_fault_among_all_rows():
    found = parity.explain(torch_norm(), jaxnet.LayerNorm(4, eps=2e-4), X)
    assert found.cause == "The epsilon is 0.0002; torch's is 1e-05."
    assert found.alternatives == []
    assert "reference gives your numbers to" in found.proof


def test_two_faults_in_one_layer():
    found = parity.explain(torch_norm(), faulty.NoBias2(4, eps=1e-6), X)
    assert found.cause is not None, found.message
    assert "The bias is not added" in found.cause
    assert "The epsilon is 1e-06" in found.cause


def test_causes_that_cannot_be_told_apart_are_all_named():
    import torch

    layer = torch.nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(2 * torch.eye(4))
    found = parity.explain(
        layer, lambda x: x.astype(jnp.bfloat16).astype(x.dtype) @ jnp.eye(4, dtype=x.dtype) * 2, X
    )
    named = " ".join([str(found.cause), *found.alternatives])
    assert "the input is rounded to bfloat16" in named
    assert "all is rounded to bfloat16" in named  # the weights have no more digits


INVENTED = {
    "one channel": (
        lambda m, run, x: run(x).at[:, 2].multiply(1.5),
        "differs only at 2 of the 3 along axis 1",
    ),
    "reversed": (lambda m, run, x: run(x)[:, ::-1], "reversed along axis 1"),
    "scaled": (lambda m, run, x: 3 * run(x), "torch's array times 3 "),
    "shifted": (lambda m, run, x: run(x) + 0.25, "torch's array plus 0.25"),
    "rows": (lambda m, run, x: jnp.roll(run(x), 1, 0), "rolled by 1 along axis 0"),
    "sign": (lambda m, run, x: -run(x), "the other sign"),
    "nan": (lambda m, run, x: jnp.log(run(x) * 0 - 1), "nan or infinite"),
    "shape": (lambda m, run, x: run(x)[:, :2], "shape is (5, 2); torch's is (5, 3)"),
}


@pytest.mark.parametrize("name", INVENTED)
def test_a_fault_that_no_row_has_is_described_and_not_named(name):
    import torch

    change, words = INVENTED[name]
    layer = torch.nn.Linear(4, 3)
    port = faulty.altered(jaxnet.Linear, change)(4, 3, rngs=Generator(0))
    with torch.no_grad():
        found = parity.explain(layer, port, X)
    assert found.kind == "different"
    assert found.cause is None
    assert words in found.message


def test_nothing_is_named_where_the_reference_is_not_torch():
    x = np.ones((2, 3))
    reference = of_module("ReLU", {}, {}, {}, {"0": x})
    numbers = {"output": x}
    other = {"output": 2 * x}
    cause = attribute(reference, Evidence(other, other, numbers, numbers))
    assert not cause.trusted
    assert not cause.proven
    assert "does not give torch's numbers" in " ".join(cause.symptoms)


def two_outputs():
    import torch

    class Two(torch.nn.Module):
        def forward(self, x):
            return 2 * x, 3 * x

    return Two()


OUTPUTS = {
    "the same": (lambda x: (2 * x, 3 * x), "same", "compute the same"),
    "one more factor": (lambda x: (2 * x, 6 * x), "different", "torch's array times 2"),
    "no tuple": (
        lambda x: 2 * x,
        "different",
        "are output; torch's are output.0, output.1",
    ),
    "one less": (lambda x: (2 * x,), "different", "outputs are output.0; torch's are"),
    "one more": (
        lambda x: (2 * x, 3 * x, x),
        "different",
        "are output.0, output.1, output.2;",
    ),
    "none": (lambda x: None, "different", "outputs are none; torch's are"),
    "of numpy": (lambda x: (2 * x, np.zeros((5, 4))), "different", "output.1 differs"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_outputs_of_a_module_of_the_users_own(name):
    port, kind, words = OUTPUTS[name]
    found = parity.explain(two_outputs(), port, X)
    assert (found.kind, found.cause) == (kind, None)
    assert words in found.message


def test_what_a_function_does_not_give_is_said():
    import torch

    def norm(x):
        return (x - x.mean(0)) / jnp.sqrt(x.var(0) + 1e-5)

    found = parity.explain(torch.nn.BatchNorm1d(4), norm, X)
    assert found.kind == "same"
    assert "not compared: buffer:running_mean, buffer:running_var," in found.message


def test_no_torch_module():
    with pytest.raises(TypeError, match="torch_layer: LayerNorm; accepted is a torch"):
        parity.explain(jaxnet.LayerNorm(4), jaxnet.LayerNorm(4), X)


def test_draws_of_another_distribution_are_not_torchs():
    import torch

    noise, mask = (lambda x: x + ops.rand_like(x)), (lambda x: functional.dropout(x, 0.5))
    with pytest.raises(ValueError, match=r"draws uniform.* there are left here: mask\(p=0.5\)"):
        parity.explain(torch.nn.Dropout(0.5), noise, X)
    assert parity.explain(torch.nn.Dropout(0.5), mask, X).kind == "same"


# The code between the layers of a program.


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    import torch
    from torch.nn import functional as F

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(4, 8), torch.nn.Linear(8, 8)
            self.third = torch.nn.Linear(8, 1)

        def forward(self, x):
            h = self.first(x)
            h = F.gelu(h) * 0.5 + h.softmax(-1)
            h = self.second(h)
            a, b = h.chunk(2, -1)
            angle = torch.arange(4.0) + 1
            cos, sin = angle.cos(), angle.sin()
            return self.third(torch.cat([a * cos - b * sin, b * cos + a * sin], -1))

    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    path = tmp_path_factory.mktemp("region") / "trace"
    with parity.recording(path, steps=1):
        loss = net(torch.from_numpy(X)).square().mean()
        loss.backward()
        optimizer.step()
    return read(path).steps[0]


def turned(h, pairs):
    angle = jnp.arange(4.0) + 1
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if pairs:
        a, b = h[..., ::2], h[..., 1::2]
        return jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(h.shape)
    a, b = jnp.split(h, 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def gelu(h):
    return jax.nn.gelu(h, approximate=False)


REGIONS = {
    "gelu-form": ("second", lambda h: jax.nn.gelu(h) * 0.5 + jax.nn.softmax(h), "'tanh'"),
    "function-number": ("second", lambda h: gelu(h) * 0.3 + jax.nn.softmax(h), "is 0.3"),
    "softmax-axis": ("second", lambda h: gelu(h) * 0.5 + jax.nn.softmax(h, 0), "axis 0"),
    "function-omitted": ("second", lambda h: h * 0.5 + jax.nn.softmax(h), "left out"),
    "activation-added": ("second", lambda h: jnp.tanh(gelu(h) * 0.5 + jax.nn.softmax(h)), "Tanh"),
    "value-scaled": ("second", lambda h: 1.25 * (gelu(h) * 0.5 + jax.nn.softmax(h)), "1.25"),
    "code-omitted": ("second", lambda h: h, "the output of first#0"),
    "function-axis": ("second", lambda h: gelu(h) * 0.5 + jax.nn.softmax(h, 0), "along axis 0"),
    "operands-swapped": ("third", lambda h: jnp.roll(turned(h, False), 4, -1), "swapped"),
    "rotary-order": ("third", lambda h: turned(h, True), "neighbours"),
}


@pytest.mark.parametrize("name", REGIONS)
def test_between_layers(step, name):
    module, port, words = REGIONS[name]
    site, given = f"input:{module}#0.0", {"second": "first", "third": "second"}[module]
    with jax.enable_x64(True):
        jax64 = np.asarray(port(jnp.asarray(step.double(f"forward:{given}#0"))))
    region = region_of(step, site)
    numbers = [{"output": a} for a in (step[site], step.double(site), jax64, jax64)]
    cause = attribute(region, Evidence(*numbers), region.rows())
    if not cause.proven:
        cause = arriving(step, site, jax64, cause)
    named = [h.trap.name for each in cause.proven for h in each]
    assert name in named
    assert any(words in sentence for sentence in cause.words)


def test_the_code_between_layers_is_torchs(step):
    for module in ("second", "third"):
        site = f"input:{module}#0.0"
        found = region_of(step, site).observe()["output"]
        np.testing.assert_allclose(found, step.double(site), rtol=1e-12, atol=1e-14)
