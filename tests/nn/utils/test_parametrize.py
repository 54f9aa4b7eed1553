"""jaxnet/nn/utils/parametrize.py, parametrizations.py, and torch's older forms of two of them."""

import contextlib
import pickle
from copy import deepcopy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxnet import checkpoint, losses, nn, optim, train, weights
from jaxnet.nn.utils import parametrizations, parametrize
from jaxnet.random import Generator
from tests.rows.nn_utils import ORTH, SN, WN, through
from tests.table import table
from tests.tolerances import distance, tolerance

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")

TestComputedWeights = table("nn_utils")


def linear(*size, seed=0):
    return nn.Linear(*(size or (3, 3)), rngs=Generator(seed))


def arrays(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def assert_same(ours, theirs, dtype):
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert distance("forward", ours[name], value) <= tolerance("forward", dtype), name


FIRST = [("spectral_norm", {}), (SN, {}), (WN, {})]
FIRST += [
    (ORTH, {"orthogonal_map": name, "use_trivialization": use})
    for name in ("matrix_exp", "cayley", "householder")
    for use in (True, False)
]


@pytest.mark.torch
@pytest.mark.parametrize("size", [(3, 3), (3, 2)])
@pytest.mark.parametrize(("function", "kwargs"), FIRST)
def test_the_first_arrays_are_torchs(function, kwargs, size):
    import torch

    x = np.random.RandomState(0).standard_normal((2, size[0])).astype(np.float32)
    for seed in range(2):
        torch.manual_seed(seed)
        generator = Generator(seed)
        theirs = through(function, **kwargs)(torch.nn.Linear(*size))
        ours = through(function, generator, **kwargs)(nn.Linear(*size, rngs=generator))
        assert_same(weights.state_dict(ours), arrays(theirs), "float32")
        # In float64, since torch's matrix_exp in float32 is off by 2e-5.
        outputs = theirs.double()(torch.tensor(x).double()).detach().numpy()
        assert distance("forward", ours(x), outputs) <= tolerance("forward", "float32")


def discriminator(lib, spectral_norm, **rngs):
    return lib.Sequential(
        spectral_norm(lib.Conv2d(1, 3, 3, stride=2, **rngs)),
        lib.LeakyReLU(0.2),
        lib.Flatten(),
        spectral_norm(lib.Linear(3 * 2 * 2, 1, **rngs)),
    )


def hinge(model, real, made, relu):
    return relu(1 - model(real)).mean() + relu(1 + model(made)).mean()


@pytest.mark.torch
@pytest.mark.parametrize("function", ["spectral_norm", SN])
@pytest.mark.parametrize("once", [False, True])
def test_a_discriminator_trains_as_in_torch(function, once):
    """Ten steps of the hinge loss, where the two calls of a step move u and v, or only one."""
    import torch

    drawn = np.random.RandomState(1)
    batches = drawn.standard_normal((10, 2, 4, 1, 5, 5))
    torch.manual_seed(4)
    theirs = discriminator(torch.nn, through(function)).double()
    cached = torch.nn.utils.parametrize.cached if once else contextlib.nullcontext
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    with jax.enable_x64(True):
        generator = Generator(4)
        ours = discriminator(nn, through(function, generator), rngs=generator).double()
        weights.load_state_dict(ours, arrays(theirs))

        def loss(model, batch):
            with parametrize.cached() if once else contextlib.nullcontext():
                return hinge(model, *batch, jax.nn.relu)

        optimizer = optim.Adam(lr=1e-2)
        state = train.create(ours, optimizer)
        step = jax.jit(train.make_train_step(loss, optimizer))
        for batch in batches:
            state, metrics = step(state, tuple(batch))
            adam.zero_grad()
            with cached():
                value = hinge(theirs, *torch.tensor(batch), torch.relu)
            value.backward()
            adam.step()
            assert abs(float(metrics["loss"]) - value.item()) <= 1e-10
        trained = weights.state_dict(state.model())
    assert_same(trained, arrays(theirs), "float64")


@pytest.mark.torch
@pytest.mark.parametrize("function", ["weight_norm", WN])
def test_a_weight_normed_lstm_trains_as_in_torch(function):
    import torch

    drawn = np.random.RandomState(2)
    batches = drawn.standard_normal((10, 4, 2, 3))
    norm = through(function, name="weight_hh_l0")
    torch.manual_seed(4)
    theirs = norm(torch.nn.LSTM(3, 3)).double()
    sgd = torch.optim.SGD(theirs.parameters(), lr=0.5, momentum=0.9)
    with jax.enable_x64(True):
        ours = norm(nn.LSTM(3, 3, rngs=Generator(4), dtype=jnp.float64))
        weights.load_state_dict(ours, arrays(theirs))
        optimizer = optim.SGD(lr=0.5, momentum=0.9)
        state = train.create(ours, optimizer)
        step = jax.jit(
            train.make_train_step(lambda model, x: losses.mse_loss(model(x)[0], x), optimizer)
        )
        for batch in batches:
            state, _ = step(state, batch)
            sgd.zero_grad()
            given = torch.tensor(batch)
            torch.nn.functional.mse_loss(theirs(given)[0], given).backward()
            sgd.step()
        trained = weights.state_dict(state.model())
    assert_same(trained, arrays(theirs), "float64")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("older", "newer"), [("weight_norm", WN), ("spectral_norm", SN)], ids=["weight", "spectral"]
)
def test_state_dicts_of_both_forms_are_read(older, newer):
    import torch

    ours, other = through(older)(linear()), through(newer)(linear(seed=1))
    forms = through(older)(torch.nn.Linear(3, 3)), through(newer)(torch.nn.Linear(3, 3))
    x = np.ones((1, 3), np.float32)
    for theirs in forms:
        theirs.eval()
        expected = theirs(torch.tensor(x)).detach().numpy()
        for module in (ours.eval(), other.eval(), nn.Sequential(other)):
            nested = isinstance(module, nn.Sequential)
            state = {f"0.{n}" if nested else n: a for n, a in arrays(theirs).items()}
            assert weights.load_state_dict(module, state) == ([], [])
            assert distance("forward", module(x), expected) <= tolerance("forward", "float32")
    # What is written has the names of the form in use, so torch reads it.
    for theirs, module in zip(forms, (ours, other), strict=True):
        written = {n: torch.tensor(a) for n, a in weights.state_dict(module).items()}
        theirs.load_state_dict(written)
    both = {**weights.state_dict(ours), **weights.state_dict(other)}
    with pytest.raises(ValueError, match="unexpected"):
        weights.load_state_dict(other, both)


class Doubled(nn.Module):
    def __call__(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x / 2


class Symmetric(nn.Module):
    def __call__(self, x):
        return jnp.triu(x) + jnp.triu(x, 1).T


def test_parametrizations_of_ones_own():
    layer = linear()
    before = layer.weight[...]
    weight = layer.weight
    parametrize.register_parametrization(layer, "weight", Doubled())
    assert parametrize.is_parametrized(layer)
    assert parametrize.is_parametrized(layer, "weight")
    assert not parametrize.is_parametrized(layer, "bias")
    assert isinstance(layer, nn.Linear)
    assert type(layer).__name__ == "ParametrizedLinear"
    assert parametrize.type_before_parametrizations(layer) is nn.Linear
    # The parameter stays the same object, so that it stays shared.
    assert layer.parametrizations["weight"].original is weight
    np.testing.assert_array_equal(layer.weight, before)
    np.testing.assert_array_equal(weight[...], before / 2)
    layer.weight = jnp.ones((3, 3))
    np.testing.assert_array_equal(weight[...], 0.5 * np.ones((3, 3)))
    layer.weight = nn.Parameter(before)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    symmetric = np.triu(before) + np.triu(before, 1).T
    np.testing.assert_array_equal(layer.weight, symmetric)
    assert [name for name, _ in layer.named_parameters()] == [
        "bias",
        "parametrizations.weight.original",
    ]
    with pytest.raises(ValueError, match="Symmetric defines none"):
        layer.weight = before
    parametrize.register_parametrization(layer, "bias", Doubled())
    parametrize.remove_parametrizations(layer, "weight")
    assert layer.weight is weight
    np.testing.assert_array_equal(weight[...], symmetric)
    parametrize.remove_parametrizations(layer, "bias", leave_parametrized=False)
    assert type(layer) is nn.Linear
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


def test_removing_gives_a_plain_layer():
    x = np.random.RandomState(0).standard_normal((2, 3)).astype(np.float32)
    for function in ("weight_norm", "spectral_norm", WN, SN, ORTH):
        layer = through(function)(linear()).eval()
        output = layer(x)
        if "." in function:
            parametrize.remove_parametrizations(layer, "weight")
        else:
            getattr(nn.utils, f"remove_{function}")(layer)
        assert type(layer) is nn.Linear
        assert list(weights.state_dict(layer)) == ["bias", "weight"]
        assert not list(layer.named_buffers())
        np.testing.assert_allclose(layer(x), output, rtol=1e-5, atol=1e-6)


def test_hooks_stay_with_a_layer_whose_class_changes():
    layer, seen = linear(), []
    layer.register_forward_hook(lambda module, args, output: seen.append(type(module).__name__))
    for change in (through("weight_norm"), through(WN, name="bias"), nn.utils.remove_weight_norm):
        change(layer)
        layer(jnp.ones((1, 3)))
    parametrize.remove_parametrizations(layer, "bias")
    layer(jnp.ones((1, 3)))
    assert seen == ["Linear", "ParametrizedLinear", "ParametrizedLinear", "Linear"]


def test_reading_and_calling_move_the_vectors_as_in_torch():
    """The newer form moves them whenever the weight is read, the older one in calls only."""
    for function, moves in (("spectral_norm", False), (SN, True)):
        layer = through(function)(linear())
        (u, _) = (buffer for _, buffer in layer.named_buffers())

        def moved(read, u=u):
            before = u[...]
            read()
            return bool((u[...] != before).any())

        assert moved(lambda layer=layer: layer(jnp.ones((1, 3))))
        assert moved(lambda layer=layer: layer.weight) is moves
        layer.eval()
        assert not moved(lambda layer=layer: layer(jnp.ones((1, 3))))


def test_a_weight_is_computed_once_in_a_call_and_in_cached():
    class Counting(nn.Module):
        def __call__(self, x):
            calls.append(x)
            return x

    class Twice(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter(jnp.ones(3))

        def __call__(self, x):
            return x @ self.weight[...] + self.weight[...].sum()

    calls: list[object] = []
    model = parametrize.register_parametrization(Twice(), "weight", Counting())
    calls.clear()
    model(jnp.ones(3))
    assert len(calls) == 1
    with parametrize.cached():
        model(jnp.ones(3))
        with parametrize.cached():
            model(jnp.ones(3))
        assert model.weight.shape == (3,)
        assert len(calls) == 2
    model(jnp.ones(3))
    assert len(calls) == 3


@pytest.mark.slow
def test_models_go_through_jax_and_flax(tmp_path):
    def build():
        generator = Generator(0)
        return nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(3, 4, rngs=generator), rngs=generator),
            nn.utils.weight_norm(nn.Linear(4, 2, rngs=generator)),
            parametrizations.orthogonal(nn.Linear(2, 2, rngs=generator)),
        )

    model, x = build(), jnp.ones((2, 3))
    optimizer = optim.SGD(0.1)
    # Models that are built alike share compiled programs.
    assert train.create(model, optimizer).structure == train.create(build(), optimizer).structure
    copy = nnx.clone(model)
    np.testing.assert_array_equal(model(x), nnx.jit(lambda m, x: m(x))(copy, x))
    for (name, ours), (_, theirs) in zip(model.named_buffers(), copy.named_buffers(), strict=True):
        np.testing.assert_allclose(ours[...], theirs[...], rtol=1e-6, err_msg=name)
    model.eval()
    np.testing.assert_allclose(jax.jit(lambda x: model(x))(x), model(x), rtol=1e-6)
    for again in (copy, pickle.loads(pickle.dumps(model)), deepcopy(model)):
        np.testing.assert_allclose(again.eval()(x), model(x), rtol=1e-6)
    seen = []

    def note(call, proceed):
        seen.append(call.name)
        return proceed(*call.args, **call.kwargs)

    with nn.intercept(model, note):
        model(x)
    assert seen == [
        "",
        "0",
        "0.parametrizations.weight",
        "0.parametrizations.weight.0",
        "1",
        "2",
        "2.parametrizations.weight",
        "2.parametrizations.weight.0",
    ]
    counts = {row.name: row.parameters for row in nn.summary(model, (2, 3)).rows}
    assert counts["0.parametrizations.weight"] == 12
    assert counts["1"] == 2 + 2 + 8
    narrow = train.make_train_step(
        lambda model, x: model(x).sum(), optimizer, compute_dtype=jnp.bfloat16
    )
    state, _ = narrow(train.create(model, optimizer), x)
    with checkpoint.Checkpoints(tmp_path) as saved:
        saved.save(1, state)
        restored = saved.restore(train.create(build(), optimizer)).state
    assert_same(weights.state_dict(restored.model()), weights.state_dict(state.model()), "float64")
    assert {a.dtype.name for a in (state.params | state.buffers).values()} == {"float32"}


REFUSED = [
    (lambda: nn.utils.weight_norm(linear(), "wait"), ValueError, r"'wait' is no array.*'weight'"),
    (lambda: nn.utils.weight_norm(linear(), dim=2), ValueError, "dim: 2; the weight has 2 axes"),
    (lambda: nn.utils.weight_norm(linear(), dim="0"), TypeError, "dim: '0'"),
    (lambda: nn.utils.weight_norm(jnp.ones(3)), TypeError, "accepted is a jaxnet.nn.Module"),
    (
        lambda: nn.utils.weight_norm(nn.utils.weight_norm(linear())),
        ValueError,
        "'weight' is computed from other arrays already",
    ),
    (lambda: nn.utils.remove_weight_norm(linear()), ValueError, "of 'weight' not found"),
    (lambda: nn.utils.remove_spectral_norm(linear()), ValueError, "of 'weight' not found"),
    (
        lambda: setattr(nn.utils.weight_norm(linear()), "weight", jnp.ones((3, 3))),
        ValueError,
        "assign weight_g and weight_v",
    ),
    (lambda: parametrizations.weight_norm(linear(), "wait"), ValueError, "'wait' is no array"),
    (lambda: parametrizations.spectral_norm(linear()), TypeError, "rngs is missing"),
    (
        lambda: parametrizations.spectral_norm(linear(), n_power_iterations=0, rngs=Generator(0)),
        ValueError,
        "n_power_iterations: 0",
    ),
    (
        lambda: parametrizations.spectral_norm(linear(), dim=2, rngs=Generator(0)),
        ValueError,
        "dim: 2",
    ),
    (lambda: parametrizations.orthogonal(linear(), "bias"), ValueError, r"shape \(3,\)"),
    (lambda: parametrizations.orthogonal(linear(2, 3)), TypeError, "rngs is missing"),
    (
        lambda: parametrizations.orthogonal(linear(), orthogonal_map="qr"),
        ValueError,
        "orthogonal_map: 'qr'",
    ),
    (
        lambda: parametrizations.orthogonal(parametrizations.weight_norm(linear())),
        ValueError,
        "use_trivialization: True",
    ),
    (
        lambda: parametrize.register_parametrization(linear(), "weight", jnp.triu),
        TypeError,
        "accepted is an nn.Module",
    ),
    (
        lambda: parametrize.register_parametrization(linear(), "weight", nn.Flatten(0)),
        ValueError,
        r"it gave float32\[9\] in place of float32\[3, 3\]",
    ),
    (lambda: parametrize.remove_parametrizations(linear(), "weight"), ValueError, "has none of"),
    (
        lambda: parametrize.remove_parametrizations(
            parametrizations.weight_norm(linear()), "weight", leave_parametrized=False
        ),
        ValueError,
        "computed from 2 arrays",
    ),
]


@pytest.mark.parametrize(("call", "error", "says"), REFUSED)
def test_what_is_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
