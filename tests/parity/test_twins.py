"""What a program computes of its batch before it calls the model, in float32 and in float64."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import nn, optim, parity
from jaxnet.parity._trace import read
from jaxnet.random import Generator

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader, Dataset, TensorDataset  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.long]

ROWS = Generator(0).randn(24, 3)
Y = Generator(1).randn(24, 2)
STEPS = 3


def loader(x=ROWS):
    return DataLoader(TensorDataset(torch.tensor(np.asarray(x)), torch.tensor(np.asarray(Y))), 4)


class Normalize(torch.nn.Module):
    """Changes its argument, as torchvision's with `inplace=True`."""

    def forward(self, x):
        return x.sub_(0.3).div_(0.7)


class Computed(Dataset):
    """Rows that are computed when they are asked for."""

    def __len__(self):
        return 24

    def __getitem__(self, i):
        return torch.tensor(ROWS[i]) * 0.1 + 0.3, torch.tensor(Y[i])


def trained(prepare, data=loader, before=lambda: None):
    """Trains a linear layer on what `prepare` makes of each batch."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before()
    for x, y in data():
        x, y = prepare(x, y)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()


def augmented(x, y):
    x = x / 2.55
    with torch.no_grad():
        return Normalize()(x), y


TEACHER = np.float32([[0.3, -0.2, 0.7], [0.1, 0.9, -0.4]])


def taught(x, y):
    teacher = torch.nn.Linear(3, 2, bias=False)
    teacher.weight.data = torch.tensor(TEACHER)
    with torch.no_grad():
        return x, teacher(x)


def peeked():
    next(iter(DataLoader(Computed(), 4)))


def measured():
    """A mean over the data, which the program keeps in float32."""
    total = torch.zeros(3)
    for x, _ in loader():
        total += x.sum(0)
    measured.mean = total / 24


def centred(x, y):
    return x - measured.mean, y


LARGE = np.arange(72).reshape(24, 3) * 1234567 + 2**24 + 1

FORMS = {
    "a module that changes its argument": (
        lambda: trained(augmented),
        lambda x, y: ((x / 2.55 - 0.3) / 0.7, y),
    ),
    "a teacher before the student": (
        lambda: trained(taught),
        lambda x, y: (x, x @ jnp.asarray(TEACHER).T),
    ),
    "a look at the data before": (
        lambda: trained(lambda x, y: (x, y), lambda: DataLoader(Computed(), 4), peeked),
        lambda x, y: (x, y),
    ),
    "a mean over the data before": (
        lambda: trained(centred, before=measured),
        lambda x, y: (x - jnp.asarray(measured.mean.numpy()), y),
    ),
    "integers that float32 has not": (
        lambda: trained(lambda x, y: (x.float() / 1e8, y), lambda: loader(LARGE)),
        lambda x, y: (x / 1e8, y),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_port_that_computes_the_same_of_its_batch_is_the_same(tmp_path, form):
    program, prepare = FORMS[form]
    with parity.recording(tmp_path / "t", steps=STEPS):
        program()

    def loss(model, batch, factor=1.0):
        x, y = prepare(*batch)
        return jnp.mean((model(x * factor) - y) ** 2)

    model = nn.Linear(3, 2, rngs=Generator(0))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        report = parity.check(tmp_path / "t", model, loss, optim.SGD(lr=0.1))
        assert report.verdict == "same", str(report)
        report = parity.check(
            tmp_path / "t", model, lambda m, b: loss(m, b, 1 + 1e-6), optim.SGD(lr=0.1)
        )
        assert report.verdict == "different", str(report)


@pytest.mark.parametrize("weights", ["own", "generic"])
def test_a_model_that_is_made_in_the_loop_begins_with_its_own_numbers(tmp_path, weights):
    with parity.recording(tmp_path / "t", steps=1, weights=weights):
        torch.manual_seed(0)
        first, second = torch.nn.Linear(3, 3), None
        for x, y in loader():
            if second is None:
                second = torch.nn.Linear(3, 2)
                with torch.no_grad():
                    second.weight.mul_(0.1)
                parameters = [*first.parameters(), *second.parameters()]
                optimizer = torch.optim.SGD(parameters, 0.1)
            optimizer.zero_grad()
            (second(first(x)) - y).square().mean().backward()
            optimizer.step()
    (step,) = read(tmp_path / "t").steps
    given = step.double("input:second#0.0")
    weight, bias = (step[f"before:second.{n}"].astype(float) for n in ("weight", "bias"))
    np.testing.assert_allclose(given @ weight.T + bias, step.double("forward:second#0"), atol=1e-13)


def test_another_thread_keeps_its_default_dtype(tmp_path):
    seen, over = set(), threading.Event()

    def make_arrays():
        while not over.is_set():
            seen.add(torch.zeros(1).dtype)

    def many(x, y):
        for _ in range(200):
            x = x + torch.arange(3) / 3
        return x, y

    thread = threading.Thread(target=make_arrays)
    thread.start()
    with parity.recording(tmp_path / "t", steps=STEPS):
        trained(many)
    over.set()
    thread.join()
    assert seen == {torch.float32}


def test_arrays_of_the_other_order_of_bytes_are_stored_by_their_numbers(tmp_path):
    numbers = np.arange(8, dtype=">f4").reshape(4, 2)

    def collated(rows):
        return torch.stack([row[0] for row in rows]), numbers

    data = TensorDataset(torch.tensor(ROWS), torch.tensor(Y))
    with parity.recording(tmp_path / "t", steps=1):
        trained(
            lambda x, y: (x, torch.tensor(y.astype("f4"))),
            lambda: DataLoader(data, 4, collate_fn=collated),
        )
    (step,) = read(tmp_path / "t").steps
    np.testing.assert_array_equal(step["batch:0.1"], numbers)


def test_a_number_that_is_read_before_the_model_is_called_is_noted(tmp_path):
    with parity.recording(tmp_path / "t", steps=1):
        trained(lambda x, y: (x / (x.std().item() * 2), y))
    (note,) = read(tmp_path / "t").about["notes"]
    assert "item() reads a float32 number" in note
