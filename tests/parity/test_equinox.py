"""Models of equinox, which compute one example, beside PyTorch's of whole batches."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxnet import parity
from jaxnet.parity._port import SubjectError
from tests.parity.test_libraries import checked, cross_entropy, found, same

pytestmark = [
    pytest.mark.usefixtures("usual_settings"),
    pytest.mark.equinox,
    pytest.mark.torch,
    pytest.mark.long,
]
eqx = pytest.importorskip("equinox")
KEY = jax.random.key(0)


class Vectors(eqx.Module):
    fc1: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    fc2: eqx.nn.Linear
    drop: eqx.nn.Dropout
    fc3: eqx.nn.Linear

    def __init__(self, epsilon=1e-5, rate=0.3):
        keys = jax.random.split(KEY, 3)
        self.fc1, self.fc2 = eqx.nn.Linear(6, 8, key=keys[0]), eqx.nn.Linear(8, 8, key=keys[1])
        self.norm, self.drop = eqx.nn.LayerNorm(8, epsilon), eqx.nn.Dropout(rate)
        self.fc3 = eqx.nn.Linear(8, 4, key=keys[2])

    def __call__(self, x, key):
        x = self.norm(jax.nn.gelu(self.fc1(x), approximate=False))
        return self.fc3(self.drop(jax.nn.relu(self.fc2(x)), key=key))


class BatchNorm(eqx.nn.BatchNorm):
    """equinox's, but that the running variance takes the unbiased one, as torch's does."""

    def __call__(self, x, state, *, key=None, inference=None):
        before = state.get(self.batch_state_index)[1]
        out, state = super().__call__(x, state)
        mean, after = state.get(self.batch_state_index)
        rows = jax.lax.psum(x[0].size, self.axis_name)
        new = (after - before * self.momentum) * rows / (rows - 1)
        return out, state.set(self.batch_state_index, (mean, before * self.momentum + new))


class Images(eqx.Module):
    conv1: eqx.nn.Conv2d
    bn1: eqx.nn.BatchNorm
    conv2: eqx.nn.Conv2d
    bn2: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    fc: eqx.nn.Linear

    def __init__(self, norm=BatchNorm, momentum=0.9, padding=1):
        a, b, c = jax.random.split(KEY, 3)
        options = {"use_bias": False}
        self.conv1 = eqx.nn.Conv2d(3, 4, 3, 2, 1, key=a, **options)
        self.conv2 = eqx.nn.Conv2d(4, 4, 3, padding=padding, key=b, **options)
        self.bn1, self.bn2 = (norm(4, "rows", momentum=momentum, mode="batch") for _ in range(2))
        self.drop, self.fc = eqx.nn.Dropout(0.3), eqx.nn.Linear(4, 4, key=c)

    def __call__(self, x, state, key):
        x, state = self.bn1(self.conv1(x), state)
        x, state = self.bn2(self.conv2(jax.nn.relu(x)), state)
        return self.fc(self.drop(jax.nn.relu(x), key=key).mean((1, 2))), state


class Tokens(eqx.Module):
    embed: eqx.nn.Embedding
    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    wide: eqx.nn.Linear
    out: eqx.nn.Linear
    exact: bool = eqx.field(static=True)

    def __init__(self, exact=True):
        a, b, c, d = jax.random.split(KEY, 4)
        biases = {f"use_{name}_bias": True for name in ("query", "key", "value", "output")}
        self.embed, self.exact = eqx.nn.Embedding(7, 4, key=a), exact
        self.norm1, self.norm2 = eqx.nn.LayerNorm(4), eqx.nn.LayerNorm(4)
        self.attention = eqx.nn.MultiheadAttention(2, 4, key=b, **biases)
        self.wide, self.out = eqx.nn.Linear(4, 8, key=c), eqx.nn.Linear(8, 7, key=d)

    def __call__(self, tokens):
        x = jax.vmap(self.embed)(tokens)
        y = jax.vmap(self.norm1)(x)
        x = x + self.attention(y, y, y)

        def last(row):
            wide = self.wide(self.norm2(row))
            return self.out(jax.nn.gelu(wide, approximate=not self.exact))

        return jax.vmap(last)(x)


@pytest.mark.slow
def test_a_model_of_one_example_is_the_same(torch_vectors):
    """Its own loss maps it itself, with a key for each example; the draws are torch's."""

    def mapped(model, batch):
        keys = jax.random.split(KEY, len(batch[0]))
        return cross_entropy(jax.vmap(model)(batch[0], keys), batch[1]).mean()

    same(checked(torch_vectors, Vectors(), mapped), "fc1", "norm", "fc2", "fc3")


def test_running_statistics_are_the_state(torch_images):
    model = eqx.nn.make_with_state(Images)()
    report = checked(torch_images, model, steps=2)
    same(report, "conv1", "bn1", "conv2", "bn2", "fc")
    assert any(result.site == "buffer:bn2.running_var" for result in report.results)


@pytest.mark.slow
def test_attention_and_layers_in_two_maps_are_the_same(torch_tokens):
    report = checked(torch_tokens, Tokens())
    same(report, "embed", "norm1", "attention", "norm2", "wide", "out")


@pytest.mark.parametrize(
    ("options", "place", "says"),
    [
        ({"epsilon": 1e-3}, "norm", "0.001"),
        pytest.param({"rate": 0.2}, "fc3", "0.2", marks=pytest.mark.slow),
    ],
    ids=["eps", "dropout"],
)
def test_a_mistake_is_found_in_its_layer(torch_vectors, options, place, says):
    found(checked(torch_vectors, Vectors(**options)), place, says)


@pytest.mark.slow
def test_equinoxs_own_variance_is_found(torch_images):
    model = eqx.nn.make_with_state(Images)(norm=eqx.nn.BatchNorm)
    report = checked(torch_images, model)
    assert {f.site for f in report.findings} == {"buffer:bn1.running_var", "buffer:bn2.running_var"}
    assert all("biased" in f.cause for f in report.findings)


def test_another_activation_is_found(torch_tokens):
    found(checked(torch_tokens, Tokens(exact=False)), "out", "tanh")


def test_a_step_of_a_module_and_its_state(torch_images):
    optimizer = optax.adam(1e-2)
    model, state = eqx.nn.make_with_state(Images)()

    @eqx.filter_jit
    def step(own, batch):
        model, state, opt_state, key = own
        key, now = jax.random.split(key)

        def value(model, state):
            keys = jax.random.split(now, len(batch[0]))
            axes = {"in_axes": (0, None, 0), "out_axes": (0, None), "axis_name": "rows"}
            outputs, state = jax.vmap(model, **axes)(batch[0], state, keys)
            return cross_entropy(outputs, batch[1]).mean(), state

        results = eqx.filter_value_and_grad(value, has_aux=True)(model, state)
        (result, state), gradients = results
        updates, opt_state = optimizer.update(gradients, opt_state)
        return (eqx.apply_updates(model, updates), state, opt_state, key), result

    own = model, state, optimizer.init(eqx.filter(model, eqx.is_inexact_array)), KEY
    report = parity.check(torch_images, step=step, state=own, weights="copy", steps=1)
    assert report.verdict == "same", str(report)


def test_wrong_use_is_explained(torch_vectors, torch_images):
    with pytest.raises(SubjectError, match=r"the module, or .module, state. of eqx.nn.make_with"):
        checked(torch_vectors, (Vectors(), {"a": 1}))
    model = eqx.nn.make_with_state(Images)()

    def mapped(model, batch):
        return jax.vmap(model)(batch[0]).sum()

    with pytest.raises(SubjectError, match=r"has a state, and is called inside of jax.vmap"):
        checked(torch_images, model, mapped)

    class Other(Vectors):
        def __call__(self, x, learning):
            return self.fc1(x)

    with pytest.raises(SubjectError, match="needs 'learning', which the loss does not give it"):
        checked(torch_vectors, Other())
    with pytest.raises(SubjectError, match="accepted are arrays whose first axis is the batch"):
        checked(torch_vectors, Vectors(), lambda model, batch: model(jnp.float32(1)).sum())
