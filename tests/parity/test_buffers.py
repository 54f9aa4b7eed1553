"""Buffers that torch's program changes, and what a port has of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxnet import losses, nn, optim, parity
from jaxnet.parity._buffers import null_means
from jaxnet.parity._evidence import FourRuns
from jaxnet.parity._pairing import pair
from jaxnet.parity._site_results import SiteResults
from jaxnet.parity._trace import read
from jaxnet.random import Generator
from tests.marks import slow_among
from tests.parity.flax_faults import BatchNorm

CLASSES = 3


pytestmark = pytest.mark.usefixtures("usual_settings")


def recorded(folder, make, size=(4, 6)):
    """A trace of two steps of SGD with cross entropy."""
    import torch

    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    rows, width = size
    data = torch.randn(3 * rows, width), torch.randint(0, CLASSES, (3 * rows,))
    with parity.recording(folder, steps=2):
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), rows)
        for inputs, targets in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A BatchNorm1d with parameters, and one without."""
    import torch

    def make():
        return torch.nn.Sequential(
            torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5), torch.nn.Tanh(),
            torch.nn.BatchNorm1d(5, affine=False), torch.nn.Linear(5, CLASSES),
        )  # fmt: skip

    return recorded(tmp_path_factory.mktemp("buffers") / "trace", make)


@pytest.fixture(scope="module")
def centred(tmp_path_factory):
    """A module of the user's own that keeps a mean of what it is given, and a constant."""
    import torch

    class Centre(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("centre", torch.zeros(6))
            self.register_buffer("scale", torch.tensor(0.5))

        def forward(self, x):
            self.centre = 0.9 * self.centre + 0.1 * x.detach().mean(0)
            return self.scale * (x - self.centre)

    def make():
        return torch.nn.Sequential(Centre(), torch.nn.Linear(6, CLASSES))

    return recorded(tmp_path_factory.mktemp("centred") / "trace", make)


def value(model, batch):
    inputs, targets = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(inputs), targets).mean()


def unkept(report):
    return {
        result.site
        for finding in report.findings
        for result in finding.results
        if "keeps no such array" in result.judgement.note
    }


class Flax(nnx.Module):
    """The first program in flax; `kept` are the norms that keep running statistics."""

    def __init__(self, kept=(True, True)):
        rngs = nnx.Rngs(0)
        self.first, self.last = nnx.Linear(6, 5, rngs=rngs), nnx.Linear(5, CLASSES, rngs=rngs)
        options = {"momentum": 0.9, "epsilon": 1e-5, "rngs": rngs}
        free = {"use_bias": False, "use_scale": False}
        self.norm = BatchNorm(5, **options) if kept[0] else Batch(True)
        self.free = BatchNorm(5, **options, **free) if kept[1] else Batch(False)

    def __call__(self, x):
        return self.last(self.free(jnp.tanh(self.norm(self.first(x)))))


class Batch(nnx.Module):
    """A norm by the numbers of the batch alone."""

    def __init__(self, affine):
        if affine:
            self.weight, self.bias = nnx.Param(jnp.ones(5)), nnx.Param(jnp.zeros(5))

    def __call__(self, x):
        x = (x - x.mean(0)) * jax.lax.rsqrt(x.var(0) + 1e-5)
        return x * self.weight[...] + self.bias[...] if hasattr(self, "weight") else x


@pytest.mark.torch
@pytest.mark.long  # each is a check
@pytest.mark.parametrize(
    "kept", slow_among([(True, True), (False, True), (True, False)], [(True, True), (True, False)])
)
def test_a_port_in_flax_without_running_statistics_differs(plain, kept):
    sgd = optax.sgd(0.1)
    report = parity.check(plain, Flax(kept), value, sgd, weights="copy", steps=1)
    missing = [name for name, each in zip("13", kept, strict=True) if not each]
    names = ("running_mean", "running_var")
    assert unkept(report) == {f"buffer:{i}.{name}" for i in missing for name in names}
    assert report.verdict == ("different" if missing else "same"), str(report)


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.parametrize("kept", slow_among([True, False], [False]))
def test_a_port_in_jaxnet_without_running_statistics_differs(plain, kept):
    generator = Generator(0)
    model = nn.Sequential(
        nn.Linear(6, 5, rngs=generator), nn.BatchNorm1d(5), nn.Tanh(),
        nn.BatchNorm1d(5, affine=False, track_running_stats=kept),
        nn.Linear(5, CLASSES, rngs=generator),
    )  # fmt: skip
    report = parity.check(plain, model, losses.cross_entropy, optim.SGD(lr=0.1), weights="copy")
    assert report.verdict == ("same" if kept else "different"), str(report)
    names = ("running_mean", "running_var")
    assert unkept(report) == (set() if kept else {f"buffer:3.{name}" for name in names})
    assert all(f.origin == "module:3" for f in report.findings)


class Centred(nnx.Module):
    """The second program in flax: `rate` is of what it keeps, under a name of its own."""

    def __init__(self, rate=0.1, more=False):
        self.linear = nnx.Linear(6, CLASSES, rngs=nnx.Rngs(0))
        self.mean, self.rate = nnx.BatchStat(jnp.zeros(6)), rate
        if more:
            self.other = nnx.Variable(jnp.zeros(6))

    def __call__(self, x):
        self.mean[...] = (1 - self.rate) * self.mean[...] + self.rate * x.mean(0)
        return self.linear(0.5 * (x - self.mean[...]))


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.parametrize(("rate", "verdict"), [(0.1, "same"), (0.2, "different")])
def test_a_state_of_the_users_own_is_compared(centred, rate, verdict):
    report = parity.check(centred, Centred(rate), value, optax.sgd(0.1), weights="copy")
    assert report.verdict == verdict, str(report)
    assert "buffer:0.centre" in {result.site for result in report.results}
    assert not unkept(report)


@pytest.mark.torch
@pytest.mark.long
def test_a_state_that_may_be_one_of_two_is_said_not_to_be_compared(centred):
    model = Centred(more=True)
    report = parity.check(centred, model, value, optax.sgd(0.1), weights="copy", steps=1)
    assert report.verdict == "same", str(report)
    (left,) = [text for text in report.exclusions if text.startswith("0.centre:")]
    assert '[layers] "mean" = "0.centre"' in left
    made = pair(read(centred), model, {"layers": {"mean": "0.centre"}}).made
    assert made["mean"].names == ("0.centre",)


# -- A running mean of numbers whose mean is zero but for rounding


@pytest.fixture(scope="module")
def bottleneck(tmp_path_factory):
    """A linear layer between two norms, as MobileNet has it: the second norm's mean is zero."""
    import torch

    def make():
        return torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 8, bias=False),
            torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, CLASSES),
        )  # fmt: skip

    return recorded(tmp_path_factory.mktemp("bottleneck") / "trace", make, (32, 6))


def own(second=nn.BatchNorm1d, **options):
    """The same in jaxnet, the second norm with a mistake."""
    rngs = Generator(0)
    return nn.Sequential(
        nn.Linear(6, 16, rngs=rngs), nn.BatchNorm1d(16), nn.Linear(16, 8, bias=False, rngs=rngs),
        second(8, **options), nn.ReLU(), nn.Linear(8, CLASSES, rngs=rngs),
    )  # fmt: skip


def compared(trace, model):
    def objective(model, batch):
        return losses.cross_entropy(model(batch[0]), batch[1])

    return parity.check(trace, model, objective, optim.SGD(lr=0.1))


class Biased(nn.BatchNorm1d):
    """The running variance is that of the batch, not of what the batch was drawn from."""

    def __call__(self, x):
        before = self.running_var[...]
        y = super().__call__(x)
        taken = (self.running_var[...] - 0.9 * before) * (31 / 32)
        self.running_var[...] = 0.9 * before + taken
        return y


class Moved(nn.BatchNorm1d):
    """The running mean is a little more than what rounding makes of zero."""

    def __call__(self, x):
        y = super().__call__(x)
        self.running_mean[...] = self.running_mean[...] + 1e-9
        return y


@pytest.mark.torch
def test_what_float64_proves_to_be_a_mean_of_rounding(bottleneck):
    trace = read(bottleneck)
    for step in trace.steps:
        nulls, _ = null_means(trace, step, "3.running_mean")
        assert nulls.all()
        mean, wide = step["buffer:3.running_mean"], step.double("buffer:3.running_mean")
        assert 0 < np.abs(mean).max() < 1e-6
        if step.index == 0:  # later the bias before is what rounding has made of it
            assert np.abs(wide).max() < 1e-15
        nulls, _ = null_means(trace, step, "1.running_mean")
        assert not nulls.any()
        assert null_means(trace, step, "3.running_var") is None


@pytest.mark.torch
@pytest.mark.parametrize("apart", [3e-16, 1e-11])
def test_a_running_mean_of_rounding_is_judged_by_what_it_is_a_mean_of(bottleneck, apart):
    trace = read(bottleneck)
    results = SiteResults(trace)
    site = "buffer:3.running_mean"
    for step in trace.steps:
        wide = step.double(site)
        four = FourRuns(step[site], wide, step[site], wide + apart)
        results.judge(step, {site: four}, "layer")
    label = "same" if apart < 1e-14 else "different"
    assert [r.judgement.label for r in results.all] == [label] * 2


FAULTS = {
    "none": (own, None),
    "momentum": (lambda: own(momentum=0.2), "3"),
    "biased variance": (lambda: own(Biased), "3"),
    "moved": (lambda: own(Moved), "3"),
}


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_norm_whose_mean_is_rounding_is_found(bottleneck, fault):
    make, place = FAULTS[fault]
    report = compared(bottleneck, make())
    assert report.verdict == ("same" if place is None else "different"), str(report)
    found = {finding.results[0].place.partition(".")[0] for finding in report.findings}
    assert found == ({place} if place else set()), str(report)
