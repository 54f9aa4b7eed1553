"""Models of flax.linen, equinox, haiku and plain functions beside one PyTorch program each."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from jaxnet import parity
from jaxnet._intercept import intercept
from jaxnet.parity._alone import by_values, orders_of, usual_order
from jaxnet.parity._foreign_model import Form, as_float64, norm_names
from jaxnet.parity._libraries import foreign_model, library_of
from jaxnet.parity._model_forms import code_of
from jaxnet.parity._port import SubjectError, load_port
from jaxnet.parity._pytree_step import pytree_place
from jaxnet.parity._trace import read
from jaxnet.parity._widened import widened

STEPS = 2

pytestmark = pytest.mark.usefixtures("usual_settings")
cross_entropy = optax.softmax_cross_entropy_with_integer_labels


def loss(model, batch):
    inputs, targets = batch
    return cross_entropy(model(inputs), targets).mean()


def channels_last(model, batch):
    inputs, targets = batch
    return loss(model, (inputs.transpose(0, 2, 3, 1), targets))


def checked(trace, model, criterion=loss, optimizer=None, **options):
    given = {"weights": "copy", "steps": 1, **options}
    return parity.check(trace, model, criterion, optimizer or optax.adam(1e-2), **given)


def same(report, *modules):
    assert report.verdict == "same", str(report)
    assert report.coverage["modules"].seen == modules
    assert not report.coverage["modules"].missing


def found(report, place, says):
    """One difference, where it was planted, with its cause."""
    assert report.verdict == "different"
    assert len({finding.origin for finding in report.findings}) == 1, str(report)
    first = report.findings[0]
    assert place in f"{first.origin} {first.site}", str(report)
    assert says in (first.cause or ""), str(report)


# -- flax.linen


class LinenNet(linen.Module):
    epsilon: float = 1e-5
    dtype: object = None

    @linen.compact
    def __call__(self, x, train):
        x = linen.gelu(linen.Dense(8, dtype=self.dtype)(x), approximate=False)
        x = linen.LayerNorm(epsilon=self.epsilon)(x)
        x = linen.relu(linen.Dense(8)(x))
        return linen.Dense(4)(linen.Dropout(0.3, deterministic=not train)(x))


def linen_net(**options):
    module = LinenNet(**options)
    return module, module.init(jax.random.key(0), jnp.ones((1, 6)), train=False)


@pytest.mark.torch
@pytest.mark.slow
def test_linen_is_the_same_also_where_it_names_float32(torch_vectors):
    report = checked(torch_vectors, linen_net(dtype=jnp.float32), cross_entropy_of_model)
    same(report, "fc1", "norm", "fc2", "fc3")
    assert report.notes[0].startswith("4 layers of the model have their partners in torch's")


def cross_entropy_of_model(model, batch):
    """A loss that reads the parameters too, and gives the flag itself."""
    nothing = 0 * sum(jnp.sum(p) for p in jax.tree.leaves(model.params))
    return cross_entropy(model(batch[0], train=True), batch[1]).mean() + nothing


@pytest.mark.torch
@pytest.mark.long
def test_a_mistake_in_linen_is_found_in_its_layer(torch_vectors):
    found(checked(torch_vectors, linen_net(epsilon=1e-3)), "norm", "0.001")


@pytest.mark.torch
@pytest.mark.long
def test_a_step_of_linens_train_state_is_the_same(torch_vectors):
    from flax.training.train_state import TrainState

    module, variables = linen_net()
    state = TrainState.create(
        apply_fn=module.apply, params=variables["params"], tx=optax.adam(1e-2)
    )

    @jax.jit
    def step(state, batch):
        def value(params):
            key = jax.random.fold_in(jax.random.key(0), state.step)
            outputs = module.apply({"params": params}, batch[0], train=True, rngs={"dropout": key})
            return cross_entropy(outputs, batch[1]).mean()

        result, gradients = jax.value_and_grad(value)(state.params)
        return state.apply_gradients(grads=gradients), {"loss": result}

    report = parity.check(torch_vectors, step=step, state=state, weights="copy")
    assert report.verdict == "same", str(report)
    assert any(
        line.split() == ["Dense_1", "=", "fc2", "(shapes)"] for line in report.subject["layers"]
    )


@pytest.mark.torch
@pytest.mark.long
def test_what_a_linen_model_lacks_is_said(torch_vectors, torch_images):
    module, _ = linen_net()
    with pytest.raises(SubjectError, match=r"accepted is \(module, variables\)"):
        checked(torch_vectors, module)
    with pytest.raises(
        SubjectError, match=r"collections batch_stats; accepted is what module.init"
    ):
        checked(torch_vectors, (module, {"batch_stats": {}}))

    class Normed(linen.Module):
        @linen.compact
        def __call__(self, x, *args):
            return linen.BatchNorm(*args)(x.mean((2, 3)))

    own = Normed().init(jax.random.key(0), jnp.ones((1, 3, 6, 6)), True)
    with pytest.raises(SubjectError, match="give its __call__ an argument train"):
        checked(torch_images, (Normed(), own))

    class Flagged(linen.Module):
        @linen.compact
        def __call__(self, x, learning):
            return linen.BatchNorm(use_running_average=not learning)(x)

    with pytest.raises(SubjectError, match="needs 'learning', which the loss does not give"):
        checked(torch_vectors, (Flagged(), own))

    class Trained(linen.Module):
        @linen.compact
        def __call__(self, x, train):
            return linen.BatchNorm(use_running_average=not train)(x.mean((2, 3)))

    with pytest.raises(SubjectError, match=r"have the collections params. Give all that"):
        checked(torch_images, (Trained(), {"params": own["params"]}))


class Sown(LinenNet):
    @linen.compact
    def __call__(self, x, train):
        x = super().__call__(x, train)
        self.sow("losses", "squares", (x**2).mean())
        return x


def sown():
    module = Sown()
    return module, module.init(jax.random.key(0), jnp.ones((1, 6)), train=False)


@pytest.mark.torch
@pytest.mark.slow
def test_a_collection_that_grows_is_to_be_left_out(torch_vectors):
    module, variables = sown()
    with pytest.raises(SubjectError, match=r"adds to the collection 'losses', .* and give params"):
        checked(torch_vectors, (module, variables))
    report = checked(torch_vectors, (module, {"params": variables["params"]}))
    same(report, "fc1", "norm", "fc2", "fc3")


# -- plain functions


def network(params, x, key, epsilon=1e-5, rate=0.3, train=True):
    """A network of a dictionary of arrays."""
    x = jax.nn.gelu(x @ params["fc1"]["w"] + params["fc1"]["b"], approximate=False)
    x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + epsilon)
    x = x * params["norm"]["scale"] + params["norm"]["bias"]
    x = jax.nn.relu(x @ params["fc2"]["w"] + params["fc2"]["b"])
    x = jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)
    return x @ params["fc3"]["w"] + params["fc3"]["b"]


def converted(trace):
    """torch's first weights in the layouts of `network`."""
    first = read(trace).steps[0]

    def layer(name, transposed=True):
        weight, bias = first[f"before:{name}.weight"], first[f"before:{name}.bias"]
        return jnp.asarray(weight.T if transposed else weight), jnp.asarray(bias)

    names = {name: dict(zip("wb", layer(name), strict=True)) for name in ("fc1", "fc2", "fc3")}
    scale, bias = layer("norm", transposed=False)
    return names | {"norm": {"scale": scale, "bias": bias}}


@pytest.mark.torch
@pytest.mark.long
def test_a_plain_function_is_the_same_and_the_report_says_what_it_did_not_see(torch_vectors):
    report = checked(torch_vectors, (network, converted(torch_vectors)), weights="own", steps=STEPS)
    same(report, "")
    (why,) = report.coverage["layers"].missing.values()
    assert why.startswith("network is a function without layers: outputs, losses, gradients")


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "given", "place", "says"),
    [
        ({"epsilon": 1e-2}, {}, "forward:#0", ""),
        pytest.param({"rate": 0.2}, {}, "forward:#0", "", marks=pytest.mark.slow),
        ({}, {"criterion": lambda m, b: cross_entropy(m(b[0]), b[1]).sum()}, "loss", "'sum'"),
        ({}, {"optimizer": optax.adamw(1e-2, weight_decay=1e-2)}, "optimizer", "decay of 0.01"),
    ],
    ids=["model", "dropout", "loss", "optimizer"],
)
def test_a_mistake_in_a_plain_function_is_found(torch_vectors, options, given, place, says):
    model = functools.partial(network, **options), converted(torch_vectors)
    found(checked(torch_vectors, model, **{"weights": "own", **given}), place, says)


@pytest.mark.torch
@pytest.mark.long
def test_a_step_of_parameters_and_what_it_returns(torch_vectors):
    optimizer, params = optax.adam(1e-2), converted(torch_vectors)

    def step(state, batch):
        params, opt_state = state

        def value(params):
            return cross_entropy(network(params, batch[0], jax.random.key(0)), batch[1]).mean()

        result, gradients = jax.value_and_grad(value)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), result

    state = params, optimizer.init(params)
    report = parity.check(torch_vectors, step=step, state=state, steps=1)
    assert report.verdict == "same", str(report)
    broken = parity.check(torch_vectors, step=lambda state, batch: 1.0, state=state, steps=1)
    assert broken.verdict != "same"
    assert "it returned a float; accepted is the pair of the state" in str(broken)
    with pytest.raises(SubjectError, match="check: step: it does not run with its state"):
        parity.check(torch_vectors, step=lambda state, batch: state["params"], state=state)


@pytest.mark.torch
@pytest.mark.long
def test_parts_of_a_state_may_begin_as_the_same_arrays(torch_vectors):
    optimizer, params = optax.adam(1e-2), converted(torch_vectors)

    def step(state, batch):
        def value(params):
            return cross_entropy(network(params, batch[0], jax.random.key(0)), batch[1]).mean()

        result, gradients = jax.value_and_grad(value)(state["params"])
        updates, opt_state = optimizer.update(gradients, state["opt_state"])
        params = optax.apply_updates(state["params"], updates)
        ema = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, state["ema"], params)
        return {"ema": ema, "opt_state": opt_state, "params": params}, result

    state = {"ema": params, "opt_state": optimizer.init(params), "params": params}
    report = parity.check(torch_vectors, step=step, state=state, steps=1)
    assert report.verdict == "same", str(report)


@pytest.mark.torch
@pytest.mark.long
def test_two_parameters_may_begin_as_the_same_array(tmp_path):
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = torch.nn.LayerNorm(4), torch.nn.LayerNorm(4)

        def forward(self, x):
            return self.norm2(torch.tanh(self.norm1(x)))

    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with parity.recording(tmp_path / "trace", steps=1):
        model(torch.randn(5, 4)).pow(3).mean().backward()
        optimizer.step()

    def norm(params, x):
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * params["scale"] + params["bias"]

    def step(state, batch):
        params, rate = state

        def value(params):
            return (norm(params["norm2"], jnp.tanh(norm(params["norm1"], batch[0]))) ** 3).mean()

        result, gradients = jax.value_and_grad(value)(params)
        return (jax.tree.map(lambda p, g: p - rate * g, params, gradients), rate), result

    one = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    state = {"norm1": dict(one), "norm2": dict(one)}, 0.1
    report = parity.check(tmp_path / "trace", step=step, state=state)
    assert report.verdict == "same", str(report)


@pytest.mark.torch
@pytest.mark.slow
def test_square_arrays_without_torchs_numbers_are_asked_for(torch_vectors):
    params = jax.tree.map(jnp.zeros_like, converted(torch_vectors))
    with pytest.raises(SubjectError, match=r'\[axes\] "fc2.w" = \[0, 1\] or \[1, 0\]'):
        checked(torch_vectors, (network, params))
    report = checked(torch_vectors, (network, params), names={"axes": {"fc2.w": [1, 0]}})
    assert report.verdict == "same", str(report)


@pytest.mark.torch
@pytest.mark.slow
def test_linens_apply_is_a_function_of_its_variables(torch_vectors):
    own, params = {}, converted(torch_vectors)
    for i, name in enumerate(("fc1", "fc2", "fc3")):
        own[f"Dense_{i}"] = {"kernel": params[name]["w"], "bias": params[name]["b"]}
    variables = {"params": own | {"LayerNorm_0": params["norm"]}}

    def of_apply(model, batch):
        given = {"train": True, "rngs": {"dropout": jax.random.key(0)}}
        return cross_entropy(model(batch[0], **given), batch[1]).mean()

    report = checked(torch_vectors, (LinenNet().apply, variables), of_apply, weights="own")
    assert report.verdict == "same", str(report)
    assert any(
        line.split() == ["params_.Dense_0.kernel", "=", "fc1.weight", "(shapes)"]
        for line in report.subject["layers"]
    )


# -- without a program


NAMES = ("params", "params_", "library", "double", "arrays", "put", "layers", "train", "weight")


def test_arrays_may_be_called_as_the_model_of_parity_calls_its_own():
    params = {name: jnp.full(2, i) for i, name in enumerate(NAMES)}
    params["run"] = {"params": jnp.ones(2)}
    library = library_of((lambda params, x: {**params, "x": x}, params))
    model = library.model()
    given = model(jnp.zeros(2))
    assert given.pop("x").sum() == 0
    assert jax.tree.all(jax.tree.map(jnp.array_equal, given, params))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, model.params, params))
    assert {"params_", "params__", "weight", "run.params"} <= model.arrays().keys()


@pytest.mark.parametrize("name", NAMES[1:])  # flax.linen refuses "params" itself
def test_layers_may_be_called_as_the_model_of_parity_calls_its_own(name):
    class Named(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(3, name="last")(linen.Dense(4, name=name)(x))

    x = jnp.ones((1, 2))
    variables = Named().init(jax.random.key(0), x)
    model = foreign_model(library_of((Named(), variables)), lambda model: model(x))
    assert model.layers().keys() == {name, "last"}
    assert model.layers()[name]._known.kind is nnx.Linear
    seen = []

    def note(call, proceed):
        seen.append(call)
        return proceed(*call.args, **call.kwargs)

    with intercept(model, note):
        assert jnp.array_equal(model(x), Named().apply(variables, x))
    assert [call.module for call in seen[1:]] == [model.layers()[name], model.layers()["last"]]
    assert [call.name for call in seen[1:]] == [one for one in model.library.order() if one]


def test_the_order_of_axes_is_that_of_the_shape_or_of_the_numbers():
    assert usual_order((8, 6), (6, 8)) == (1, 0)
    assert usual_order((8, 8), (8, 8)) is None
    assert usual_order((4, 3, 3, 3), (3, 3, 3, 4)) == (2, 3, 1, 0)
    assert (3, 2, 1, 0) not in orders_of((4, 4, 3, 3), (3, 3, 4, 4))
    theirs = np.arange(64.0).reshape(8, 8)
    assert by_values(theirs.T, theirs, "w").pieces[0].axes == (1, 0)
    assert by_values(theirs, theirs, "w").pieces[0].axes == (0, 1)
    assert by_values(np.ones((8, 8)), theirs, "w") is None
    rows = theirs.reshape(8, 2, 4).transpose(2, 1, 0).reshape(8, 8)
    assert np.array_equal(by_values(rows, theirs, "w").of({"w": theirs}), rows)


@pytest.mark.filterwarnings("error")
def test_other_numbers_are_told_without_trying_every_order(monkeypatch):
    random = np.random.RandomState(0)
    theirs, other = random.randn(2, 24, 24).astype(np.float32)
    near = (theirs.T * (1 + 9e-6 * random.uniform(-1, 1, (24, 24)))).astype(np.float32)
    assert by_values(near, theirs, "w").pieces[0].axes == (1, 0)
    assert by_values(theirs.T * 1j, theirs * 1j, "w").pieces[0].axes == (1, 0)
    assert by_values(np.zeros((2, 0)), np.zeros((2, 0)), "w").pieces[0].axes == (0, 1)
    unknown = np.where(np.eye(24) > 0, np.nan, theirs)
    assert by_values(unknown.T, unknown, "w") is None
    tried, equal = [], np.allclose
    monkeypatch.setattr(np, "allclose", lambda *args, **kw: tried.append(1) or equal(*args, **kw))
    assert by_values(other, theirs, "w") is None
    assert not tried


class Rows(nnx.Module):
    """A layer whose `dtype` is no dtype, and one that is computed."""

    param_dtype = property(lambda self: jnp.dtype(self.kind))

    def __init__(self):
        self.dtype, self.kind = "of the rows", jnp.float32


class LinenRows(linen.Module):
    dtype: str = "of the rows"
    param_dtype = property(lambda self: jnp.float32)


def test_only_what_names_float32_is_widened():
    rows, linear = Rows(), nnx.Linear(2, 3, dtype=jnp.float32, rngs=nnx.Rngs(0))
    widened(nnx.Sequential(rows, linear))
    assert (rows.dtype, rows.param_dtype) == ("of the rows", jnp.float32)
    assert linear.dtype == linear.param_dtype == jnp.float64
    dense = linen.Dense(3, dtype="float32")
    with as_float64(dense), as_float64(LinenRows()):
        assert dense.dtype == dense.param_dtype == jnp.float64
    assert (dense.dtype, dense.param_dtype) == ("float32", jnp.float32)


def test_a_form_goes_there_and_back():
    own = np.arange(24.0).reshape(2, 3, 4)
    form = Form((2, 0, 1), (8, 3))
    assert form.of(own).shape == (8, 3)
    assert np.array_equal(form.back(form.of(own), own.shape), own)


def test_a_layer_with_running_statistics_is_known_by_its_arrays():
    arrays = {"gamma": (4,), "beta": (4,), "running_mean": (4,), "running_var": (1, 1, 1, 4)}
    known = norm_names(arrays)
    assert sorted(known.values()) == ["bias", "mean", "scale", "var"]
    assert norm_names({"index.0": (4,), "index.1": (4,), "count": ()}) == {
        "index.0": "mean",
        "index.1": "var",
    }
    assert norm_names({"scale": (4,), "bias": (4,)}) == {}
    assert norm_names({**arrays, "running_mean": (5,)}) == {}


def test_two_numbers_of_a_state_are_two_parameters():
    one = 1.0
    state = {"params": {"w": jnp.ones(2), "a": one, "b": one}}
    trace = SimpleNamespace(steps=[SimpleNamespace(batches=[])])
    place = pytree_place(trace, lambda state, batch: (state, 0.0), state)
    given = {"w": jnp.zeros(2), "a": jnp.asarray(2.0), "b": jnp.asarray(3.0)}
    made = place.state(given, place.rest, double=False)
    assert (made["params"]["a"], made["params"]["b"]) == (2.0, 3.0)
    arrays, rest, _ = place.taken(None, (made, 0.0))
    assert (arrays["a"], arrays["b"], rest) == (2.0, 3.0, ())


def test_what_is_no_model_of_a_library_is_refused():
    assert library_of(3) is None
    assert library_of((network,)) is None
    assert library_of((network, {"w": jnp.ones(2)})).title == "function"


def test_the_code_of_a_model_is_its_class_or_its_function():
    assert code_of((LinenNet(), {"params": {}})) is LinenNet
    assert code_of((network, {"w": jnp.ones(2)})) is network
    assert code_of(3) == 3


def test_a_port_may_return_models_and_states_of_any_library(tmp_path):
    text = """
import flax.linen as nn, jax, jax.numpy as jnp, optax

def loss(model, batch): ...
def step(state, batch): ...
module = nn.Dense(2)
model = module, module.init(jax.random.key(0), jnp.ones((1, 3)))
def both(): return model, loss
def three(): return model, loss, optax.sgd(0.1)
def function(): return (step, {"w": 1.0}), loss
def state(): return ({"w": 1.0}, ()), step
"""
    port = tmp_path / "port_of_any.py"
    port.write_text(text)
    assert load_port(f"{port}:both").keys() == {"model", "loss"}
    assert load_port(f"{port}:three").keys() == {"model", "loss", "optimizer"}
    assert load_port(f"{port}:function").keys() == {"model", "loss"}
    assert load_port(f"{port}:state").keys() == {"step", "state"}
