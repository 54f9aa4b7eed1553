"""Models inside the functions that JAX and flax transform, and what flax records in models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet import nn, optim, train, weights
from jaxnet.random import Generator

X = np.random.RandomState(0).standard_normal((6, 3)).astype(np.float32)


def total(model, x):
    return (model(x) ** 3).sum()


# The model comes from outside of the function.
CLOSED = {
    "grad": lambda model, x: jax.grad(lambda x: total(model, x))(x),
    "jvp": lambda model, x: jax.jvp(lambda x: total(model, x), (x,), (x,)),
    "jit": lambda model, x: jax.jit(lambda x: total(model, x))(x),
    "vmap": lambda model, x: jax.vmap(lambda x: total(model, x))(jnp.stack([x, x])),
    "checkpoint": lambda model, x: jax.checkpoint(lambda x: total(model, x))(x),
    "cond": lambda model, x: jax.lax.cond(x.sum() > 0, lambda: total(model, x), lambda: 0.0),
    "scan": lambda model, x: jax.lax.scan(lambda c, x: (c, total(model, x)), 0.0, x[None]),
    "eval in jit": lambda model, x: jax.jit(lambda x: total(model.eval(), x))(x),
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_change_that_would_be_lost_is_refused_with_the_ways_out(name):
    model = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match=r"nnx\.grad.*nnx\.clone\(model\).*model\.eval\(\)"):
        CLOSED[name](model, X)
    assert model.training
    assert int(model.num_batches_tracked[...]) == 0
    CLOSED[name](model.eval(), X)  # eval() of what is in evaluation mode changes nothing


# The same with the model as an argument.
OPEN = {
    "grad": lambda model, x: nnx.grad(total, argnums=1)(model, x),
    "jit": lambda model, x: nnx.jit(total)(model, x),
    "remat": lambda model, x: nnx.remat(total)(model, x),
    "cond": lambda model, x: nnx.cond(True, total, lambda model, x: 0.0, model, x),
    "scan": lambda model, x: nnx.scan(lambda model, x: (model, total(model, x)))(model, x[None]),
}


@pytest.mark.parametrize("name", OPEN)
def test_flaxs_own_forms_hand_the_change_on(name):
    model, plain = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    OPEN[name](model, X)
    plain(X)
    for (_, ours), (_, direct) in zip(model.named_buffers(), plain.named_buffers(), strict=True):
        np.testing.assert_allclose(ours[...], direct[...], rtol=1e-5, atol=1e-6)


def test_a_clone_keeps_the_change_to_itself():
    model = nn.BatchNorm1d(3)
    tangent = jnp.ones_like(X)

    def product(x):
        return jax.jvp(jax.grad(lambda x: total(nnx.clone(model), x)), (x,), (tangent,))[1]

    both = jax.jit(jax.vmap(product))(jnp.stack([X, 2 * X]))
    np.testing.assert_allclose(both[1], product(2 * X), rtol=1e-4, atol=1e-6)
    assert int(model.num_batches_tracked[...]) == 0


@pytest.mark.torch
def test_a_gradient_penalty_trains_as_torchs_does():
    """That of WGAN-GP, whose slope is taken through batch normalisation in training mode."""
    import torch

    g = Generator(0)
    model = nn.Sequential(
        nn.Linear(3, 4, bias=False, rngs=g), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1, rngs=g)
    )
    critic = torch.nn.Sequential(
        torch.nn.Linear(3, 4, bias=False), torch.nn.BatchNorm1d(4), torch.nn.Tanh()
    ).append(torch.nn.Linear(4, 1))
    start = weights.state_dict(model)
    critic.load_state_dict({name: torch.tensor(np.asarray(v)) for name, v in start.items()})

    def loss(model, batch):
        real, mixed = batch
        slope = nnx.grad(lambda model, x: model(x).sum(), argnums=1)(model, mixed)
        return 10 * ((jnp.linalg.norm(slope, axis=1) - 1) ** 2).mean() - model(real).mean()

    optimizer = optim.SGD(lr=0.05)
    step = jax.jit(train.make_train_step(loss, optimizer))
    state = train.create(model, optimizer)
    descent = torch.optim.SGD(critic.parameters(), lr=0.05)
    real, mixed = torch.tensor(X), torch.tensor(2 * X[::-1].copy(), requires_grad=True)
    for _ in range(2):
        state, _ = step(state, (X, 2 * X[::-1]))
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        descent.zero_grad()
        (10 * (slope.norm(dim=1) - 1).pow(2).mean() - critic(real).mean()).backward()
        descent.step()
    for name, value in critic.state_dict().items():
        ours = {**state.params, **state.buffers}[name]
        np.testing.assert_allclose(ours, value.numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


class Recording(nn.Module):
    def __init__(self):
        self.linear = nn.Linear(3, 2, rngs=Generator(0))

    def __call__(self, x):
        y = self.perturb("shift", self.linear(x))
        self.sow(nnx.Intermediate, "outputs", y)
        self.sow(nnx.Intermediate, "size", (y**2).sum(), init_fn=lambda: 0.0, reduce_fn=jnp.add)
        return y


@pytest.mark.filterwarnings(r"ignore:\s*Using 'Module:DeprecationWarning")
@pytest.mark.parametrize("before", [False, True])
def test_what_a_model_sows_is_no_part_of_it(before):
    model, optimizer, x = Recording(), optim.SGD(lr=0.1), np.ones((4, 3), np.float32)
    if before:
        model(x)
    assert list(weights.state_dict(model)) == ["linear.weight", "linear.bias"]

    def loss(model, x):
        plain = model(x).mean()
        return plain + model.size[...] + sum(jnp.vdot(y, y) for y in model.outputs.get_value())

    state = train.create(model, optimizer)
    assert hasattr(model, "size") is before
    after, seen = train.make_epoch(train.make_train_step(loss, optimizer), 2)(
        state, x, jnp.arange(4)
    )
    y = x[:2] @ np.asarray(model.linear.weight[...]).T + np.asarray(model.linear.bias[...])
    np.testing.assert_allclose(seen["loss"][0], y.mean() + 2 * (y**2).sum(), rtol=1e-5)
    assert after.buffers == {}
    assert train.predict(after, x, batch_size=4).shape == (4, 2)
