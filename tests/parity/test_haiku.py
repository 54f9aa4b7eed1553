"""Models of haiku: layers, state, and draws."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxnet import parity
from jaxnet.parity._port import SubjectError
from tests.parity.test_libraries import channels_last, checked, cross_entropy, found, same

pytestmark = [
    pytest.mark.usefixtures("usual_settings"),
    pytest.mark.haiku,
    pytest.mark.torch,
    pytest.mark.long,
]
hk = pytest.importorskip("haiku")
KEY = jax.random.key(0)


def vector_net(epsilon=1e-5, rate=0.3):
    def net(x, is_training=True):
        x = jax.nn.gelu(hk.Linear(8)(x), approximate=False)
        x = jax.nn.relu(hk.Linear(8)(hk.LayerNorm(-1, True, True, eps=epsilon)(x)))
        x = hk.dropout(hk.next_rng_key(), rate, x) if is_training else x
        return hk.Linear(4)(x)

    transformed = hk.transform(net)
    return transformed, transformed.init(KEY, jnp.ones((1, 6)))


class BatchNorm(hk.Module):
    """torch's, whose running variance is unbiased and begins with ones."""

    def __init__(self, decay=0.9, name=None):
        super().__init__(name)
        self.decay = decay

    def __call__(self, x, is_training):
        size = (x.shape[-1],)
        scale, offset = (
            hk.get_parameter(name, size, init=init)
            for name, init in (("scale", jnp.ones), ("offset", jnp.zeros))
        )
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        rows = x.size // x.shape[-1]
        for name, new, init in (
            ("running_mean", mean, jnp.zeros),
            ("running_var", var * rows / (rows - 1), jnp.ones),
        ):
            old = hk.get_state(name, size, init=init)
            hk.set_state(name, old * self.decay + new * (1 - self.decay))
        return (x - mean) / jnp.sqrt(var + 1e-5) * scale + offset


def image_net(own=BatchNorm, decay=0.9, pad=(1, 1)):
    def net(x, is_training):
        for i in (2, 1):
            x = hk.Conv2D(4, 3, i, padding=pad, with_bias=False)(x)
            norm = own(decay) if own is BatchNorm else own(True, True, decay)
            x = jax.nn.relu(norm(x, is_training))
        return hk.Linear(4)(hk.dropout(hk.next_rng_key(), 0.3, x).mean((1, 2)))

    transformed = hk.transform_with_state(net)
    return transformed, *transformed.init(KEY, jnp.ones((1, 6, 6, 3)), True)


def token_net(exact=True):
    def net(tokens):
        x = hk.Embed(7, 4)(tokens)
        y = hk.LayerNorm(-1, True, True)(x)
        attention = hk.MultiHeadAttention(2, 2, w_init=hk.initializers.VarianceScaling())
        x = hk.LayerNorm(-1, True, True)(x + attention(y, y, y))
        wide = jax.nn.gelu(hk.Linear(8)(x), approximate=not exact)
        return hk.Linear(7)(wide)

    transformed = hk.without_apply_rng(hk.transform(net))
    return transformed, transformed.init(KEY, jnp.ones((1, 3), int))


@pytest.mark.slow
def test_dropout_and_layers_that_haiku_has_named_are_the_same(torch_vectors):
    report = checked(torch_vectors, vector_net())
    same(report, "fc1", "norm", "fc2", "fc3")


def test_running_statistics_are_the_state(torch_images):
    report = checked(torch_images, image_net(), channels_last, steps=2)
    same(report, "conv1", "bn1", "conv2", "bn2", "fc")
    assert any(result.site == "buffer:bn2.running_var" for result in report.results)


@pytest.mark.slow
def test_attention_is_the_same_without_a_key(torch_tokens):
    same(checked(torch_tokens, token_net()), "embed", "norm1", "attention", "norm2", "wide", "out")


@pytest.mark.parametrize(
    ("options", "place", "says"),
    [
        ({"epsilon": 1e-3}, "norm", "0.001"),
        pytest.param({"rate": 0.2}, "fc3", "0.2", marks=pytest.mark.slow),
    ],
    ids=["eps", "dropout"],
)
def test_a_mistake_is_found_in_its_layer(torch_vectors, options, place, says):
    found(checked(torch_vectors, vector_net(**options)), place, says)


@pytest.mark.slow
def test_another_momentum_and_haikus_own_averages_are_found(torch_images):
    report = checked(torch_images, image_net(decay=0.99), channels_last)
    sites = {r.site for f in report.findings for r in f.results}
    assert {"buffer:bn1.running_mean", "buffer:bn2.running_var"} <= sites
    assert any("momentum" in (f.cause or "") for f in report.findings), str(report)
    report = checked(torch_images, image_net(hk.BatchNorm), channels_last)
    sites = {r.site for f in report.findings for r in f.results}
    assert "buffer:bn1.running_var" in sites, str(report)


def test_another_activation_is_found(torch_tokens):
    found(checked(torch_tokens, token_net(exact=False)), "out", "tanh")


def test_a_step_of_params_and_an_optimizers_state(torch_vectors):
    optimizer = optax.adam(1e-2)
    transformed, params = vector_net()

    def step(state, batch):
        def value(params):
            return cross_entropy(transformed.apply(params, KEY, batch[0]), batch[1]).mean()

        result, gradients = jax.value_and_grad(value)(state["params"])
        updates, opt_state = optimizer.update(gradients, state["opt_state"])
        params = optax.apply_updates(state["params"], updates)
        return {"opt_state": opt_state, "params": params}, {"loss": result}

    state = {"opt_state": optimizer.init(params), "params": params}
    report = parity.check(torch_vectors, step=step, state=state, weights="copy", steps=1)
    assert report.verdict == "same", str(report)


def test_wrong_use_is_explained(torch_vectors, torch_images):
    transformed, params = vector_net()
    with pytest.raises(SubjectError, match=r"accepted is \(transformed, params\)"):
        checked(torch_vectors, transformed)
    with pytest.raises(SubjectError, match=r"one of hk.transform with a state; accepted is"):
        checked(torch_vectors, (transformed, params, {}))
    stateful, own, _ = image_net()
    with pytest.raises(SubjectError, match=r"hk.transform_with_state without a state"):
        checked(torch_images, (stateful, own))
    less = {name: arrays for name, arrays in params.items() if name != "linear_2"}
    with pytest.raises(SubjectError, match="are not all of the model's: give what its init"):
        checked(torch_vectors, (transformed, less))
