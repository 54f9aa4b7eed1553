"""What the evidence of a check is worth: wrong programs that used to pass, and right ones that
used to fail."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxnet import losses, nn, ops, optim, parity, train
from jaxnet._keys import Asked
from jaxnet.parity._double_state import with_arrays
from jaxnet.parity._draws import DrawsError, Replay
from jaxnet.parity._evidence import FourRuns
from jaxnet.parity._free_run import FreeRun, apart_in, horizon_of
from jaxnet.parity._step_functions import replayed
from jaxnet.parity._trace import Draw, read
from jaxnet.random import Generator


def record(folder, noisy=False, halved=False):
    """Two layers and a buffer of -inf, trained for three steps, of which 0 and 1 are full."""
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
            self.register_buffer("mask", torch.tensor([0.5, -torch.inf, torch.nan]))

        def forward(self, x):
            x = torch.tanh(self.a(x))
            return self.b(x + torch.randn_like(x) if noisy else x)

    torch.manual_seed(0)
    net = Net()
    sgd = torch.optim.SGD(net.parameters(), 0.1)
    data = torch.utils.data.TensorDataset(torch.randn(15, 3), torch.randn(15, 2))
    with parity.recording(folder, steps=3, full=(0, 1)):
        for number, (x, y) in enumerate(torch.utils.data.DataLoader(data, 5)):
            if halved and number == 2:
                net.a.weight.data.mul_(0.5)
            sgd.zero_grad()
            torch.nn.functional.mse_loss(net(x), y).backward()
            sgd.step()
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return record(tmp_path_factory.mktemp("evidence") / "plain")


class Net(nn.Module):
    def __init__(self, between=lambda x: x):
        rngs = Generator(0)
        self.a, self.b = nn.Linear(3, 4, rngs=rngs), nn.Linear(4, 2, rngs=rngs)
        self.mask = nn.Buffer(jnp.array([0.5, -jnp.inf, jnp.nan]))
        self.between = between

    def __call__(self, x):
        return self.b(self.between(jnp.tanh(self.a(x))))


def check(trace, model, **options):
    return parity.check(trace, model, losses.mse_loss, optim.SGD(0.1), weights="copy", **options)


@pytest.mark.torch
@pytest.mark.long
def test_noise_of_another_distribution(tmp_path):
    noisy = record(tmp_path / "noisy", noisy=True)
    report = check(noisy, Net(lambda x: x + ops.rand_like(x)), steps=1)
    assert report.verdict == "different"
    (finding,) = report.findings
    assert "rand_like draws uniform(low=0.0, high=1.0)" in finding.message
    assert "normal(mean=0.0, std=1.0) of shape (5, 4)" in finding.message
    trace = read(noisy)
    step = trace.steps[0]
    subject = SimpleNamespace(step=lambda state, batch: (state, {}), partners=None, trace=trace)
    silent = replayed(subject, step, range(len(step.draws)))
    with pytest.raises(DrawsError, match=r"normal\(mean=0.0, std=1.0\) in a module"):
        silent(None, [None], [step[f"draw:{n}"] for n in range(len(step.draws))])


@pytest.mark.torch
@pytest.mark.long
def test_weights_that_change_between_two_steps(tmp_path, plain):
    """Nothing else is found, so that infinite numbers in a buffer are no difference."""
    halved = record(tmp_path / "halved", halved=True)
    report = check(halved, Net())
    (finding,) = report.findings
    assert (finding.level, finding.step) == ("run", 2), str(report)
    between = parity.diff(plain, halved)
    assert between.verdict == "different"
    (finding,) = between.findings
    assert finding.message == "between the steps 1 and 2 the parameters change otherwise: a.weight"


@pytest.mark.torch
@pytest.mark.long
def test_layers_inside_scan_are_not_called_compared(plain):
    class Scanned(Net):
        def __call__(self, x):
            call = super().__call__
            return jax.lax.scan(lambda carry, row: (carry, call(row)), 0, x)[1]

    report = check(plain, Scanned(), steps=1, power=True)
    assert report.verdict == "same"
    assert report.coverage["modules"].seen == ("",)  # as a whole
    assert report.coverage["modules"].missing.keys() == {"a", "b"}
    assert len(report.exclusions) == 2
    layers = [one for one in report.power if one.place in ("a", "b")]
    assert [(one.excluded, one.reason) for one in layers] == [(False, "it was not compared")] * 2


@pytest.mark.torch
@pytest.mark.long
def test_one_later_step_of_a_model_that_casts_to_float32(plain):
    report = check(plain, Net(lambda x: x.astype("float32")), steps=[1], power=True)
    assert report.verdict == "same", str(report)
    assert any("float32 evidence: b" in note for note in report.notes)
    excluded = {one.place for one in report.power if one.excluded}
    assert "a" in excluded
    assert "b" not in excluded
    with pytest.raises(ValueError, match=r"steps: 0; accepted"):
        check(plain, Net(), steps=0)


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    """A bias before BatchNorm, whose gradient is rounding, and which decays."""
    import torch

    folder = tmp_path_factory.mktemp("evidence") / "normed"
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Tanh(), torch.nn.Linear(4, 2)
    )
    sgd = torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.1)
    with parity.recording(folder, steps=2, full=()):
        for x, y in zip(torch.randn(2, 8, 3), torch.randn(2, 8, 2), strict=True):
            sgd.zero_grad()
            torch.nn.functional.mse_loss(net(x), y).backward()
            sgd.step()
    return read(folder)


def decayed(mask, rate=optax.sgd):
    return optax.chain(optax.add_decayed_weights(0.1, mask=mask), rate(learning_rate=0.1))


def without_the_bias(params):
    return {name: name != "0.bias" for name in params}


def strictly(inner):
    """An optimizer that refuses float64."""

    def update(grads, state, params=None):
        if any(g.dtype != jnp.float32 for g in jax.tree.leaves(grads)):
            raise TypeError("float32 alone")
        return inner.update(grads, state, params)

    return optax.GradientTransformation(inner.init, update)


def ours(**of_bias):
    return optim.groups([("0.bias", optim.SGD(0.1, **of_bias))], optim.SGD(0.1, weight_decay=0.1))


OPTIMIZERS = {
    "the same": (lambda: ours(weight_decay=0.1), "same"),
    "no decay of the bias": (ours, "different"),
    "optax, no decay of the bias": (lambda: decayed(without_the_bias), "different"),
    "float32 alone": (lambda: strictly(decayed(None)), "same"),
    "injected": (lambda: decayed(None, optax.inject_hyperparams(optax.sgd)), "same"),
}


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_by_a_gradient_of_rounding(normed, name):
    make, verdict = OPTIMIZERS[name]
    rngs = Generator(0)
    model = nn.Sequential(
        nn.Linear(3, 4, rngs=rngs), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2, rngs=rngs)
    )
    report = parity.check(normed, model, losses.mse_loss, make(), weights="copy")
    assert report.verdict == verdict, str(report)
    places = {result.place for finding in report.findings for result in finding.results}
    assert places == ({"0.bias"} if verdict == "different" else set())
    known = isinstance(make(), optim.Optimizer)  # its state is torch's before each step
    # What rounding does not explain is a difference, and in no step left out.
    left_out = verdict == "same" and not known
    assert len(report.exclusions) == left_out
    assert not left_out or report.exclusions[0].startswith(
        "0.bias: its gradient is nothing but rounding"
    )


def test_single_numbers_of_an_optimizers_state_are_the_decimals_that_were_meant():
    params = {"w": jnp.ones(2)}
    optimizer = decayed(None, optax.inject_hyperparams(optax.sgd))
    old = optimizer.init(params)
    with jax.enable_x64(True):
        fresh = optimizer.init({"w": jnp.ones(2, jnp.float64)})
        rate = with_arrays(fresh, old)[1].hyperparams["learning_rate"]
        assert (rate.dtype, float(rate)) == (np.float64, 0.1)


def test_what_has_no_float64_is_no_corner():
    """Distances of torch's runs and of the program's are of the same parameters."""
    steps = SimpleNamespace(
        step=lambda step, state, double: (state, []), subject=SimpleNamespace(models={"": ""})
    )
    step = SimpleNamespace(of=lambda phase: {})
    state = train.create(nn.Linear(2, 2, rngs=Generator(0)), optim.SGD(0.1))
    one = np.ones(2, np.float32)
    for jax64, corner in ((None, None), (one.astype(np.float64), 0)):
        free = FreeRun(steps, step, {False: state, True: state})
        free.advance(step, {"update:weight": FourRuns(one, one + 1e-3, one, jax64)})
        assert free.corner == corner


def test_recorded_draws_are_given_to_their_own_kind_and_brought_to_its_range():
    x = np.array([0.25, 0.5], np.float32)
    draws = [
        Draw("uniform", {"low": -1.0, "high": 1.0}, ""),
        Draw("normal", {"mean": 1.0, "std": 0.5}, ""),
        Draw("normal", {"mean": None, "std": None}, ""),
        Draw("integers", {"low": 0, "high": 5}, ""),
        Draw("mask", {"p": 0.9}, ""),
        Draw("rrelu_with_noise", {"lower": 0.25, "upper": 0.5}, ""),
    ]
    replay = Replay(draws, dict.fromkeys(range(6), x), [*range(6)], [])

    def take(kind, **arguments):
        return replay.take("it", ((2,),), Asked(kind, arguments, lambda values: ""))

    assert take("normal", mean=0.0, std=1.0).tolist() == [-1.5, -1.0]
    assert take("mask", p=0.5) is x  # another p shows in what dropout divides by
    assert take("uniform", low=0.0, high=2.0).tolist() == [1.25, 1.5]
    assert take("uniform", low=0.25, high=0.75).tolist() == [0.25, 0.75]
    assert replay.taken == [1, 4, 0, 5]
    for kind, arguments in [
        ("normal", {"mean": 0.0, "std": 1.0}),
        ("integers", {"low": 0, "high": 6}),
        ("exponential", {"lambd": 1.0}),
    ]:
        with pytest.raises(DrawsError, match=rf"it draws {kind}.*normal\(mean=None.*integers"):
            take(kind, **arguments)
    assert take("integers", low=0, high=5) is x


@pytest.mark.parametrize(
    ("torch", "own", "moved", "corner", "apart"),
    [
        ((1e-7, 0.5), (1e-7, 1e-7), (1.0, 1.0), None, 1),
        ((1e-7, np.nan), (1e-7, 1e-7), (1.0, 1.0), None, 1),
        ((1e-7, np.nan), (1e-7, np.nan), (1.0, 1.0), None, 1),
        ((1e-7, 0.5), (1e-7, 0.02), (1.0, 1.0), None, None),
        ((1e-7, np.nan), (1e-7, 1e-7), (1.0, np.nan), None, None),
        ((1e-7, 2e-3), (1e-7, 1e-7), (1.0, 1.0), 1, None),
    ],
    ids=[
        "wrong",
        "nan",
        "nan in float64 too",
        "beyond the horizon",
        "torch is not finite",
        "over a corner",
    ],
)
def test_the_horizon_is_that_of_the_programs_own_rounding(torch, own, moved, corner, apart):
    horizon = horizon_of(
        SimpleNamespace(torch=torch, jax=own, plain=torch, moved=moved, corner=corner)
    )
    assert horizon.equal_to == 1 or apart is None
    assert apart_in(horizon) == apart
