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


def checkpointed(model, x):
    return nn.checkpoint(lambda x: total(model, x), x)


# The model comes from outside of the function, which JAX differentiates: the statistics move once.
DIFFERENTIATED = {
    "grad": lambda model, x: jax.grad(lambda x: total(model, x))(x),
    "jvp": lambda model, x: jax.jvp(lambda x: total(model, x), (x,), (x,)),
    "hessian": lambda model, x: jax.hessian(lambda x: total(model, x))(x),
    "jacrev": lambda model, x: jax.jacrev(model)(x),
    "grad of grad": lambda model, x: jax.grad(
        lambda x: (jax.grad(lambda x: total(model, x))(x) ** 2).sum()
    )(x),
    "checkpoint": checkpointed,
    "grad of checkpoint": lambda model, x: jax.grad(lambda x: checkpointed(model, x))(x),
    "checkpoint of grad": lambda model, x: nn.checkpoint(
        lambda x: jax.grad(lambda x: total(model, x))(x), x
    ),
    "checkpoint of checkpoint": lambda model, x: nn.checkpoint(checkpointed, model, x),
}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", DIFFERENTIATED)
def test_statistics_move_once_where_a_function_is_differentiated(name, compiled):
    model, plain = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    structure, params, buffers = train.split(model)

    def moved(buffers, x):
        model = train.merge(structure, params, buffers)

        def value(x):  # as a loss inside a training step
            return sum(y.sum() for y in jax.tree.leaves(DIFFERENTIATED[name](model, x)))

        jax.grad(value)(x) if compiled else DIFFERENTIATED[name](model, x)
        return train.split(model)[2]

    found = (jax.jit(moved) if compiled else moved)(buffers, jnp.asarray(X))
    plain(X)
    for which, direct in plain.named_buffers():
        np.testing.assert_allclose(found[which], direct[...], rtol=1e-5, atol=1e-6)


def test_the_mode_changes_where_a_function_is_differentiated():
    model = nn.BatchNorm1d(3)
    jax.grad(lambda x: total(model.eval(), x))(X)
    assert not model.training
    assert int(model.num_batches_tracked[...]) == 0


# The model comes from outside of the function, of which JAX makes another one.
CLOSED = {
    "jit": lambda model, x: jax.jit(lambda x: total(model, x))(x),
    "grad of jit": lambda model, x: jax.grad(jax.jit(lambda x: total(model, x)))(x),
    "vmap": lambda model, x: jax.vmap(lambda x: total(model, x))(jnp.stack([x, x])),
    "checkpoint": lambda model, x: jax.checkpoint(lambda x: total(model, x))(x),
    "cond": lambda model, x: jax.lax.cond(x.sum() > 0, lambda: total(model, x), lambda: 0.0),
    "scan": lambda model, x: jax.lax.scan(lambda c, x: (c, total(model, x)), 0.0, x[None]),
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_change_that_would_be_lost_is_refused_with_the_ways_out(name):
    model = nn.BatchNorm1d(3)
    said = r"nn\.checkpoint.*nnx\.jit.*nnx\.clone\(model\).*model\.eval\(\)"
    with pytest.raises(ValueError, match=said):
        CLOSED[name](model, X)
    assert int(model.num_batches_tracked[...]) == 0
    CLOSED[name](model.eval(), X)  # eval() of what is in evaluation mode changes nothing


def test_the_mode_does_not_change_in_a_compiled_function():
    model = nn.BatchNorm1d(3)
    compiled = jax.jit(lambda x: total(model.eval(), x))
    with pytest.raises(ValueError, match=r"BatchNorm1d\.training cannot.*model\.eval\(\) and"):
        compiled(X)
    assert model.training
    model.eval()
    np.testing.assert_allclose(compiled(X), total(model, X), rtol=1e-5)


def test_a_value_with_a_derivative_does_not_leave_it():
    model = nn.Module()
    model.hidden = nn.Buffer(jnp.zeros(()))

    def keep(x, value):
        model.hidden[...] = value(x).sum()
        return x.sum()

    jax.grad(lambda x: keep(x, jax.lax.stop_gradient))(X)
    assert model.hidden[...] == X.sum()
    with pytest.raises(ValueError, match=r"a buffer takes jax\.lax\.stop_gradient\(value\)"):
        jax.grad(lambda x: keep(x, lambda x: x))(X)
    assert model.hidden[...] == X.sum()


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


def critics(torch):
    """The same critic with batch normalisation here and in PyTorch, in float64."""
    g = Generator(0)
    model = nn.Sequential(
        nn.Linear(3, 4, bias=False, rngs=g), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1, rngs=g)
    ).double()
    critic = torch.nn.Sequential(
        torch.nn.Linear(3, 4, bias=False), torch.nn.BatchNorm1d(4), torch.nn.Tanh()
    ).append(torch.nn.Linear(4, 1))
    critic.double()
    start = weights.state_dict(model)
    critic.load_state_dict({name: torch.tensor(np.asarray(v)) for name, v in start.items()})
    return model, critic


def close(state, critic):
    ours = {**state.params, **state.buffers}
    for name, value in critic.state_dict().items():
        np.testing.assert_allclose(ours[name], value.numpy(), rtol=0, atol=1e-10, err_msg=name)


@pytest.mark.torch
@pytest.mark.parametrize("word", ["jax.grad", "nnx.grad"])
def test_a_gradient_penalty_trains_as_torchs_does(word):
    """That of WGAN-GP, whose slope is taken through batch normalisation in training mode."""
    import torch

    def slope_of(model, x):
        if word == "nnx.grad":
            return nnx.grad(lambda model, x: model(x).sum(), argnums=1)(model, x)
        return jax.grad(lambda x: model(x).sum())(x)

    def loss(model, batch):
        real, mixed = batch
        slope = slope_of(model, mixed)
        return 10 * ((jnp.linalg.norm(slope, axis=1) - 1) ** 2).mean() - model(real).mean()

    with jax.enable_x64(True):
        model, critic = critics(torch)
        optimizer = optim.SGD(lr=0.05)
        step = jax.jit(train.make_train_step(loss, optimizer))
        state = train.create(model, optimizer)
        descent = torch.optim.SGD(critic.parameters(), lr=0.05)
        batch = X.astype(np.float64), 2 * X[::-1].astype(np.float64)
        real, mixed = torch.tensor(batch[0]), torch.tensor(batch[1], requires_grad=True)
        for _ in range(2):
            state, _ = step(state, batch)
            (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
            descent.zero_grad()
            (10 * (slope.norm(dim=1) - 1).pow(2).mean() - critic(real).mean()).backward()
            descent.step()
        close(state, critic)


@pytest.mark.torch
def test_a_checkpointed_block_trains_as_torchs_does():
    """Torch moves the statistics of a checkpointed block twice, so its block is not one."""
    import torch

    def loss(model, x):
        hidden = nn.checkpoint(lambda x, shift=0: model[1](model[0](x)) + shift, x, shift=1)
        return nn.checkpoint(model[3], nn.checkpoint(model[2], hidden), use_reentrant=False).sum()

    with jax.enable_x64(True):
        model, critic = critics(torch)
        optimizer = optim.SGD(lr=0.05)
        step = jax.jit(train.make_train_step(loss, optimizer))
        state = train.create(model, optimizer)
        descent = torch.optim.SGD(critic.parameters(), lr=0.05)
        x = X.astype(np.float64)
        for _ in range(2):
            state, _ = step(state, x)
            descent.zero_grad()
            critic[3](critic[2](critic[1](critic[0](torch.tensor(x))) + 1)).sum().backward()
            descent.step()
        close(state, critic)


def test_a_checkpointed_block_is_computed_again_with_the_same_draws():
    model = nn.Sequential(nn.Linear(3, 8, rngs=Generator(0)), nn.Dropout(0.5), nn.Tanh())
    runs = []
    for run in (lambda f, x: f(x), nn.checkpoint):
        optimizer = optim.SGD(lr=0.1)
        step = train.make_train_step(lambda model, x, run=run: run(model, x).sum(), optimizer)
        state = train.create(model, optimizer)
        runs.append(jax.jit(step)(state, X)[0].params)
        program = str(jax.make_jaxpr(step)(state, X))
        assert program.count("tanh") == (2 if run is nn.checkpoint else 1)
    jax.tree.map(np.testing.assert_array_equal, *runs)
    with pytest.raises(TypeError, match="function: ndarray; accepted is"):
        nn.checkpoint(X, model)


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
