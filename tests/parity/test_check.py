"""The check of a recorded program: same programs, and faults where each of them is made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, parity, train
from jaxnet.nn import functional
from jaxnet.parity._port import SubjectError
from jaxnet.random import Generator

# A check compiles six programs, of every batch shape, which no tiny model avoids.
pytestmark = [pytest.mark.torch, pytest.mark.long]

STEPS, ROWS, WORDS = 4, 6, 11


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """A language model: tied weights, an LSTM, dropout, BatchNorm, Adam, clipping, a schedule.

    Its last batch is smaller, the steps 0, 1 and 3 are recorded in full.
    """
    import torch
    from torch.nn import functional as F

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(WORDS, 5)
            self.lstm = torch.nn.LSTM(5, 5, batch_first=True)
            self.drop = torch.nn.Dropout(0.3)
            self.norm = torch.nn.BatchNorm1d(5)
            self.out = torch.nn.Linear(5, WORDS)
            self.out.weight = self.embed.weight

        def forward(self, words):
            states, (last, _) = self.lstm(self.drop(self.embed(words)))
            mixed = F.gelu(states[:, -1] + last[0])
            return self.out(self.norm(mixed))

    folder = tmp_path_factory.mktemp("parity") / "trace"
    with parity.recording(folder, steps=STEPS):
        torch.manual_seed(0)
        model = Model()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        words = torch.randint(0, WORDS, (ROWS * STEPS - 2, 4))
        data = torch.utils.data.TensorDataset(words[:, :3], words[:, 3])
        for given, following in torch.utils.data.DataLoader(data, ROWS):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(given), following)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
    return folder


class Model(nn.Module):
    def __init__(self, *, rngs, lstm=nn.LSTM, momentum=0.1, gelu=functional.gelu, short=1.0):
        self.embed = nn.Embedding(WORDS, 5, rngs=rngs)
        self.lstm = lstm(5, 5, batch_first=True, rngs=rngs)
        self.drop = nn.Dropout(0.3)
        self.norm = nn.BatchNorm1d(5, momentum=momentum)
        self.out = nn.Linear(5, WORDS, rngs=rngs)
        self.out.weight = self.embed.weight
        self.gelu = gelu
        self.short = short

    def __call__(self, words):
        states, (last, _) = self.lstm(self.drop(self.embed(words)))
        mixed = self.gelu(states[:, -1] + last[0])
        scores = self.out(self.norm(mixed))
        return scores if len(words) == ROWS else scores * self.short


def model(**faults):
    return Model(rngs=Generator(0), **faults)


def optimizer(**faults):
    adam = optim.Adam(**{"lr": 1e-2, "weight_decay": 1e-3, **faults})
    scheduled = optim.scheduled(adam, optim.StepLR(adam, 2), steps=STEPS)
    return optim.chain(optim.clip_by_norm(0.5), scheduled)


def test_the_same_program(trace):
    report = parity.check(trace, model(), losses.cross_entropy, optimizer())
    assert report.verdict == "same", str(report)
    assert not report.findings
    assert report.coverage["modules"].seen == ("", "embed", "drop", "lstm", "norm", "out")
    assert not report.coverage["modules"].missing
    assert report.horizon.equal_to == STEPS
    levels = {result.level for result in report.results}
    assert levels == {"preflight", "layer", "step"}


class SecondOutput(nn.LSTM):
    """The hidden state alone is another one."""

    def __call__(self, x):
        output, (hidden, cell) = super().__call__(x)
        return output, (hidden * 1.001, cell)


@jax.custom_vjp
def other_gradient(x):
    return functional.gelu(x)


other_gradient.defvjp(
    lambda x: (functional.gelu(x), x),
    lambda x, ct: (jax.vjp(functional.gelu, x)[1](ct)[0] * 1.001,),
)


def test_four_faults_at_once(trace):
    """They show first in the second output of a call, a gradient, a buffer, and an update."""
    faulty = model(lstm=SecondOutput, gelu=other_gradient, momentum=0.2)
    report = parity.check(trace, faulty, losses.cross_entropy, optimizer(eps=1e-6), steps=1)
    assert report.verdict == "different"
    found = [(f.site, {r.site.partition(":")[0] for r in f.results}) for f in report.findings]
    assert found == [
        ("forward:lstm#0.1.0", {"forward", "grad", "param_grad"}),
        ("grad:lstm#0.0", {"grad"}),
        ("buffer:norm.running_mean", {"buffer"}),
        ("update:embed.weight", {"update"}),
    ], str(report)
    lstm, gelu, norm, update = report.findings
    assert lstm.message == "lstm: the output differs. It is torch's array times 1.001."
    assert "test_check.py" in lstm.jax_where
    assert "gelu#0" in gelu.message
    assert {r.site for r in norm.results} == {"buffer:norm.running_mean", "buffer:norm.running_var"}
    assert norm.cause == "The new statistics have the weight 0.2; torch's momentum is 0.1."
    assert update.message == "the optimizer: the update with torch's gradients differs"
    assert "epsilon" in update.cause


def test_faults_of_single_steps(trace):
    def loss(model, batch, step):
        given, following = batch
        value = losses.cross_entropy(model(given), following)
        return value * jnp.where(step >= 2, 1.001, 1.0)

    report = parity.check(trace, model(short=1.01), loss, optimizer())
    late, short = sorted(report.findings, key=lambda f: f.step)
    assert (late.step, late.site) == (2, "loss:0"), str(report)
    assert (short.step, short.site) == (3, "forward:#0"), str(report)


def test_a_step_and_its_state(trace):
    adam = optimizer()
    step = train.make_train_step(train.supervised(losses.cross_entropy), adam)
    state = train.create(model(), adam)
    assert parity.check(trace, step=jax.jit(step), state=state, steps=[0]).verdict == "same"


def test_a_step_of_the_users_own(trace):
    adam, loss = optimizer(), train.supervised(losses.cross_entropy)
    state = train.create(model(), adam)

    def check(lr):
        step = train.make_train_step(loss, adam)

        def own(state, batch):  # nothing of make_train_step is seen from outside
            after, metrics = step.function(state, batch)
            params = jax.tree.map(lambda a, b: b + lr * (a - b), after.params, state.params)
            return after.replace(params=params), metrics

        return parity.check(trace, step=own, state=state, steps=[0, 1])

    assert (same := check(1.0)).verdict == "same"
    assert any("no layers" in note for note in same.notes)
    assert check(0.5).verdict == "different"


def test_both_in_one_process():
    import torch

    def batches():
        drawn = np.random.RandomState(0)
        while True:
            yield drawn.standard_normal((4, 3)).astype(np.float32), drawn.randint(0, 2, 4)

    def compared(smoothing):
        return parity.compare(
            torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()),
            nn.Sequential(nn.Linear(3, 2, rngs=Generator(1)), nn.Tanh()),
            batches(),
            steps=2,
            loss=(
                torch.nn.functional.cross_entropy,
                functools.partial(losses.cross_entropy, label_smoothing=smoothing),
            ),
            optimizer=(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), optim.SGD(0.1, 0.9)),
        )

    assert compared(0.0).verdict == "same"
    (finding,) = compared(0.1).findings
    assert finding.site == "loss:0"
    assert "smoothing" in finding.cause


def test_other_parameters_are_named_at_once(trace):
    class Fewer(Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            del self.norm
            self.out = nn.Linear(5, WORDS + 1, rngs=Generator(0))

    message = r"norm.weight is missing; norm.bias is missing.*out.weight .* tied to embed.weight"
    with pytest.raises(SubjectError, match=message):
        parity.check(trace, Fewer(rngs=Generator(0)), losses.cross_entropy, optimizer())


def test_a_model_that_cannot_be_float64(trace):
    class Narrow(nn.LSTM):
        def __call__(self, x):
            return super().__call__(x.astype(jnp.float32))

    report = parity.check(trace, model(lstm=Narrow), losses.cross_entropy, optimizer(), steps=1)
    assert any("float32 evidence: lstm" in note for note in report.notes), str(report)
    assert report.verdict == "same", str(report)
    lstm = next(r for r in report.results if r.site == "forward:lstm#0.0")
    assert lstm.judgement.evidence == "float32"


def test_a_program_that_raises_is_not_comparable(trace):
    def loss(module, batch):
        return batch["labels"]

    report = parity.check(trace, model(), loss, optimizer(), steps=1)
    assert (report.verdict, report.findings) == ("not comparable", []), str(report)
    (note,) = (note for note in report.notes if "does not run" in note)
    assert "test_check.py:" in note
    assert "a step is given [int64 (" in note


@pytest.mark.slow
def test_a_padding_mask_and_a_loss_with_class_weights(tmp_path):
    """torch's layer adds the boolean mask; class weights are a buffer, but of no model."""
    import torch

    def forward(self, words):
        states = self.layer(self.embed(words), src_key_padding_mask=words == 0)
        return self.out(states[:, 0])

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(WORDS, 4)
            self.layer = torch.nn.TransformerEncoderLayer(4, 1, 5, 0.0, batch_first=True)
            self.out = torch.nn.Linear(4, 2)

    Theirs.forward = forward

    class Ours(nn.Module):
        def __init__(self, *, rngs):
            self.embed = nn.Embedding(WORDS, 4, rngs=rngs)
            self.layer = nn.TransformerEncoderLayer(4, 1, 5, 0.0, batch_first=True, rngs=rngs)
            self.out = nn.Linear(4, 2, rngs=rngs)

    Ours.__call__ = forward
    with parity.recording(tmp_path / "trace", steps=1):
        torch.manual_seed(0)
        theirs = Theirs()
        sgd = torch.optim.SGD(theirs.parameters(), 0.1)
        criterion = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
        data = torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([0, 1])
        for words, targets in torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), 2):
            criterion(theirs(words), targets).backward()
            sgd.step()

    def loss(module, batch):
        weight = jnp.array([1.0, 3.0])
        return losses.cross_entropy(module(batch[0]), batch[1], weight=weight)

    report = parity.check(tmp_path / "trace", Ours(rngs=Generator(0)), loss, optim.SGD(0.1))
    assert (report.verdict, report.notes) == ("same", []), str(report)
