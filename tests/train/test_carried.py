"""jaxnet/train: what lives from batch to batch: a recurrent state, the number of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator

WORDS, WIDTH, TIMES, BATCH, FEWER = 11, 6, 7, 4, 3
TEXT = np.random.RandomState(0).randint(0, WORDS, 4 * 31)
OTHER = np.random.RandomState(1).randint(0, WORDS, 3 * 17)


def columns(text: np.ndarray, batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    text = text.reshape(batch, -1).T
    return text[:-1], text[1:], np.arange(len(text) - 1) == 0


class LanguageModel(nn.Module):
    """The recurrent model of the cookbook: its state is in buffers, for the largest batch."""

    def __init__(self):
        g = Generator(0)
        self.embed = nn.Embedding(WORDS, WIDTH, rngs=g)
        self.rnn = nn.LSTM(WIDTH, WIDTH, rngs=g)
        self.out = nn.Linear(WIDTH, WORDS, rngs=g)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1, generator=g)
        self.h = nn.Buffer(jnp.zeros((1, BATCH, WIDTH)), persistent=False)
        self.c = nn.Buffer(jnp.zeros((1, BATCH, WIDTH)), persistent=False)

    def __call__(self, tokens, begins):
        n = tokens.shape[1]
        before = [jnp.where(begins, 0.0, x[:, :n]) for x in (self.h, self.c)]
        hidden, after = self.rnn(self.embed(tokens), tuple(before))
        for buffer, x in zip((self.h, self.c), after, strict=True):
            buffer[...] = buffer[...].at[:, :n].set(jax.lax.stop_gradient(x))
        return self.out(hidden)


def language_loss(model, batch):
    tokens, following, begins = batch
    scores = model(tokens, begins[0])
    return losses.cross_entropy(scores.reshape(-1, WORDS), following.reshape(-1))


CLIPPED = optim.chain(optim.clip_by_norm(0.25), optim.SGD(lr=2.0))
STEP = train.make_train_step(language_loss, CLIPPED)
EVAL = train.make_eval_step(language_loss)
OPTIONS = {"shuffle": False, "batch_size": TIMES, "compilation_cache": False, "quiet": True}
VALIDATION = {"validation": columns(OTHER, FEWER), "eval_step": EVAL}


def fitted(double: bool = False, **options) -> train.Result:
    model = LanguageModel().double() if double else LanguageModel()
    state = train.create(model, CLIPPED)
    return train.fit(state, STEP, columns(TEXT, BATCH), **OPTIONS, **{"epochs": 2, **options})


def torch_program(torch) -> tuple[dict, list[float]]:
    """PyTorch's word_language_model: the weights at the end, and the loss of each evaluation."""
    torch.manual_seed(0)
    nets = {
        "embed": torch.nn.Embedding(WORDS, WIDTH),
        "rnn": torch.nn.LSTM(WIDTH, WIDTH),
        "out": torch.nn.Linear(WIDTH, WORDS),
    }
    torch.nn.init.uniform_(nets["embed"].weight, -0.1, 0.1)
    net = torch.nn.ModuleDict(nets).double()
    optimizer = torch.optim.SGD(net.parameters(), lr=2.0)

    def zeros(batch):
        return tuple(torch.zeros(1, batch, WIDTH, dtype=torch.double) for _ in "hc")

    def run(text, batch, each):
        tokens, following, _ = (torch.tensor(x) for x in columns(text, batch))
        hidden = zeros(batch)
        for i in range(0, len(tokens), TIMES):
            hidden = tuple(h.detach() for h in hidden)
            part, targets = tokens[i : i + TIMES], following[i : i + TIMES]
            output, hidden = net["rnn"](net["embed"](part), hidden)
            scores = net["out"](output).reshape(-1, WORDS)
            each(torch.nn.functional.cross_entropy(scores, targets.reshape(-1)), len(part))

    def learn(loss, _):
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.25)
        optimizer.step()

    measured = []
    for _ in range(2):
        run(TEXT, BATCH, learn)
        sums = []
        with torch.no_grad():
            run(OTHER, FEWER, lambda loss, rows: sums.append(rows * loss.item()))  # noqa: B023
        measured.append(sum(sums) / (len(OTHER) // FEWER - 1))
    return net.state_dict(), measured


@pytest.mark.torch
@pytest.mark.long
def test_a_recurrent_state_over_two_epochs_is_that_of_torch():
    weights, measured = torch_program(pytest.importorskip("torch"))
    with jax.enable_x64(True):
        result = fitted(double=True, **VALIDATION)
        np.testing.assert_allclose([x["val_loss"] for x in result.history], measured, rtol=1e-10)
        for name, value in weights.items():
            np.testing.assert_allclose(
                result.state.params[name], value.numpy(), rtol=1e-10, atol=1e-10, err_msg=name
            )


def test_a_recurrent_state_is_the_same_however_the_epoch_is_cut(tmp_path):
    whole = fitted(**VALIDATION)

    def stop(report):
        if report.step == 7:  # two steps of the second epoch
            report.stop("here")

    options = {**VALIDATION, "checkpoint": tmp_path, "chunk_steps": 2}
    assert fitted(**options, callbacks=[train.EverySteps(7, stop)]).reason == "here"
    resumed = fitted(**options, epochs=3)
    assert resumed.history[:2] == whole.history
    alone = fitted(epochs=2)  # an evaluation leaves the state of the training as it was
    for name, value in whole.state.buffers.items():
        np.testing.assert_array_equal(alone.state.buffers[name], value)
        assert np.any(value)
    # Every evaluation begins at zero, whatever is in the state.
    data = columns(OTHER, FEWER)
    again = train.evaluate(whole.state, EVAL, data, batch_size=TIMES, chunk_steps=1)
    assert again["loss"] == pytest.approx(whole.history[-1]["val_loss"], rel=1e-6)
    epoch = train.make_epoch(EVAL, TIMES)
    state, each = epoch(whole.state, jax.tree.map(jnp.asarray, data), jnp.arange(16))
    rows = [7, 7, 2]
    assert np.average(each["loss"], weights=rows) == pytest.approx(again["loss"], rel=1e-6)
    assert np.any(state.buffers["h"] != whole.state.buffers["h"])


def test_the_recurrent_state_matters_and_ends_with_the_epoch():
    """A second epoch begins without a memory, as a model that has none does at every step."""
    data = jax.tree.map(jnp.asarray, columns(TEXT, BATCH))
    epoch = train.make_epoch(EVAL, TIMES)
    state, first = epoch(train.create(LanguageModel(), CLIPPED), data, jnp.arange(30))
    _, second = epoch(state, data, jnp.arange(30))
    np.testing.assert_array_equal(first["loss"], second["loss"])
    ends = data[0], data[1], jnp.ones(30, bool)
    _, forgetful = epoch(state, ends, jnp.arange(30))
    assert float(first["loss"][0]) == float(forgetful["loss"][0])
    assert np.all(first["loss"][1:] != forgetful["loss"][1:])


# The number of the step in the loss.


class Auto(nn.Module):
    """The mean and the logarithm of the variance of a small variational autoencoder."""

    def __init__(self):
        g = Generator(0)
        self.mean, self.log = nn.Linear(3, 2, rngs=g), nn.Linear(3, 2, rngs=g)
        self.back = nn.Linear(2, 3, rngs=g)


X = np.random.RandomState(0).standard_normal((22, 3)).astype(np.float32)
ADAM = optim.Adam(lr=0.05)


def annealed(model, x, step):
    mean, log = model.mean(x), model.log(x)
    kl = (-0.5 * (1 + log - mean**2 - jnp.exp(log)).sum(1)).mean()
    weight = jnp.minimum(step / 6, 1.0)
    return losses.mse_loss(model.back(mean), x) + weight * kl, {"weight": weight}


def auto(**options) -> tuple[train.TrainState, train.TrainStep]:
    return train.create(Auto(), ADAM), train.make_train_step(annealed, ADAM, **options)


@pytest.mark.torch
def test_annealing_by_the_number_of_the_step_is_that_of_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.ModuleDict({k: torch.nn.Linear(3, 2) for k in ("mean", "log")})
    net["back"] = torch.nn.Linear(2, 3)
    adam, expected = torch.optim.Adam(net.parameters(), lr=0.05), []
    for step in range(9):
        i = step % 3 * 8
        x = torch.tensor(X[i : i + 8])
        mean, log = net["mean"](x), net["log"](x)
        kl = (-0.5 * (1 + log - mean**2 - log.exp()).sum(1)).mean()
        loss = torch.nn.functional.mse_loss(net["back"](mean), x) + min(step / 6, 1.0) * kl
        adam.zero_grad()
        loss.backward()
        adam.step()
        expected.append(loss.item())
    state, step = auto()
    epoch, found = train.make_epoch(step, 8), []
    for _ in range(3):
        state, measured = epoch(state, jnp.asarray(X), jnp.arange(22))
        found += measured["loss"].tolist()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name, value in net.state_dict().items():
        np.testing.assert_allclose(state.params[name], value.numpy(), rtol=1e-4, atol=1e-5)


def test_the_number_of_the_step_in_parts_after_a_stop_and_in_evaluation(tmp_path):
    options = {"epochs": 3, "batch_size": 8, "compilation_cache": False, "quiet": True}
    state, step = auto()
    whole = train.fit(state, step, X, **options)
    weights = [np.mean([min(i / 6, 1) for i in part]) for part in np.arange(9).reshape(3, 3)]
    assert [line["weight"] for line in whole.history] == pytest.approx(weights)

    def stop(report):
        if report.step == 4:
            report.stop("here")

    stops = [train.EverySteps(4, stop)]
    train.fit(state, step, X, **options, checkpoint=tmp_path, callbacks=stops)
    resumed = train.fit(state, step, X, **options | {"epochs": 4}, checkpoint=tmp_path)
    assert resumed.history[:3] == whole.history
    _, parted = auto(microbatches=2)
    cut = train.fit(state, parted, X, **options)  # each part has the number of its step
    assert [line["weight"] for line in cut.history] == pytest.approx(weights)
    assert cut.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=1e-4)
    measured = train.evaluate(whole.state, train.make_eval_step(annealed), X, batch_size=8)
    assert measured["weight"] == 1.0


def test_a_third_parameter_with_a_default_is_the_users_own():
    seen = []

    def loss(model, x, step=7):
        seen.append(step)
        return model.mean(x).mean()

    jax.eval_shape(train.make_train_step(loss, ADAM), train.create(Auto(), ADAM), jnp.asarray(X))
    assert set(seen) == {7}
