"""Plain flax.nnx models: their layers' partners in torch, their layouts, and their programs."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxnet import parity
from jaxnet.parity._draws import DrawsError
from jaxnet.parity._foreign import adapted, as_by_itself
from jaxnet.parity._jax_draws import PLAIN, Layouts, supplied
from jaxnet.parity._layouts import SAME, channels_last, flattened, to_model, to_torch, view_of
from jaxnet.parity._pairing import pair
from jaxnet.parity._port import SubjectError
from jaxnet.parity._spelling import by_name
from jaxnet.parity._trace import read

ROWS, STEPS = 5, 2


pytestmark = pytest.mark.usefixtures("usual_settings")


def recorded(folder, make, inputs, targets):
    """A trace of the usual loop with Adam, its learning rate 0.01."""
    import torch
    from torch.nn import functional as F

    with parity.recording(folder, steps=STEPS):
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        data = torch.utils.data.TensorDataset(inputs(), targets())
        for x, y in torch.utils.data.DataLoader(data, ROWS):
            optimizer.zero_grad()
            F.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
            optimizer.step()
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A convolution, GELU, dropout, pooling, and two linear layers of which the names tell."""
    import torch

    def make():
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, stride=2, padding=1),
            torch.nn.GELU(),
            torch.nn.Dropout(0.3),
            torch.nn.MaxPool2d(2),
            torch.nn.Flatten(),
            torch.nn.Linear(16, 16),
            torch.nn.LayerNorm(16),
            torch.nn.Linear(16, 16),
        )

    folder = tmp_path_factory.mktemp("images") / "trace"
    rows = ROWS * (STEPS + 1)
    return recorded(
        folder, make, lambda: torch.randn(rows, 3, 8, 8), lambda: torch.randint(0, 16, (rows,))
    )


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """An LSTM and an attention."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(7, 4)
            self.lstm = torch.nn.LSTM(4, 4, batch_first=True)
            self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
            self.out = torch.nn.Linear(4, 7)

        def forward(self, tokens):
            x, _ = self.lstm(self.embed(tokens))
            x, _ = self.attention(x, x, x, need_weights=False)
            return self.out(x)

    folder = tmp_path_factory.mktemp("words") / "trace"
    rows = ROWS * (STEPS + 1)
    return recorded(
        folder,
        Model,
        lambda: torch.randint(0, 7, (rows, 3)),
        lambda: torch.randint(0, 7, (rows, 3)),
    )


class Net(nnx.Module):
    """The first program in flax; `first` is whether channels come first in what is flattened."""

    def __init__(self, *, epsilon=1e-5, approximate=False, first=True):
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, padding=1, rngs=rngs)
        self.drop = nnx.Dropout(0.3, rngs=rngs)
        self.first = nnx.Linear(16, 16, rngs=rngs)
        self.second = nnx.Linear(16, 16, rngs=rngs)
        self.norm = nnx.LayerNorm(16, epsilon=epsilon, rngs=rngs)
        self.approximate, self.channels_first = approximate, first

    def __call__(self, x):
        x = nnx.gelu(self.conv(x.transpose(0, 2, 3, 1)), approximate=self.approximate)
        x = nnx.max_pool(self.drop(x), (2, 2), strides=(2, 2))
        x = x.transpose(0, 3, 1, 2) if self.channels_first else x
        return self.second(self.norm(self.first(x.reshape(len(x), -1))))


class Words(nnx.Module):
    def __init__(self, cell=nnx.LSTMCell):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(7, 4, rngs=rngs)
        self.rnn = nnx.RNN(cell(4, 4, rngs=rngs))
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        self.out = nnx.Linear(4, 7, rngs=rngs)

    def __call__(self, tokens):
        return self.out(self.attention(self.rnn(self.embed(tokens)), deterministic=True))


def loss(model, batch):
    inputs, targets = batch
    return optax.softmax_cross_entropy_with_integer_labels(model(inputs), targets).mean()


def checked(trace, model, optimizer=None, **options):
    made = nnx.Optimizer(model, optimizer or optax.adam(1e-2), wrt=nnx.Param)
    return parity.check(trace, model, loss, made, **{"weights": "copy", **options})


# -- whole programs; a check compiles six programs


@pytest.mark.torch
@pytest.mark.long
def test_a_program_of_plain_flax_is_the_same(images):
    report = checked(images, Net(first=False))
    assert report.verdict == "same", str(report)
    assert report.coverage["modules"].seen == ("0", "5", "6", "7")
    assert not report.coverage["modules"].missing
    assert len(report.coverage["parameters"].seen) == 8
    assert report.horizon.equal_to == STEPS
    assert report.notes[0].startswith("4 layers of the model have their partners in torch's")
    assert "channels last, torch's with the channels first (4, 2, 2)" in report.notes[1]
    assert any(re.match(r"first +\w* *= 5 ", line) for line in report.subject["layers"])


@pytest.mark.torch
@pytest.mark.long
def test_what_flax_does_otherwise_is_found_and_named(images):
    model = Net(epsilon=1e-6, approximate=True)
    report = checked(images, model, optax.adamw(1e-2))
    assert [finding.site for finding in report.findings[:2]] == ["input:5#0.0", "forward:6#0"]
    causes = [finding.cause or "" for finding in report.findings]
    assert len(causes) == 3, str(report)
    assert "tanh" in causes[0]
    assert "1e-06" in causes[1]
    assert "decay" in causes[2]


@pytest.mark.torch
@pytest.mark.slow
def test_a_step_of_its_own_and_one_bias_for_two(words):
    """The step changes its objects, as nnx.jit lets it; only the LSTM's bias learns otherwise."""

    @nnx.jit
    def step(state, batch):
        model, optimizer = state
        value, gradients = nnx.value_and_grad(loss)(model, batch)
        optimizer.update(model, gradients)
        return value

    model = Words()
    state = model, nnx.Optimizer(model, optax.sgd(1e-2), wrt=nnx.Param)
    report = parity.check(words, step=step, state=state, weights="copy", steps=1)
    losses = [r for r in report.results if r.site == "loss:0"]
    assert losses
    assert not any(r.judgement.failed for r in losses)
    assert report.verdict == "different"  # torch's is Adam
    report = checked(words, Words())
    assert {r.place for r in report.findings[0].results} == {"lstm.bias_ih_l0", "lstm.bias_hh_l0"}
    assert len(report.findings) == 1, str(report)
    assert "one bias where torch's has two" in report.findings[0].cause
    assert report.coverage["modules"].seen == ("embed", "lstm", "attention", "out")


# -- pairing


@pytest.mark.torch
@pytest.mark.long  # the traces are recorded for it, where it runs alone
def test_layers_are_paired_by_values_names_calls_or_the_user(images, tmp_path):
    trace = read(images)
    calls = ["", "conv", "drop", "first", "norm", "second"]
    model = Net()

    def partners(model, names=None, calls=tuple):
        return {p.own: (p.torch, p.why) for p in pair(trace, model, names, calls).partners}

    assert partners(model, calls=lambda: calls)["second"] == ("7", "calls")
    with pytest.raises(SubjectError, match=r"first .* has no partner.*names.toml") as error:
        partners(model)
    file = images.parent / "names.toml"
    assert str(file) in str(error.value)
    text = file.read_text()
    assert '"conv" = "0"  # shapes' in text
    assert '# "first" = ""  # one of: 5, 7' in text
    for name, torch in (("first", "5"), ("second", "7")):
        text = text.replace(f'# "{name}" = ""', f'"{name}" = "{torch}"')
    (tmp_path / "names.toml").write_text(text)
    assert partners(model, tmp_path / "names.toml")["first"] == ("5", "names.toml")
    with pytest.raises(
        SubjectError, match=r"there is no 'frst' that is left; near are \['first'\]"
    ):
        partners(model, {"layers": {"frst": "5"}})
    with pytest.raises(SubjectError, match="accepted are the tables layers, axes, flattened"):
        partners(model, {"modules": {}})
    with pytest.raises(SubjectError, match=r"\[axes\] 'frst': there is no such layer"):
        partners(model, {"axes": {"frst": [0, 1]}})
    first = trace.steps[0]
    for name, torch in (("first", "5"), ("second", "7")):
        layer = getattr(model, name)
        layer.kernel[...] = first[f"before:{torch}.weight"].T
        layer.bias[...] = first[f"before:{torch}.bias"]
    assert partners(model, calls=lambda: [*calls[:3], *calls[:2:-1]])["first"] == ("5", "values")


@pytest.mark.torch
@pytest.mark.long
def test_other_models_are_refused_with_what_is_left_over(images):
    class More(Net):
        def __init__(self):
            super().__init__()
            self.more = nnx.Linear(3, 3, rngs=nnx.Rngs(0))

    words = r"more \(Linear: kernel \(3, 3\), bias \(3,\)\) has no partner"
    with pytest.raises(SubjectError, match=words):
        checked(images, More())


def test_names_are_compared_in_one_spelling():
    fits = np.ones((3, 3), bool)
    own = ["blocks.0.norm1", "blocks.0.norm2", "norm_f"]
    found, exact = by_name(own, ["h.0.ln_2", "h.0.ln_1", "ln_f"], fits)
    assert (found, exact) == ([(0, 1), (1, 0), (2, 2)], True)
    found, exact = by_name(["a", "b"], ["x", "y"], fits[:2, :2])
    assert (found, exact) == (None, False)


# -- layouts


@pytest.mark.torch
@pytest.mark.long
@pytest.mark.parametrize("cell", [nnx.LSTMCell, nnx.OptimizedLSTMCell])
def test_arrays_go_to_flax_and_back(words, cell):
    """With torch's numbers the layers of flax give what torch's gave."""
    trace = read(words)
    first = trace.steps[0]
    model = Words(cell)
    pairing = pair(trace, model)
    module = adapted(trace, model, pairing)
    theirs = {name: first[site] for name, site in first.of("before").items()}
    for name, array in theirs.items():
        getattr(module, name).set_value(jnp.asarray(array))
    own = module.model()
    embedded = own.embed(first["batch:0.0"])
    after = own.rnn(embedded)
    np.testing.assert_allclose(after, first["forward:lstm#0.0"], rtol=1e-4, atol=1e-6)
    attended = own.attention(after, deterministic=True)
    np.testing.assert_allclose(attended, first["forward:attention#0.0"], rtol=1e-4, atol=1e-6)
    back = to_torch(pairing.made, to_model(pairing.made, theirs), theirs)
    for name, array in theirs.items():
        if "bias_" not in name:  # of which flax has the sum
            np.testing.assert_array_equal(back[name], array)
    both = theirs["lstm.bias_ih_l0"] + theirs["lstm.bias_hh_l0"]
    np.testing.assert_allclose(back["lstm.bias_ih_l0"] * 2, both, rtol=1e-6)


def test_views_lead_back():
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    view = channels_last(4)
    assert view.torch(view.model(x)).tolist() == x.tolist()
    assert view.model(x).shape == (2, 4, 5, 3)
    rows = flattened((3, 4, 5))
    torch = x.reshape(2, -1)
    own = x.transpose(0, 2, 3, 1).reshape(2, -1)
    assert rows.torch(own).tolist() == torch.tolist()
    assert rows.model(torch).tolist() == own.tolist()


def test_a_layer_that_is_given_the_batch_as_the_time_gets_it_so():
    x = np.zeros((4, 5, 8))
    assert view_of("swapped", (5, 4, 8), (4, 5, 8)).torch(x.swapaxes(0, 1)).shape == (4, 5, 8)
    assert view_of("swapped", (4, 5, 8), (4, 5, 8)) is SAME


def replayed(recorded, shape, layouts=PLAIN, inside=False):
    """A mask of some shape, drawn by a program that is given a recorded one."""

    def take(owner, shapes, asked):
        if recorded.shape in shapes:
            return recorded
        raise DrawsError(f"{shapes[0]}")

    with supplied(take, True, layouts, lambda: inside):
        return np.asarray(jax.random.bernoulli(jax.random.key(0), 0.5, shape))


def mask(*shape):
    """A random mask that no exchange of its axes leaves as it is."""
    return np.random.default_rng(0).random(shape) < 0.5


def test_masks_of_fewer_numbers_and_of_the_time_first_are_taken_from_torchs():
    recorded = mask(2, 3, 4)
    np.testing.assert_array_equal(replayed(recorded, (2, 3, 1)), recorded[..., :1])
    np.testing.assert_array_equal(replayed(recorded, (3, 2, 4)), recorded.swapaxes(0, 1))
    with pytest.raises(DrawsError):
        replayed(recorded, (2, 5, 4))


def test_masks_whose_shape_does_not_tell_their_order_have_that_of_the_layers():
    square = mask(3, 3, 4)
    turned = square.swapaxes(0, 1)
    assert (turned != square).any()
    for layouts, inside, expected in (
        (PLAIN, False, square),
        (Layouts(swapped=True), False, turned),
        (Layouts(swapped=True), True, square),
        (Layouts(batch_first=True), False, square),
        (Layouts(batch_first=True), True, turned),
    ):
        np.testing.assert_array_equal(replayed(square, (3, 3, 4), layouts, inside), expected)
        few = replayed(square, (3, 3, 1), layouts, inside)
        np.testing.assert_array_equal(few, expected[..., :1])
    with pytest.raises(DrawsError, match=r"batch and time, are both 3.*a batch of another size"):
        replayed(square, (3, 3, 4), Layouts(swapped=None))
    # Of other sizes the shape tells it, whatever the layers declare.
    np.testing.assert_array_equal(replayed(mask(2, 3, 4), (2, 3, 4), Layouts(swapped=None)),
        mask(2, 3, 4))  # fmt: skip
    line = mask(2, 4, 4)
    np.testing.assert_array_equal(replayed(line, (2, 4, 4)), line)
    channels = replayed(line, (2, 4, 4), Layouts(images=True, lines=True))
    np.testing.assert_array_equal(channels, line.swapaxes(1, 2))


# -- settings


@pytest.mark.torch
@pytest.mark.long
def test_foreign_code_runs_under_the_settings_that_the_user_chose(images):
    """jaxnet multiplies in full float32, which would mend a program that does not."""
    seen = []

    def noting(model, batch):
        seen.append(("loss", jax.config.jax_default_matmul_precision))
        seen.append(("promotion", jax.config.jax_numpy_dtype_promotion))
        return loss(model, batch)

    def noted(updates, state, params=None):
        seen.append(("optimizer", jax.config.jax_default_matmul_precision))
        return updates, state

    optimizer = optax.chain(
        optax.GradientTransformation(lambda params: optax.EmptyState(), noted), optax.adam(1e-2)
    )
    before = jax.random.bernoulli, jax.nn.dot_product_attention
    chosen = jax.config.jax_default_matmul_precision
    promotion = jax.config.jax_numpy_dtype_promotion
    parity.check(images, Net(), noting, optimizer, weights="copy", steps=1)
    assert set(seen) == {("loss", chosen), ("promotion", promotion), ("optimizer", chosen)}
    assert (jax.random.bernoulli, jax.nn.dot_product_attention) == before
    with jax.default_matmul_precision("highest"), as_by_itself(None):
        assert jax.config.jax_default_matmul_precision is None


class Own(nnx.Module):
    """A square matrix of the model's own."""

    def __init__(self):
        self.w = nnx.Param(jnp.eye(4))

    def __call__(self, x):
        return x @ self.w[...]


@pytest.mark.torch
def test_a_square_array_may_be_meant_in_two_ways(tmp_path):
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with parity.recording(tmp_path / "trace", steps=1):
        model(torch.randn(3, 4)).square().mean().backward()
        optimizer.step()
    trace = read(tmp_path / "trace")
    with pytest.raises(SubjectError, match="w: arrays of the model's own"):
        pair(trace, Own())
    for axes in ((0, 1), (1, 0)):
        made = pair(trace, Own(), {"axes": {"w": axes}}).made["w"]
        assert made.pieces[0].axes == axes
