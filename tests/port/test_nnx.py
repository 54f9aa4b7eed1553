"""`jaxnet port --to nnx`: the output is plain flax.nnx, and computes what PyTorch computes."""

import ast
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from jaxnet.port import port
from tests.marks import slow_among
from tests.port import flax_twin
from tests.port.flax_programs import HEAD, PROGRAMS

pytestmark = [pytest.mark.libcst, pytest.mark.torch, pytest.mark.usefixtures("plain_settings")]


@pytest.fixture
def plain_settings():
    """JAX's own settings, with which a user of the output computes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def ported(source, folder):
    """The output of a program, which is plain flax.nnx, and the namespace that it makes."""
    file = folder / "model.py"
    file.write_text(source)
    result = port(str(file), to="nnx")
    assert not result.marked, result.marked
    is_plain(result.code, folder)
    made = {"__name__": __name__}
    exec(compile(result.code, "ported.py", "exec"), made)
    return result, made


def is_plain(code, folder):
    """Holds that a text imports nothing of jaxnet or torch and passes ruff."""
    tree = ast.parse(code)
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
               for alias in node.names}  # fmt: skip
    modules |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in modules} & {"jaxnet", "torch"}, modules
    file = folder / "ported.py"
    file.write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E4,E9,F,I", str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def compared(original, twin, inputs, digits=1e-10):
    """Compares results, gradients and buffers, in float64."""
    expected, found = flax_twin.torch_run(original, inputs), flax_twin.flax_run(
        twin, original, inputs)  # fmt: skip
    assert len(found[0]) == len(expected[0]) > 0
    for one, other in zip(expected[0], found[0], strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=digits, atol=digits)
    for part in (1, 2):
        for name, one in expected[part].items():
            size = max(1.0, float(np.abs(one).max(initial=0)))
            np.testing.assert_allclose(
                found[part][name], one, rtol=digits, atol=digits * size, err_msg=name
            )


def twins(source, folder, name="Net"):
    """torch's module and its port, with torch's weights in float64."""
    import torch

    _, made = ported(source, folder)
    original = {"__name__": __name__}
    exec(compile(source, "model.py", "exec"), original)
    torch.manual_seed(0)
    model = original[name]().double()
    try:
        twin = made[name](rngs=nnx.Rngs(0))
    except TypeError as error:
        if "rngs" not in str(error):
            raise
        twin = made[name]()
    nnx.update(twin, jax.tree.map(_wide, nnx.state(twin)))
    spread(model)
    flax_twin.assign(twin, {n: v.detach().numpy() for n, v in arrays(model)}, model)
    return model, twin


def _wide(x):
    floating = jax.numpy.issubdtype(x.dtype, jax.numpy.floating)
    return x.astype(jax.numpy.float64) if floating else x


def arrays(model):
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]


def spread(model):
    """Gives parameters that begin as zeros or ones numbers of their own."""
    import torch

    for parameter in model.parameters():
        with torch.no_grad():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=parameter.dtype)


@pytest.fixture
def digits():
    """Numbers of 64 bits, in both."""
    import torch

    with jax.enable_x64(True):
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)


LONG = ["a small GPT with tied weights", "a small ResNet", "an LSTM classifier"]


@pytest.mark.parametrize("name", slow_among(PROGRAMS, LONG))
def test_a_program_computes_the_same(name, tmp_path, digits):
    source, shapes = PROGRAMS[name]
    model, twin = twins(HEAD + source, tmp_path)
    draws = np.random.default_rng(0)
    inputs = [draws.integers(0, 7, s[1:]) if s[0] == "int" else draws.standard_normal(s)
              for s in shapes]  # fmt: skip
    compared(model.eval(), _eval(twin), inputs)
    for module in model.modules():
        if "Dropout" in type(module).__name__:
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # of an LSTM, an attention
            module.dropout = 0.0
    compared(model.train(), _train(twin), inputs)


SETTING = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn, self.ln, self.gn = nn.BatchNorm1d(4), nn.LayerNorm(6), nn.GroupNorm(2, 4)
        self.inorm, self.rms = nn.InstanceNorm1d(4, affine=True), nn.RMSNorm(6)
        self.drop, self.other = nn.Dropout(0.5), nn.Dropout(0.25)
        for m in self.modules():
            if isinstance(m, nn.BatchNorm1d):
                m.eps = 0.5
                m.momentum = 0.03
            if isinstance(m, (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d)):
                m.eps += 0.5
        self.rms.eps = 0.25
        self.drop.p = 0.0
    def forward(self, x):
        y = x * self.bn.momentum + x**2 * self.bn.eps + x**3 * self.other.p
        norms = self.bn(x), self.ln(x), self.gn(x), self.inorm(x), self.rms(x)
        return (self.drop(x), y, *norms)
"""


def test_what_is_set_of_a_layer_is_what_it_computes_with(tmp_path, digits):
    model, twin = twins(HEAD + SETTING, tmp_path)
    inputs = [np.random.default_rng(0).standard_normal((3, 4, 6))]
    compared(model.train(), _trained(twin), inputs)
    compared(model.eval(), _eval(twin), inputs)


RAMP = np.linspace(-1, 1, 12).reshape(3, 4)
EDGES = {
    "a norm of a matrix, and of two axes": (
        """return (torch.linalg.norm(x, 2), torch.linalg.norm(x, ord=1, dim=(0, 1)),
                torch.linalg.norm(x, float("inf"), (1, 0), keepdim=True), torch.linalg.norm(x),
                torch.linalg.norm(x, "nuc"), torch.linalg.norm(x, "fro", (0, 1)),
                torch.linalg.norm(x[0], 1), torch.linalg.norm(x, 3, dim=1),
                torch.linalg.norm(x[None].expand(2, -1, -1), -2, (1, 2)))""", RAMP**3 + 0.3),
    "a norm of nothing but zeros": ("return torch.linalg.norm(x, 'fro')", np.zeros((3, 4))),
    "probabilities of 0 and 1": (
        """t = torch.tensor([0.0, 0.25, 1.0, 1.0]).expand_as(x)
        return (F.binary_cross_entropy(x, t), F.binary_cross_entropy(x, 1 - t, reduction="none"),
                F.binary_cross_entropy(torch.sigmoid(x * 800), 0 * x))""",
        np.array([[0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0], [0.1, 1e-14, 0.9, 0.5]]).clip(0, 1)),
    "probabilities that are aimed at": (
        "return F.binary_cross_entropy(torch.full_like(x, 0.25), torch.sigmoid(x))", RAMP),
    "deviations of equal numbers": (
        """v, m = torch.var_mean(x, dim=1)
        s, n = torch.std_mean(x, 1, keepdim=True)
        return v + m, s + n, x.std(dim=1), x.var(1), x.std(), torch.var(x, 0, correction=0)""",
        np.ones((2, 3))),
    "deviations whose first argument is `unbiased`": (
        """flag = x.shape[0] > 100
        return (x.var(False), x.std(False), x.var(True), torch.std_mean(x, False),
                torch.var_mean(x, False), x.var(flag), x.var(0, False), x.std([0, 1], flag),
                x.var(dim=(0, 1), unbiased=False, keepdim=True), x.std(0, correction=2))""", RAMP),
    "equal numbers in a window": (
        """y = x.repeat(1, 2).reshape(1, 2, 6, 6)
        return (F.adaptive_max_pool2d(y, (3, 2)), F.adaptive_max_pool2d(y, 4), F.max_pool2d(y, 2),
                F.adaptive_max_pool1d(y[0], 4), nn.AdaptiveMaxPool2d((2, 4))(y),
                nn.MaxPool2d(3, 1, 1)(y), F.max_pool2d(y, 2, dilation=2))""",
        np.round(np.random.default_rng(0).random((6, 6)) * 2)),
}  # fmt: skip


@pytest.mark.parametrize("name", EDGES)
def test_results_and_gradients_at_an_edge_are_torch_s(name, tmp_path, digits):
    body, x = EDGES[name]
    compared(*twins(HEAD + NET.format(made="pass", forward=body), tmp_path), [x])


def test_normal_numbers_have_the_shape_of_mean_and_deviation(tmp_path):
    made = "self.p = nn.Parameter(torch.normal(torch.tensor(2.0), torch.full((500, 4), 3.0)))"
    forward = """y = torch.normal(x.mean(), torch.zeros(3))
        z = torch.normal(torch.zeros(2, 1), torch.zeros(3)), torch.normal(x, 0.0)
        return y, *z, torch.normal(x), torch.normal(2.0, 1.0, size=(3, 5)), torch.normal(0.0, x)"""
    _, names = ported(HEAD + NET.format(made=made, forward=forward), tmp_path)
    model = names["Net"](rngs=nnx.Rngs(0))
    assert model.p.shape == (500, 4)
    np.testing.assert_allclose((model.p[...].mean(), model.p[...].std()), (2, 3), rtol=0.1)
    found = model(jax.numpy.full((2, 4), 7.0))
    assert [y.shape for y in found] == [(3,), (2, 3), (2, 4), (2, 4), (3, 5), (2, 4)]
    np.testing.assert_array_equal(found[0], np.full(3, 7.0))
    np.testing.assert_array_equal(found[2], np.full((2, 4), 7.0))


def test_a_norm_that_is_not_written_is_refused(tmp_path):
    forward = "return torch.norm(x, p='nuc')"
    _, names = ported(HEAD + NET.format(made="pass", forward=forward), tmp_path)
    with pytest.raises(NotImplementedError, match="p='nuc'"):
        names["Net"](rngs=nnx.Rngs(0))(jax.numpy.ones((2, 4)))


SHAPES = """
from collections import OrderedDict
class Block(nn.Sequential):
    def __init__(self, i):
        super().__init__()
        self.add_module("0", nn.Linear(i, 4))
        self.add_module("1", nn.Tanh())
class Net(nn.Module):
    def __init__(self, dropout=0.5):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, groups=2), nn.Conv2d(2, 2, 3, padding=1)
        self.c, self.d = nn.Conv2d(2, 3, 3, padding="same"), nn.ConvTranspose2d(2, 3, 3)
        self.a.stride = (2, 2)
        self.a.dilation, self.a.padding = (1, 2), (2, 0)
        self.d.stride, self.d.padding, self.d.output_padding = (2, 2), (1, 1), (1, 0)
        self.max, self.avg = nn.MaxPool2d(3, 2), nn.AvgPool2d(2)
        self.max.stride, self.max.padding = 1, 1
        self.avg.stride = 1
        self.line = nn.AvgPool1d(3, padding=1)
        self.up = nn.Upsample(scale_factor=2)
        self.up.scale_factor = 3
        self.unfold = nn.Unfold(2)
        self.unfold.stride = 2
        self.mha = nn.MultiheadAttention(8, 2, dropout)
        self.lstm = nn.LSTM(8, 4, 2, dropout=dropout)
        self.gru, self.rnn = nn.GRU(8, 4, 2, dropout=dropout), nn.RNN(8, 4, 2, dropout=dropout)
        self.mha.dropout = self.lstm.dropout = self.gru.dropout = self.rnn.dropout = 0.0
        self.block = Block(8)
        tail = nn.Sequential()
        tail.add_module("0", nn.Linear(4, 4))
        tail.add_module("1", nn.ReLU())
        self.tail = tail
        self.named = nn.Sequential(OrderedDict([("stem", nn.ReLU())]))
        for name in ("0", "1", "1"):
            self.named.add_module(name, nn.Tanh())
    def forward(self, x):
        y = x[:, 0]
        numbers = x.sum() * sum(self.a.padding) * self.line.stride[0]
        return (self.a(x), self.b(x), self.c(x), self.d(x), self.max(x), self.avg(x),
                self.line(y) * self.line.kernel_size[0] * self.line.padding[0], self.up(x),
                self.unfold(x), self.mha(y, y, y)[0] + self.mha.dropout, self.lstm(y)[0],
                self.gru(y)[0], self.rnn(y)[0], self.named(self.tail(self.block(y))), numbers)
"""


def test_what_is_set_of_a_shape_is_what_is_computed(tmp_path, digits):
    model, twin = twins(HEAD + SHAPES, tmp_path)
    inputs = [np.random.default_rng(0).standard_normal((3, 2, 8, 8))]
    compared(model.train(), _trained(twin), inputs)


TRACKING = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.kept, self.left = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
        self.never = nn.BatchNorm1d(4, track_running_stats=False)
        self.late = nn.BatchNorm1d(4, track_running_stats=False)
        self.alone = nn.InstanceNorm1d(4)
        for m in self.modules():
            if hasattr(m, "track_running_stats") and m is not self.kept:
                m.track_running_stats = False
        self.late.track_running_stats = True
        self.known = [m.running_mean is not None for m in (self.left, self.never, self.late)]
    def forward(self, x):
        number = sum(2**i * known for i, known in enumerate(self.known))
        x = x * (1 + self.left.track_running_stats + 2 * self.late.track_running_stats + number)
        return self.kept(x), self.left(x), self.never(x), self.late(x), self.alone(x)
"""


def test_statistics_that_are_tracked_no_more_stay_and_are_what_eval_reads(tmp_path, digits):
    model, twin = twins(HEAD + TRACKING, tmp_path)
    inputs = [3 * np.random.default_rng(0).standard_normal((3, 4, 6)) + 1]
    compared(model.train(), _trained(twin), inputs)
    compared(model.eval(), _eval(twin), inputs)


def test_an_instance_norm_that_is_made_to_track_says_so(tmp_path):
    made = "self.norm = nn.InstanceNorm1d(4); self.norm.track_running_stats = True"
    _, names = ported(HEAD + NET.format(made=made, forward="return self.norm(x)"), tmp_path)
    with pytest.raises(NotImplementedError, match="track_running_stats=True"):
        names["Net"](rngs=nnx.Rngs(0))


READING = """
from collections import OrderedDict
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 3, 3, padding=(1, 2)), nn.Conv2d(2, 3, (1, 3), padding=1)
        self.c = nn.Conv2d(2, 3, 4, padding="same", dilation=2)
        self.d = nn.Conv2d(2, 3, 2, padding="valid")
        self.e = nn.Conv2d(2, 4, 3, 2, 1, 2, groups=2, padding_mode="reflect")
        self.f = nn.Conv1d(8, 3, 3, padding=2, padding_mode="circular", bias=False)
        self.more = nn.Conv2d(2, 3, 3, padding=self.a.padding)
    def forward(self, x):
        numbers = x * (self.a.padding[1] + 10 * sum(self.b.padding) + 100 * sum(self.e.padding))
        words = x * (1 + (self.c.padding == "same") + 2 * (self.d.padding == "valid"))
        edges = F.pad(x, (self.a.padding[1], self.a.padding[1], *self.f.padding, 0))
        again = F.conv2d(x, self.b.weight, self.b.bias, self.b.stride, self.b.padding)
        return (numbers, words, edges, again, self.a(x), self.b(x), self.c(x), self.d(x),
                self.e(x), self.f(x[0]), self.f(x[:, 0]), self.e(x[0]), self.more(x))
"""


def test_the_padding_of_a_convolution_is_read_as_torch_has_it(tmp_path, digits):
    model, twin = twins(HEAD + READING, tmp_path)
    inputs = [np.random.default_rng(0).standard_normal((3, 2, 8, 8))]
    compared(model.train(), _trained(twin), inputs)


CALLED_BY_NAME = """
from collections import OrderedDict
class Block(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.add_module("first", nn.Linear(4, 4))
        self.add_module("then", nn.Tanh())
        self.add_module("last", self.first)
    def forward(self, x):
        return self.last(self.then(self.first(x)))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        act = nn.Tanh()
        self.a = nn.Sequential(OrderedDict([("stem", nn.Linear(4, 4)), ("act", act),
                                            ("head", nn.Linear(4, 4)), ("again", act)]))
        self.b = nn.Sequential(nn.Linear(4, 3))
        self.b.add_module("scale", nn.Linear(3, 4))
        self.block = Block()
        self.scale = [1.0, 2.0]["a.stem" in [n for n, _ in self.named_modules()]]
        for name, child in self.a.named_children():
            if name == "head":
                self.scale += 3.0
        self.scale += 10.0 * len(list(self.a.children()))
        self.rest = nn.Sequential(*list(self.a.children())[:-1])
        self.part = self.a[1:3]
        self.part.append(nn.Linear(4, 2))
    def forward(self, x):
        y = self.a.head(self.a.act(self.a.stem(x))) * self.scale
        z = getattr(self.b, "0")(x) + self.b.scale.bias[:3]
        return y, z, self.a(x), self.b(x), self.block(x), self.rest(x), self.part(x), (
            self.part.head(x) @ self.a.stem.weight)
"""


def test_a_layer_of_a_sequential_is_read_by_its_name(tmp_path, digits):
    model, twin = twins(HEAD + CALLED_BY_NAME, tmp_path)
    compared(model.train(), _trained(twin), [np.random.default_rng(0).standard_normal((3, 4))])


@pytest.mark.parametrize("name", ["layers", "names"])
def test_a_layer_with_a_name_of_the_sequential_itself_says_so(name, tmp_path):
    made = f"self.a = nn.Sequential(); self.a.add_module('{name}', nn.Tanh())"
    _, names = ported(HEAD + NET.format(made=made, forward="return self.a(x)"), tmp_path)
    with pytest.raises(NotImplementedError, match=f"'{name}' cannot be read"):
        names["Net"](rngs=nnx.Rngs(0))


@pytest.mark.parametrize("made", [
    "self.fc = nn.Conv1d(4, 4, 3, padding=1); self.fc.padding_mode = 'circular'",
    "self.fc = nn.Conv1d(4, 4, 3, padding_mode='reflect'); self.fc.padding = (1,)",
])  # fmt: skip
def test_a_mode_of_padding_that_is_set_says_so(made, tmp_path):
    source = HEAD + NET.format(made=made, forward="return self.fc(x)")
    _, names = ported(source, tmp_path)
    with pytest.raises(NotImplementedError, match="padding_mode"):
        names["Net"](rngs=nnx.Rngs(0))(jax.numpy.ones((2, 4, 4)))


def test_a_sequential_that_is_assigned_layers_says_so(tmp_path):
    source = """
class Net(nn.Sequential):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
"""
    _, names = ported(HEAD + source, tmp_path)
    with pytest.raises(NotImplementedError, match=r"'fc'.*self\.append"):
        names["Net"](rngs=nnx.Rngs(0))(jax.numpy.ones((2, 4)))


def test_a_dropout_whose_share_is_set_drops_that_share(tmp_path):
    made = "self.drop = nn.Dropout2d(0.0); self.drop.p = 0.75"
    _, names = ported(HEAD + NET.format(made=made, forward="return self.drop(x)"), tmp_path)
    found = names["Net"](rngs=nnx.Rngs(0))(jax.numpy.ones((100, 40, 2, 2)))
    assert set(np.unique(found)) == {0.0, 4.0}
    assert abs(float(found.mean()) - 1) < 0.1


def _trained(twin):
    twin.train()
    return twin


def _eval(twin):
    twin.eval()
    return twin


def _train(twin):
    for _, module in nnx.iter_modules(_trained(twin)):
        if isinstance(module, nnx.Dropout):
            module.rate = 0.0
    return twin


def test_the_output_runs_without_jaxnet(tmp_path):
    ported(HEAD + PROGRAMS["a small ResNet"][0], tmp_path)
    code = (
        "import sys\n"
        "sys.modules['jaxnet'] = sys.modules['torch'] = None\n"
        f"exec(open({str(tmp_path / 'ported.py')!r}).read())\n"
        "model = Net(rngs=nnx.Rngs(0))\n"
        "print(model(jnp.ones((2, 3, 8, 8))).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.strip() == "(2, 4)", done.stderr


NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        {made}
    def forward(self, x):
        {forward}
"""

MARKED = {
    "a function that is not there": ("pass", "return torch.histc(x)", 12, "torch.histc"),
    "a layer that is not there": (
        "self.pool = nn.FractionalMaxPool2d(2)", "return x", 10, "nn.FractionalMaxPool2d"),
    "an argument that is not there": (
        "self.mha = nn.MultiheadAttention(4, 2, add_bias_kv=True)", "return x", 10, "add_bias_kv"),
    "an axis that is not said": ("pass", "return F.softmax(x)", 12, "dim is not given"),
    "a number of classes that is not said": ("pass", "return F.one_hot(x)", 12, "num_classes"),
    "an argument without an expression": (
        "pass", "return torch.repeat_interleave(x, 2, output_size=8)", 12, "output_size"),
    "names of the state": ("self.names = list(self.state_dict())", "return x", 10, "state_dict"),
    "indices of a pool": (
        "pass", "return F.max_pool2d(x, 2, return_indices=True)", 12, "return_indices"),
    "a parameter that has to be given": ("pass", "return torch.arange(end=3)", 12, "start"),
    "a switch of its own": ("pass", "self.training = False; return x", 12, "model.eval()"),
    "a layer that is added to a list": (
        "self.parts = nn.ModuleList(); self.parts.add_module('0', self.fc)", "return x", 10,
        "add_module"),
    "a layer whose name is computed": (
        "self.act = getattr(nn, 'Re' + 'LU')()", "return x", 10, "getattr"),
}  # fmt: skip


@pytest.mark.parametrize("name", MARKED)
def test_what_is_not_there_is_marked_with_its_line(name, tmp_path):
    made, forward, line, words = MARKED[name]
    file = tmp_path / "model.py"
    file.write_text(HEAD + NET.format(made=made, forward=forward))
    result = port(str(file), to="nnx")
    (note,) = result.marked
    assert note.line == line + 1
    assert words in note.text
    namespace = {"__name__": "made"}
    exec(compile(result.code, "ported.py", "exec"), namespace)
    with pytest.raises(NotImplementedError, match=f"model.py:{line + 1}: "):
        namespace["Net"](rngs=nnx.Rngs(0))(jax.numpy.ones((2, 4)))


def test_what_switches_a_part_by_itself_is_marked(tmp_path):
    source = NET.format(made="pass", forward="return self.fc(x)") + (
        "    def train(self, mode=True):\n        return super().train(False)\n"
    )
    file = tmp_path / "model.py"
    file.write_text(HEAD + source)
    (note,) = port(str(file), to="nnx").marked
    assert note.line == 14
    assert note.text.startswith("def train: ")


def test_a_class_whose_base_is_not_there_cannot_be_made_and_the_others_can(tmp_path):
    source = (
        "class Odd(nn.AdaptiveLogSoftmaxWithLoss):\n"
        "    def __init__(self):\n"
        "        super().__init__(4, 9, [3])\n"
    )
    file = tmp_path / "model.py"
    file.write_text(HEAD + source + NET.format(made="pass", forward="return self.fc(x)"))
    result = port(str(file), to="nnx")
    namespace = {"__name__": "made"}
    exec(compile(result.code, "ported.py", "exec"), namespace)
    with pytest.raises(NotImplementedError, match=r"model\.py:6: torch\.nn\.AdaptiveLog"):
        namespace["Odd"]()
    assert namespace["Net"](rngs=nnx.Rngs(0))(jax.numpy.ones((2, 4))).shape == (2, 4)


def test_names_of_the_program_stay_where_a_copy_has_them_too(tmp_path):
    source = """
class LayerNorm(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = LayerNorm(4), nn.LayerNorm(4)
    def forward(self, x):
        pad = (1, 1)
        norm = x.norm(dim=1, keepdim=True)
        jnp = F.pad(x / norm, pad)
        return self.a(self.b(jnp[:, 1:-1]))
"""
    result, made = ported(HEAD + source, tmp_path)
    assert "class TorchLayerNorm(nnx.LayerNorm)" in result.code
    assert "torch_pad(x / norm, pad)" in result.code
    assert made["Net"]()(jax.numpy.ones((2, 4))).shape == (2, 4)


def test_random_numbers_come_from_the_module(tmp_path):
    source = """
class Noise(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p = p
    def forward(self, x):
        x = F.dropout(x, self.p, self.training)
        return x + torch.randn_like(x) if self.training else x
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.noise = Noise(0.5)
    def forward(self, x):
        return self.noise(x)
"""
    result, made = ported(HEAD + source, tmp_path)
    assert "self.noise = Noise(0.5, rngs=rngs)" in result.code
    assert "x = dropout(x, self.p, not self.deterministic, rngs=self.rngs)" in result.code
    model, x = made["Net"](rngs=nnx.Rngs(0)), jax.numpy.ones((100, 100))
    first, second = model(x), model(x)
    assert abs(float(first.mean()) - 1) < 0.05
    assert float(abs(first - second).max()) > 1
    model.eval()
    np.testing.assert_array_equal(model(x), x)


def test_initial_weights_have_torch_s_distribution(tmp_path):
    import torch

    _, made = ported(HEAD + PROGRAMS["a small ResNet"][0], tmp_path)
    original = {"__name__": "original"}
    exec(compile(HEAD + PROGRAMS["a small ResNet"][0], "model.py", "exec"), original)
    torch.manual_seed(0)
    model, twin = original["Net"](64), made["Net"](64, rngs=nnx.Rngs(0))
    for path in ("stem", "layers.1.conv2", "fc"):
        weight = model.get_submodule(path).weight.detach().numpy()
        found = np.asarray(flax_twin.part(twin, path).weight[...])
        assert found.shape == weight.shape
        np.testing.assert_allclose(found.std(), weight.std(), rtol=0.1, err_msg=path)
        np.testing.assert_allclose(abs(found).max(), abs(weight).max(), rtol=0.35, err_msg=path)


def test_another_target_is_refused(tmp_path):
    with pytest.raises(ValueError, match='to=\'flax\': accepted are "jaxnet", and "nnx"'):
        port("model.py", to="flax")


def test_the_command_writes_plain_flax(tmp_path):
    from jaxnet import __main__ as command

    source, target = tmp_path / "model.py", tmp_path / "model_nnx.py"
    source.write_text(HEAD + NET.format(made="pass", forward="return self.fc(x)"))
    assert command.main(["port", str(source), "-o", str(target), "--to", "nnx"]) == 0
    is_plain(target.read_text(), tmp_path)
    assert "class Net(nnx.Module):" in target.read_text()


def test_the_page_shows_what_the_command_writes(tmp_path):
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "pages" / "port.md").read_text()
    section = page.partition("## Plain flax.nnx")[2]
    source, jaxnet, nnx_ = (part.partition("```")[0] for part in section.split("```python\n")[1:4])
    file = tmp_path / "model.py"
    file.write_text(source)
    assert port(str(file)).code.endswith(jaxnet)
    result = port(str(file), to="nnx")
    is_plain(result.code, tmp_path)
    assert result.code.endswith(nnx_)
    assert 180 < len(result.code.splitlines()) - len(nnx_.splitlines()) < 240  # "two hundred lines"
