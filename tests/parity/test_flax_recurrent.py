"""What recurrent layers of plain flax carry beside what torch's give."""

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen, nnx

from jaxnet import parity
from tests.marks import slow_among
from tests.parity.flax_faults import GRU, LSTM

ROWS, TIME, WIDTH, SIZE = 2, 4, 3, 5


pytestmark = pytest.mark.usefixtures("usual_settings")


def recorded(folder, kind, used, both=True, batch_first=True):
    """One step of a recurrent layer of which `used` ("outputs", "state", "cell") goes on."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layer = getattr(torch.nn, kind)
            self.rnn = layer(WIDTH, SIZE, batch_first=batch_first, bidirectional=both)
            self.fc = torch.nn.Linear(SIZE * (1 + both), 2)

        def forward(self, x):
            outputs, carried = self.rnn(x)
            state, cell = carried if kind == "LSTM" else (carried, None)
            time = 1 if batch_first else 0
            last = {"outputs": outputs.mean(time), "state": state, "cell": cell}[used]
            return self.fc(last if used == "outputs" else torch.cat([*last], -1))

    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    shape = (ROWS, TIME, WIDTH) if batch_first else (TIME, ROWS, WIDTH)
    with parity.recording(folder, steps=1):
        model(torch.randn(shape)).square().mean().backward()
        optimizer.step()
    return folder


class Port(nnx.Module):
    def __init__(self, kind, used, both=True, carry=True, swapped=False):
        rngs = nnx.Rngs(0)
        cell = {"LSTM": LSTM, "GRU": GRU}[kind]
        rnn = [nnx.RNN(cell(WIDTH, SIZE, rngs=rngs)) for _ in range(1 + both)]
        self.rnn = nnx.Bidirectional(*rnn) if both else rnn[0]
        self.fc = nnx.Linear(SIZE * (1 + both), 2, rngs=rngs)
        self.kind, self.used, self.both, self.carry = kind, used, both, carry
        self.swapped = swapped

    def __call__(self, x):
        x = x.swapaxes(0, 1) if self.swapped else x
        if not self.carry:
            outputs = self.rnn(x)
            last = outputs[:, -1]
            if self.both:
                last = jnp.concatenate([last[:, :SIZE], outputs[:, 0, SIZE:]], -1)
            return self.fc(outputs.mean(1) if self.used == "outputs" else last)
        carried, outputs = self.rnn(x, return_carry=True)
        each = carried if self.both else (carried,)
        if self.kind == "LSTM":
            each = [one[0 if self.used == "cell" else 1] for one in each]
        return self.fc(outputs.mean(1) if self.used == "outputs" else jnp.concatenate(each, -1))


def squares(model, batch):
    return jnp.mean(model(batch[0]) ** 2)


FORMS = [
    ("GRU", "outputs", {}), ("LSTM", "state", {}), ("LSTM", "cell", {}),
    ("GRU", "state", {"both": False}), ("LSTM", "state", {"carry": False, "both": False}),
]  # fmt: skip
SLOW = [
    ("GRU", "state", {}), ("LSTM", "outputs", {}), ("LSTM", "cell", {"both": False}),
    ("GRU", "state", {"swapped": True}), ("GRU", "state", {"carry": False}),
]  # fmt: skip
FORMS += [pytest.param(*row, marks=pytest.mark.slow) for row in SLOW]


@pytest.mark.torch
@pytest.mark.long  # each is a check
@pytest.mark.parametrize(("kind", "used", "options"), FORMS)
def test_a_right_port_is_the_same_whatever_it_carries(tmp_path, kind, used, options):
    swapped, both = options.get("swapped", False), options.get("both", True)
    folder = recorded(tmp_path / "trace", kind, used, both, batch_first=not swapped)
    model = Port(kind, used, **options)
    report = parity.check(folder, model, squares, optax.sgd(0.1), weights="copy")
    assert report.verdict == "same", str(report)
    assert "rnn" in report.coverage["modules"].seen
    if options.get("carry", True):
        sites = {"GRU": ["1"], "LSTM": ["1.0", "1.1"]}[kind]
        compared = {result.site for result in report.results}
        assert {f"forward:rnn#0.{site}" for site in sites} <= compared


@pytest.mark.torch
@pytest.mark.long
def test_the_directions_of_what_is_carried_are_told_apart(tmp_path):
    class Turned(Port):
        def __call__(self, x):
            carried, _ = self.rnn(x, return_carry=True)
            return self.fc(jnp.concatenate(carried[::-1], -1))

    folder = recorded(tmp_path / "trace", "GRU", "state")
    model = Turned("GRU", "state")
    report = parity.check(folder, model, squares, optax.sgd(0.1), weights="copy")
    assert [f.origin for f in report.findings] == ["between:input:fc#0.0"], str(report)
    assert "the operands are swapped" in str(report.findings[0].cause)


@pytest.fixture(params=[(False, 1), (True, 2), (False, 2)], ids=str)
def dropped(request, tmp_path):
    """A recurrent network with dropout, with as many rows as moments, and its port."""
    import torch

    batch_first, layers = request.param

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            options = {"batch_first": batch_first, "num_layers": layers}
            self.rnn = torch.nn.LSTM(WIDTH, SIZE, dropout=0.4 * (layers - 1), **options)
            self.drop, self.fc = torch.nn.Dropout(0.3), torch.nn.Linear(SIZE, 2)

        def forward(self, x):
            x = x if batch_first else x.transpose(0, 1)
            x = self.drop(self.rnn(x)[0])
            x = x if batch_first else x.transpose(0, 1)
            return self.fc(x)

    class Dropped(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.rnn = nnx.List(
                nnx.RNN(LSTM(SIZE if i else WIDTH, SIZE, rngs=rngs)) for i in range(layers)
            )
            self.inner, self.drop = nnx.Dropout(0.4, rngs=rngs), nnx.Dropout(0.3, rngs=rngs)
            self.fc = nnx.Linear(SIZE, 2, rngs=rngs)

        def __call__(self, x):
            for i, rnn in enumerate(self.rnn):
                x = rnn(self.inner(x) if i else x)
            return self.fc(self.drop(x))

    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    weight = torch.arange(1.0, 4.0)[:, None, None] ** torch.arange(3.0)[None, :, None]
    inputs = weight * torch.randn(3, 3, WIDTH)
    with parity.recording(tmp_path / "trace", steps=1):
        model(inputs).square().mean().backward()
        optimizer.step()
    return tmp_path / "trace", Dropped()


@pytest.mark.torch
@pytest.mark.long
def test_masks_are_torchs_where_there_are_as_many_rows_as_moments(dropped):
    folder, model = dropped
    report = parity.check(folder, model, squares, optax.sgd(0.1), weights="copy")
    assert report.verdict == "same", str(report)


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.parametrize(
    "cell", slow_among([linen.LSTMCell, linen.OptimizedLSTMCell], [linen.LSTMCell])
)
def test_linens_lstm_differs_in_the_update_of_its_one_bias_alone(tmp_path, cell):
    class Linen(linen.Module):
        def setup(self):
            self.rnn, self.fc = linen.RNN(cell(SIZE)), linen.Dense(2)

        def __call__(self, x):
            return self.fc(self.rnn(x).mean(1))

    folder = recorded(tmp_path / "trace", "LSTM", "outputs", both=False)
    variables = Linen().init(jax.random.key(0), jnp.ones((1, TIME, WIDTH)))
    given = Linen(), variables
    report = parity.check(folder, given, squares, optax.sgd(0.1), weights="copy")
    assert [f.origin for f in report.findings] == ["optimizer"], str(report)
    places = {result.place for finding in report.findings for result in finding.results}
    assert places == {"rnn.bias_ih_l0", "rnn.bias_hh_l0"}
    assert "flax's layer has one bias where torch's has two" in str(report.findings[0].cause)
    assert report.coverage["modules"].seen == ("rnn", "fc")
