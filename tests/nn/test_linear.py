"""jaxnet/nn/_linear.py"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import _kernels as kernels
from jaxnet import nn
from jaxnet.nn import _linear as functions
from jaxnet.random import Generator
from tests.table import table
from tests.tolerances import distance, tolerance

TestLinear = table("nn_linear")


def test_wrong_shape_says_layer_expected_and_given():
    layer = nn.Linear(3, 2, rngs=Generator(0))
    with pytest.raises(
        ValueError, match=r"Linear\(in_features=3.*shape \(\.\.\., 3\); it got \(5, 4\)"
    ):
        layer(jnp.zeros((5, 4)))
    with pytest.raises(ValueError, match=r"it got \(\)"):
        layer(jnp.zeros(()))


def test_linear_takes_a_weight_of_one_dimension():
    assert functions.linear(jnp.ones((4, 3)), jnp.ones(3)).shape == (4,)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 512, 256), (3, 701, 99), (8, 9, 9000)])
def test_a_large_weight_and_few_rows_are_a_product(rows, inputs, outputs):
    rng = np.random.RandomState(0)
    x, w, v = (
        jnp.asarray(rng.standard_normal(shape).astype(np.float32) / 16)
        for shape in ((rows, inputs), (outputs, inputs), (outputs, inputs))
    )
    if kernels.available():
        assert "jaxnet_few_rows" in jax.jit(functions.linear).lower(x, w).as_text()
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64).T
    product = jax.jit(functions.linear)(x, w)
    assert distance("forward", product, exact) <= tolerance("forward", "float32")

    def everything(product):
        def loss(x, w):
            return jnp.sum(jnp.tanh(product(x, w)) ** 2)

        def along(x, w):
            return jnp.vdot(jax.grad(loss, 1)(x, w), v)

        return (
            jax.grad(loss, (0, 1))(x, w),
            jax.grad(loss)(x, w),
            jax.grad(along, (0, 1))(x, w),
            jax.jvp(loss, (x, w), (x, v)),
            jax.vmap(jax.grad(loss, 1), (None, 0))(x, jnp.stack([w, v])),
        )

    ours = jax.jit(lambda: everything(functions.linear))()
    plain = jax.jit(lambda: everything(lambda x, w: x @ w.T))()
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        assert distance("gradient", a, b) <= tolerance("gradient", "float32")


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_a_linear_without_inputs_or_outputs_leaves_the_generator_as_torch_does(shape):
    """torch draws the bias of Linear(0, 3), though it comes out as zeros."""
    g = Generator(0)
    layer = nn.Linear(*shape, rngs=g)
    assert layer.weight.shape == shape[::-1]
    assert (np.asarray(layer.bias[...]) == 0).all()
    following = {(0, 3): 0.13203049, (3, 0): 0.49625659}[shape]
    assert g.rand() == np.float32(following)


@pytest.mark.parametrize(
    ("first", "second"),
    [((5, 2), (5, 4)), ((1, 2), (5, 3)), ((5, 2), (3,)), ((), (3,)), ((5, 3), (5, 2))],
)
def test_bilinear_takes_no_other_shapes(first, second):
    layer = nn.Bilinear(2, 3, 4, rngs=Generator(0))
    with pytest.raises(ValueError, match=r"Bilinear\(in1_features=2.*accepted are \(\.\.\., 2\)"):
        layer(jnp.zeros(first), jnp.zeros(second))
    with pytest.raises(ValueError, match="in1_features=0; it must be above 0"):
        nn.Bilinear(0, 3, 4, rngs=Generator(0))


@pytest.mark.parametrize(
    ("dims", "shape", "flat"),
    [((0, -1), (), (1,)), ((-1,), (), (1,)), ((0,), (0, 2), (0,)), ((1,), (0, 2, 2), (0, 4)),
     ((1, 1), (2, 3, 4), (2, 3, 4)), ((-2, -1), (2, 3, 4), (2, 12))],
)  # fmt: skip
def test_flatten_edges(dims, shape, flat):
    assert nn.Flatten(*dims)(jnp.zeros(shape)).shape == flat


@pytest.mark.parametrize(("dims", "shape"), [((), ()), ((), (3,)), ((0, 5), (3, 2)), ((-3,), (2,))])
def test_flatten_of_an_axis_that_is_not_there(dims, shape):
    with pytest.raises(ValueError, match=r"_dim=-?\d for an input of shape .*accepted is"):
        nn.Flatten(*dims)(jnp.zeros(shape))


def test_flatten_backwards():
    with pytest.raises(ValueError, match="start_dim=2 lies behind end_dim=1"):
        nn.Flatten(2, 1)(jnp.zeros((2, 2, 2)))


def test_flatten_keeps_the_order_of_channels_rows_columns():
    image = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    flat = np.asarray(nn.Flatten()(jnp.asarray(image)))
    assert flat.tolist() == [list(range(12)), list(range(12, 24))]
    channels_last = image.transpose(0, 2, 3, 1).reshape(2, -1)
    assert not np.array_equal(flat, channels_last)


@pytest.mark.parametrize(
    ("sizes", "length"),
    [((2, 4), 6), ((-1, -1), 6), ((), 6), ((-2, 3), 6), ((2, -1), 5), ((0, -1), 0)],
)
def test_unflatten_takes_no_other_sizes(sizes, length):
    with pytest.raises(ValueError, match="do not multiply up to axis 1"):
        nn.Unflatten(1, sizes)(jnp.zeros((2, length)))


def test_unflatten_says_what_it_takes():
    with pytest.raises(TypeError, match="JAX has no named axes"):
        nn.Unflatten("features", (2, 3))
    with pytest.raises(TypeError, match=r"\('a', 2\) in unflattened_size; give whole numbers"):
        nn.Unflatten(1, (("a", 2), ("b", 3)))
    with pytest.raises(TypeError, match="unflattened_size=6; give a tuple"):
        nn.Unflatten(1, 6)
    with pytest.raises(ValueError, match="dim=3 for an input of shape"):
        nn.Unflatten(3, (2, 3))(jnp.zeros((2, 6)))


def test_identity_takes_any_arguments():
    x = jnp.ones(3)
    assert nn.Identity(54, unused=1)(x) is x
