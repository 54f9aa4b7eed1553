"""Programs that have no float64, whose rounding is measured by perturbed runs in float32."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, nn, optim, parity
from jaxnet.parity._judge import judge
from jaxnet.parity._perturbed import perturbed, spread
from jaxnet.random import Generator

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3)).astype(np.float32)


def test_each_number_moves_by_one_unit_in_the_last_place():
    given = {"x": X, "zero": np.zeros(3, np.float32), "count": np.arange(3), "bf": jnp.ones(2)}
    first, second = perturbed(given, 0), perturbed(given, 1)
    ulps = first["x"].view(np.int32) - X.view(np.int32)
    assert set(np.unique(ulps)) == {-1, 1}
    assert (first["x"] != second["x"]).any()
    for name in ("zero", "count"):
        np.testing.assert_array_equal(first[name], given[name])
    assert set(np.abs(np.asarray(first["bf"]) - 1)) <= {2.0**-23, 2.0**-24}


def test_the_spread_is_the_largest_of_all_runs():
    runs = [np.array([1.0, 2.0]), np.array([1.5, 2.0]), np.array([0.0, 2.5])]
    found = spread({"y": np.array([1.0, 2.0])}, lambda number: {"y": runs[number], "z": runs[0]})
    np.testing.assert_array_equal(found["y"], [1.0, 0.5])
    assert found.keys() == {"y"}
    runs = [np.array([np.inf, 2.0]), np.array([np.nan, 2.5]), np.array([1.0, 2.0])]
    found = spread({"y": np.array([1.0, 2.0])}, lambda number: {"y": runs[number]})
    np.testing.assert_array_equal(found["y"], [0.0, 0.5])


@pytest.mark.parametrize(
    ("error", "moved", "label"),
    [
        (3e-8, 3e-8, "same"),
        (1e-5, 3e-8, "different"),  # without a spread it is undecided
        (1e-5, None, "undecided"),
        (2e-6, 1e-6, "same"),  # more than torch's rounding, and no more than its own
        (1e-3, 1e-3, "different"),  # bfloat16: rounding, and another computation than torch's
    ],
)
def test_a_spread_stands_for_the_rounding(error, moved, label):
    exact = RNG.normal(size=400)
    signs = np.sign(RNG.normal(size=400))
    torch = exact.astype(np.float32)
    jax = (exact * (1 + error * signs)).astype(np.float32)
    measured = None if moved is None else np.abs(exact) * moved
    assert judge(torch, exact, jax, None, site="forward:x#0", spread=measured).label == label


@pytest.mark.parametrize("one", [0.1, np.inf])
def test_one_element_that_goes_over_a_corner_excuses_no_other(one):
    exact = RNG.normal(size=400)
    torch = exact.astype(np.float32)
    moved = np.abs(exact) * 3e-8
    moved[7] = one

    def label(jax):
        jax = jax.astype(np.float32)
        return judge(torch, exact, jax, None, site="forward:x#0", spread=moved).label

    assert label(exact * (1 + 2e-5 * np.sign(RNG.normal(size=400)))) == "different"
    corner = np.zeros(400)
    corner[7] = 0.1  # as far as rounding moved it
    assert label(exact) == label(exact + corner) == "kink"
    corner[7] = 10.0
    assert np.isinf(one) or label(exact + corner) == "different"
    assert label(exact + np.roll(corner, 1)) == "different"


class Strict(nn.Module):
    """A network that refuses float64, with a factor that torch's has not."""

    def __init__(self, factor):
        rngs = Generator(0)
        self.first, self.last = nn.Linear(3, 4, rngs=rngs), nn.Linear(4, 2, rngs=rngs)
        self.factor = factor

    def __call__(self, x):
        if x.dtype != jnp.float32:
            raise TypeError("float32 alone")
        return self.last(jnp.tanh(self.first(x)) * self.factor)


@pytest.mark.torch
@pytest.mark.long  # two checks
def test_a_program_without_float64_is_compared_layer_by_layer(tmp_path):
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.last(torch.tanh(self.first(x)))

    torch.manual_seed(0)
    network = Network()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    with parity.recording(tmp_path / "trace", steps=1):
        torch.nn.functional.cross_entropy(network(torch.tensor(X)), torch.arange(6) % 2).backward()
        optimizer.step()

    def loss(model, batch):
        inputs, targets = batch
        return losses.cross_entropy(model(inputs), targets)

    same = parity.check(tmp_path / "trace", Strict(1.0), loss, optim.SGD(lr=0.1))
    assert same.verdict == "same", str(same)
    assert same.coverage["modules"].seen == ("", "first", "last")
    assert not same.coverage["modules"].missing
    assert "float32 evidence" in str(same)
    assert "moved by one unit in the last place" in str(same)
    evidence = {r.judgement.evidence for r in same.results if r.site.startswith("forward:")}
    assert evidence == {"float32"}
    wrong = parity.check(tmp_path / "trace", Strict(1 + 2e-5), loss, optim.SGD(lr=0.1))
    assert wrong.verdict == "different", str(wrong)
    assert wrong.findings[0].site == "input:last#0.0"


@pytest.mark.torch
@pytest.mark.long
def test_what_has_no_float64_is_said(tmp_path):
    import torch

    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    with parity.recording(tmp_path / "trace", steps=1):
        network(torch.tensor(X)).square().mean().backward()
        optimizer.step()

    def update(gradients, state, params=None):
        if any(gradient.dtype != jnp.float32 for gradient in gradients.values()):
            raise TypeError("float32 alone")
        return {name: -0.1 * gradient for name, gradient in gradients.items()}, state

    narrow = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    model = nn.Linear(3, 2, rngs=Generator(0))

    def loss(model, batch):
        return (model(batch[0]) ** 2).mean()

    report = parity.check(tmp_path / "trace", model, loss, narrow)
    assert report.verdict == "same", str(report)
    said = [note for note in report.notes if "no float64" in note]
    assert [note.partition(": TypeError")[0] for note in said] == [
        "float32 evidence: the program has no float64",
        "float32 evidence: the update has no float64",
    ]
