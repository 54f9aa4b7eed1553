"""experiments/cifar2_variants.py"""

import jax
import jax.numpy as jnp
import pytest

from experiments.cifar2_variants import Config, NetResDeep, variants
from jaxnet import train, weights
from jaxnet.random import Generator

PARAMETERS = {
    "net": 18090,
    "width": 38386,
    "dropout": 38386,
    "batch_norm": 38386 + 2 * (32 + 16),
    "res": 16 * 3 * 3 * 16 + 16 + 13810,
}


@pytest.mark.parametrize("name", [*PARAMETERS, "l1", "l2", "weight_decay"])
def test_every_variant_takes_a_step(name):
    variant = variants(n_blocks=2)[name]
    model = variant.build(rngs=Generator(0))
    assert model.num_parameters == PARAMETERS.get(name, 18090)
    optimizer = variant.optimizer()
    state = train.create(model, optimizer)
    batch = jnp.ones((2, 3, 32, 32)), jnp.array([0, 1])
    _, metrics = jax.eval_shape(train.make_train_step(variant.loss, optimizer), state, batch)
    assert metrics["loss"].shape == ()


def test_weight_decay_is_the_l2_penalty():
    after = {}
    batch = jax.random.normal(jax.random.key(0), (4, 3, 32, 32)), jnp.array([0, 1, 1, 0])
    for name in ("l2", "weight_decay"):
        variant = variants(n_blocks=1)[name]
        optimizer = variant.optimizer()
        state = train.create(variant.build(rngs=Generator(0)), optimizer)
        step = jax.jit(train.make_train_step(variant.loss, optimizer))
        after[name] = step(state, batch)[0].params
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *after.values())
    assert max(gaps.values()) < 1e-6


def test_shared_blocks_are_one_block():
    shared = NetResDeep(8, 5, shared=True, rngs=Generator(0))
    separate = NetResDeep(8, 5, shared=False, rngs=Generator(0))
    assert separate.num_parameters - shared.num_parameters == 4 * (8 * 8 * 9 + 2 * 8)
    names = weights.state_dict(shared)
    assert "resblocks.4.conv.weight" in names  # repeated, as torch repeats it
    shared(jnp.ones((2, 3, 32, 32)))
    assert int(shared.resblocks[0].batch_norm.num_batches_tracked[...]) == 5


@pytest.mark.parametrize("field", ["seeds", "n_blocks"])
def test_bad_settings(field):
    with pytest.raises(ValueError, match="at least 1"):
        Config(**{field: 0}).validate()
