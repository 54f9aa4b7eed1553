"""A whole run in one dtype: `create(model, optimizer, dtype=jnp.float64)`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import losses, nn, optim, train
from jaxnet.random import Generator

ROWS, STEPS = 4, 20
RANDOM = np.random.RandomState(0)
X = RANDOM.standard_normal((ROWS * STEPS, 3)).astype(np.float32)
WORDS = RANDOM.randint(0, 5, ROWS * STEPS)
CLASSES = RANDOM.randint(0, 2, ROWS * STEPS)
DATA = X, WORDS, CLASSES


class Net(nn.Module):
    def __init__(self, rngs):
        self.word = nn.Embedding(5, 3, rngs=rngs)
        self.norm = nn.BatchNorm1d(3)
        self.out = nn.Linear(3, 2, rngs=rngs)

    def __call__(self, x, word):
        return self.out(jnp.tanh(self.norm(x + self.word(word))))


def loss(net, batch):
    x, words, classes = batch
    assert x.dtype == jnp.float64
    assert jnp.issubdtype(words.dtype, jnp.integer)
    return losses.cross_entropy(net(x, words), classes)


def theirs(torch):
    """PyTorch's losses of an epoch after `model.double()`, and its model."""
    torch.manual_seed(0)

    class Theirs(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.word = torch.nn.Embedding(5, 3)
            self.norm = torch.nn.BatchNorm1d(3)
            self.out = torch.nn.Linear(3, 2)

        def forward(self, x, word):
            return self.out(torch.tanh(self.norm(x + self.word(word))))

    net, values = Theirs().double(), []
    update = torch.optim.AdamW(net.parameters(), lr=0.02)
    for i in range(0, len(X), ROWS):
        x, words, classes = (torch.tensor(column[i : i + ROWS]) for column in DATA)
        value = torch.nn.functional.cross_entropy(net(x.double(), words), classes)
        update.zero_grad()
        value.backward()
        update.step()
        values.append(value.item())
    return values, net


def check(state, net):
    arrays = {**state.params, **state.buffers}
    for name, value in net.state_dict().items():
        np.testing.assert_allclose(arrays[name], value.numpy(), rtol=1e-10, atol=1e-12)
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert {x.dtype for x in floats} == {jnp.dtype(jnp.float64)}


@pytest.mark.long
@pytest.mark.torch
def test_float32_data_is_trained_measured_and_predicted_in_float64_as_in_torch():
    torch = pytest.importorskip("torch")
    wanted, net = theirs(torch)
    optimizer = optim.AdamW(lr=0.02)
    with jax.enable_x64(True):
        state = train.create(Net(Generator(0)), optimizer, dtype=jnp.float64)
        step, eval_step = train.make_train_step(loss, optimizer), train.make_eval_step(loss)
        result = train.fit(
            state, step, DATA, epochs=1, batch_size=ROWS, shuffle=False, validation=DATA,
            eval_step=eval_step, quiet=True, log=lambda line: None, compilation_cache=False,
        )  # fmt: skip
        np.testing.assert_allclose(result.history[-1]["loss"], np.mean(wanted), rtol=1e-10)
        check(result.state, net)
        net.eval()
        with torch.no_grad():
            outputs = net(torch.tensor(X).double(), torch.tensor(WORDS))
            expected = torch.nn.functional.cross_entropy(outputs, torch.tensor(CLASSES)).item()
        after = result.state
        found = train.evaluate(after, eval_step, DATA, batch_size=ROWS, quiet=True)["loss"]
        np.testing.assert_allclose([found, result.history[-1]["val_loss"]], expected, rtol=1e-10)
        predicted = train.predict(after, (X, WORDS), batch_size=ROWS, quiet=True)
        assert predicted.dtype == np.float64
        np.testing.assert_allclose(predicted, outputs.numpy(), rtol=1e-10, atol=1e-12)


def judged(nets, batch):
    x, y = batch
    assert x.dtype == jnp.float64
    return losses.mse_loss(nets["judge"](nets["maker"](x)), y)


def pair(maker, judge):
    """The states of two models, with the dtype of each."""
    optimizer = optim.SGD(lr=0.1)
    layers = {"maker": (nn.Linear(3, 2, rngs=Generator(0)), maker)}
    layers["judge"] = nn.Linear(2, 1, rngs=Generator(1)), judge
    states = {k: train.create(net, optimizer, dtype=dtype) for k, (net, dtype) in layers.items()}
    return states, train.make_train_step(judged, optimizer, model="maker")


@pytest.mark.torch
def test_several_models_in_float64():
    torch = pytest.importorskip("torch")
    nets = []
    for seed, sizes in enumerate(((3, 2), (2, 1))):
        torch.manual_seed(seed)
        nets.append(torch.nn.Linear(*sizes).double())
    y = X[:, :1]
    batch = [torch.tensor(a).double() for a in (X, y)]
    update = torch.optim.SGD(nets[0].parameters(), lr=0.1)
    for _ in range(STEPS):
        update.zero_grad()
        torch.nn.functional.mse_loss(nets[1](nets[0](batch[0])), batch[1]).backward()
        update.step()
    with jax.enable_x64(True):
        state, step = pair("float64", jnp.float64)
        order = jnp.tile(jnp.arange(len(X)), STEPS)
        state, _ = train.make_epoch(step, len(X))(state, (X, y), order)
        for name, net in zip(("maker", "judge"), nets, strict=True):
            check(state[name], net)


def test_what_does_not_go_together_is_refused():
    optimizer, model = optim.SGD(lr=0.1), nn.Linear(3, 2, rngs=Generator(0))
    with pytest.raises(ValueError, match=r"create: dtype: float64.*jax_enable_x64"):
        train.create(model, optimizer, dtype=jnp.float64)
    with pytest.raises(ValueError, match="create: dtype: int32; accepted is a floating dtype"):
        train.create(model, optimizer, dtype=jnp.int32)
    batch = X[:ROWS], X[:ROWS, :1]
    with jax.enable_x64(True):
        mixed, step = pair(jnp.float64, None)
        with pytest.raises(ValueError, match="judge: None, maker: float64; all models share a"):
            step(mixed, batch)
        state, _ = pair(jnp.float64, jnp.float64)
        half = train.make_predict(compute_dtype=jnp.bfloat16)
        with pytest.raises(ValueError, match="compute_dtype: bfloat16, and create was given dtype"):
            half(state["maker"], batch[0])
    with pytest.raises(ValueError, match=r"dtype: float64.*jax_enable_x64"):
        step(state, batch)
