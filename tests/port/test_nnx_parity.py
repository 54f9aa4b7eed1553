"""jaxnet.parity judges the ports to plain flax.nnx: a training program of each is the same."""

import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from jaxnet import parity
from tests.marks import slow_among
from tests.port.flax_programs import HEAD, PROGRAMS
from tests.port.test_nnx import plain_settings, ported

__all__ = ["plain_settings"]

pytestmark = [
    pytest.mark.libcst, pytest.mark.torch, pytest.mark.long,
    pytest.mark.usefixtures("plain_settings"),
]  # fmt: skip
ROWS, STEPS = 5, 2

CLASSIFIER = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)
    def forward(self, tokens):
        out, (h, c) = self.lstm(self.embed(tokens))
        return self.fc(h[-1])
"""


def _crossed(model, batch):
    inputs, targets = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(inputs), targets).mean()


def _of_vae(model, batch):
    image, mu, logvar = model(batch[0])
    return ((image - 0.5) ** 2).mean() + (mu**2).mean() + jnp.exp(logvar).mean()


def _words(*shape):
    import torch

    return torch.randint(0, 7, shape)


def _numbers(*shape):
    import torch

    return torch.rand(shape)


ALL = ROWS * (STEPS + 1)
RUNS = {
    "a small ResNet": (PROGRAMS["a small ResNet"][0], (_numbers, ALL, 3, 8, 8), (ALL,), 4),
    "a small GPT": (PROGRAMS["a small GPT with tied weights"][0], (_words, ALL, 5), (ALL, 5), 7),
    "an LSTM classifier": (CLASSIFIER, (_words, ALL, 6), (ALL,), 3),
    "a VAE": (PROGRAMS["a VAE with transposed convolutions"][0], (_numbers, ALL, 1, 8, 8), (ALL,),
              0),
}  # fmt: skip


def judged(folder, name, change=lambda code: code):
    """The report of a port, whose text may be changed."""
    import torch
    from torch.nn import functional as F

    source, (draw, *shape), targets, classes = RUNS[name]
    source = HEAD + source
    result, _ = ported(source, folder)
    original, made = {"__name__": "original"}, {"__name__": "made"}
    exec(compile(source, "model.py", "exec"), original)
    text = change(result.code)
    exec(compile(text, "ported.py", "exec"), made)
    with parity.recording(folder / "trace", steps=STEPS):
        torch.manual_seed(0)
        model = original["Net"]()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        labels = torch.randint(0, max(classes, 1), targets)
        data = torch.utils.data.TensorDataset(draw(*shape), labels)
        for x, y in torch.utils.data.DataLoader(data, ROWS):
            optimizer.zero_grad()
            out = model(x)
            if classes:
                F.cross_entropy(out.flatten(0, -2), y.flatten()).backward()
            else:
                image, mu, logvar = out
                value = ((image - 0.5) ** 2).mean() + (mu**2).mean() + torch.exp(logvar).mean()
                value.backward()
            optimizer.step()
    twin = made["Net"](rngs=nnx.Rngs(0))
    adam = nnx.Optimizer(twin, optax.adam(1e-2), wrt=nnx.Param)
    loss = _crossed if classes else _of_vae
    return parity.check(folder / "trace", twin, loss, adam, weights="copy")


@pytest.mark.parametrize("name", slow_among(RUNS, ["a small GPT", "a small ResNet"]))
def test_a_port_is_the_same(name, tmp_path):
    report = judged(tmp_path, name)
    assert report.verdict == "same", str(report)
    assert len(report.coverage["parameters"].seen) > 5
    assert not report.coverage["parameters"].missing


@pytest.mark.slow
def test_flax_s_own_momentum_in_a_port_is_found(tmp_path):
    def wrong(code):
        assert "momentum=momentum" in code
        return code.replace("momentum=momentum", "momentum=1 - 0.99")

    report = judged(tmp_path, "a small ResNet", wrong)
    assert report.verdict == "different"
    places = {result.place for finding in report.findings for result in finding.results}
    assert any("running_mean" in place for place in places), str(report)
