"""Sources of PyTorch in, sources on jaxnet out: tests jaxnet/port."""

import ast
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import jaxnet.__main__ as command
from jaxnet.port import port

pytestmark = pytest.mark.libcst

_HEAD = """
import math
import torch
import torch.nn as nn
import torch.nn.functional as F
"""


@pytest.fixture
def ported(tmp_path):
    """Ports a text, and says what is wrong with the output as Python."""

    def run(source, head=_HEAD):
        file = tmp_path / "model.py"
        file.write_text(head + textwrap.dedent(source))
        result = port(str(file))
        ast.parse(result.code)
        from jaxnet.port._output import RULES

        ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", RULES, "-"]
        done = subprocess.run(ruff, input=result.code, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        return result

    return run


def forward(lines):
    body = textwrap.indent(textwrap.dedent(lines).strip(), " " * 8)
    return f"class Net(nn.Module):\n    def forward(self, x, y=None):\n{body}\n"


# What a line of `forward` becomes.
LINES = {
    "view": ("return x.view(x.size(0), -1)", "return x.reshape(x.shape[0], -1)"),
    "permute": (
        "return x.permute(0, 2, 1).contiguous()",
        "return ops.permute(x, 0, 2, 1)",
    ),
    "transpose": ("return (x + 1).transpose(1, 2)", "return ops.transpose(x + 1, 1, 2)"),
    "mean": (
        "return x.mean(dim=1, keepdim=True)",
        "return ops.mean(x, dim=1, keepdim=True)",
    ),
    "size": ("b, n = x.size()\nreturn b * n", "b, n = x.shape"),
    "numel": ("return x.numel() * x.dim()", "return x.size * x.ndim"),
    "cat": ("return torch.cat([x, x], dim=1)", "return ops.cat([x, x], dim=1)"),
    "functional": ("return F.softmax(x, dim=-1)", "return F.softmax(x, dim=-1)"),
    "torch.conv2d": ("return torch.conv2d(x, x)", "return nn.functional.conv2d(x, x)"),
    "relu_": ("F.relu_(x)\nreturn x", "x = F.relu(x)"),
    "inplace": ("F.relu(x, inplace=True)\nreturn x", "x = F.relu(x, inplace=True)"),
    "add_": ("x.add_(2)\nreturn x", "x = x + 2"),
    "div_": ("x = x.clone().div_(3)\nreturn x", "x = ops.div(ops.clone(x), 3)"),
    "masked_fill_": ("x.masked_fill_(x > 0, 1.0)\nreturn x", "x = ops.masked_fill(x, x > 0, 1.0)"),
    "item": ("x[:, 0] = 1.0\nreturn x", "x = x.at[:, 0].set(1.0)"),
    "item add": ("x[0] += 1.0\nreturn x", "x = x.at[0].add(1.0)"),
    "item sub": ("x[0] -= 1 + 2\nreturn x", "x = x.at[0].add(-(1 + 2))"),
    "part zero_": ("x[1:].zero_()\nreturn x", "x = x.at[1:].set(0)"),
    "to dtype": ("return x.to(torch.float32)", "return ops.to(x, ops.float32)"),
    "to device": ("return x.to('cuda').cpu()", "return x"),
    "device": (
        "return torch.zeros(3, device=x.device, dtype=x.dtype)",
        "return ops.zeros(3, dtype=x.dtype)",
    ),
    "draw": ("return x + torch.randn_like(x)", "return x + ops.randn_like(x)"),
    "bernoulli_": (
        "return x.new_empty(3).bernoulli_(0.5)",
        "return ops.bernoulli(ops.new_empty(x, 3), 0.5)",
    ),
    "math": ("return x * math.log(2.0)", "return x * math.log(2.0)"),
    "text": ("return 'a b'.split(' '), x.split(1, dim=0)", "ops.split(x, 1, dim=0)"),
    "scripting": (
        "if torch.jit.is_scripting():\n    return y\nreturn x",
        "        return x",
    ),
    "assert": ("torch._assert(x.dim() == 2, 'two')\nreturn x", "assert x.ndim == 2, 'two'"),
    "checkpoint": (
        "return torch.utils.checkpoint.checkpoint(self.f, x, use_reentrant=False)",
        "return nn.checkpoint(self.f, x, use_reentrant=False)",
    ),
    "empty size": ("return torch.ones(size=(2, 3))", "return ops.ones((2, 3))"),
}


def test_lines(ported):
    source = "".join(
        forward(old).replace("class Net", f"class Net{i}")
        for i, (old, _) in enumerate(LINES.values())
    )
    result = ported(source)
    parts = result.code.split("class Net")[1:]
    wrong = {
        name: part
        for (name, (_, new)), part in zip(LINES.items(), parts, strict=True)
        if new not in part
    }
    assert not wrong
    assert result.marked == ()


# What is not supported: a line of `forward`, and what is said of it.
MARKED = {
    "missing function": ("return torch.nonzero(x)", "torch.nonzero: the shape of the result"),
    "missing method": ("return x.unique()", "Tensor.unique: the shape of the result"),
    "unknown": ("return torch.frobnicate(x)", "torch.frobnicate: jaxnet has nothing for it"),
    "argument": (
        "return torch.cat([x], dim=0, out=y)",
        "torch.cat: the argument out= is not there",
    ),
    "layer argument": ("return nn.ReLU(colour=3)(x)", "torch.nn.ReLU: the argument colour="),
    "alias": ("z = x\nx += 1\nreturn x * z", "x is changed in place, and z, which is read later"),
    "part": ("z = x[0]\nz += 1\nreturn x", "z is changed in place, and x, which is read later"),
    "gradient": ("return x.requires_grad", "Tensor.requires_grad: gradients are values"),
}


@pytest.mark.parametrize("name", MARKED)
def test_what_is_not_supported_raises_there(ported, name):
    line, words = MARKED[name]
    result = ported(forward(line))
    (note,) = result.marked
    number = 6 + 2 + ("\n" in line)  # the head, the class and forward
    assert str(note).startswith(f"model.py:{number}: ")
    assert words in note.text
    raised = result.code.index("raise NotImplementedError(")
    assert f"model.py:{number}: {words}" in result.code[raised:]


NET = '''
# Copyright of someone.
"""About nets."""
from torch import Tensor, nn
import torch


def conv(i: int, o: int) -> nn.Conv2d:
    """A convolution."""
    return nn.Conv2d(i, o, 3)  # three


def width(n: int) -> int:
    return 2 * n


class Block(nn.Module):
    """A block."""

    def __init__(self, n: int, norm: type[nn.Module] = nn.BatchNorm2d, *, act=nn.ReLU) -> None:
        super().__init__()
        # the layer
        self.conv = conv(n, width(n))
        self.norm = norm(width(n))
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class Quiet(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x


class Net(nn.Module):
    def __init__(self, block=Block, last=Quiet, **kwargs):
        super().__init__()
        self.blocks = nn.Sequential(*[block(3, **kwargs) for _ in range(2)])
        self.last = last(3)
        self.scale = nn.Parameter(torch.empty(2, 3).normal_(std=0.1))
        self.apply(self._init)

    def _init(self, m):
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight)
            m.bias.data.zero_()

    def forward(self, x):
        return self.last(self.blocks(x))
'''


def test_rngs_go_where_layers_are_made(ported):
    code = ported(NET, head="").code
    for line in (
        "def conv(i: int, o: int, *, rngs: Generator) -> nn.Conv2d:",
        "return nn.Conv2d(i, o, 3, rngs=rngs)  # three",
        "def width(n: int) -> int:",
        "*, act=nn.ReLU, rngs: Generator",
        "self.conv = conv(n, width(n), rngs=rngs)",
        "self.norm = norm(width(n), rngs=rngs)",
        "self.act = act(rngs=rngs)",
        # what is called like something that needs rngs takes it, and has no use for it
        "def __init__(self, n: int, *, rngs: Generator | None = None) -> None:",
        "def __init__(self, block=Block, last=Quiet, *, rngs, **kwargs):",
        "block(3, rngs=rngs, **kwargs)",
        "ops.normal(0.0, 0.1, (2, 3), generator=rngs)",
        "self.apply(partial(self._init, rngs=rngs))",
        "def _init(self, m, *, rngs):",
        "nn.init.kaiming_normal_(m.weight, generator=rngs)",
        "nn.init.zeros_(m.bias)",
        "def __call__(self, x: Array) -> Array:",
        # comments, docstrings and the licence stay
        "# Copyright of someone.",
        '"""About nets."""',
        '"""A block."""',
        "        # the layer\n",
    ):
        assert line in code, line


def test_the_pretrained_weights_of_a_builder_go(ported):
    result = ported(
        """
        def net(*, weights: Optional[Net_Weights] = None, progress: bool = True, **kwargs):
            weights = Net_Weights.verify(weights)
            return _net(3, weights, progress, 4, **kwargs)

        def _net(n, weights, progress, m, **kwargs):
            if weights is not None:
                kwargs["n"] = weights.meta
            model = nn.Linear(n, m, **kwargs)
            if weights is not None:
                model.load_state_dict(weights.get_state_dict(progress=progress))
            return model
        """
    )
    assert "def net(*, rngs, **kwargs):\n    return _net(3, 4, rngs=rngs, **kwargs)" in result.code
    assert "weights" not in result.code


def test_a_lambda_that_holds_layers_becomes_a_method(ported):
    result = ported(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = nn.Linear(2, 2)
                fc = self.fc
                self.f = lambda x: F.relu(fc(x))
                self.n = 1

            def forward(self, x):
                return self.f(x)
        """
    )
    assert "    def f(self, x):\n        return F.relu(self.fc(x))\n" in result.code
    assert result.marked == ()


def test_buffers_are_changed_as_buffers(ported):
    code = ported(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("mean", torch.zeros(3))
                self.register_buffer("count", torch.tensor(0))

            def forward(self, x):
                self.count += 1
                self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
                self.mean.copy_(x[0])
                return x
        """
    ).code
    assert "self.count[...] += 1" in code
    assert "self.mean[...] = ops.add(ops.mul(self.mean, 0.9), ops.mean(x, 0), alpha=0.1)" in code
    assert "self.mean[...] = x[0]" in code


def test_a_class_comes_with_what_it_calls(tmp_path, monkeypatch):
    package = tmp_path / "porting_package"
    package.mkdir()
    (package / "__init__.py").write_text("from .layers import *\n")
    (package / "layers.py").write_text(
        "from torch import nn\n\n\ndef act():\n    return nn.ReLU()\n\n\n"
        "class Fc(nn.Linear):\n    pass\n\n\nclass Unused(nn.Module):\n    pass\n"
    )
    (package / "net.py").write_text(
        "from torch import nn\nfrom . import layers\nfrom porting_package import Fc as Dense\n\n\n"
        "def act():\n    return layers.act()\n\n\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = Dense(2, 3)\n        self.act = act()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = port("porting_package.net:Net")
    assert result.classes == ("Fc", "Net")
    assert "Unused" not in result.code
    assert "self.fc = Fc(2, 3, rngs=rngs)" in result.code
    assert "def act():\n    return act_layers()" in result.code
    assert result.code.index("class Fc") < result.code.index("class Net")


def test_the_page_shows_what_comes_out(tmp_path):
    page = Path(__file__).parents[2] / "docs" / "pages" / "port.md"
    old, new = re.findall(r"```python\n((?:import torch|from jaxnet import nn, ops).*?)```",
                          page.read_text(), re.DOTALL)[:2]  # fmt: skip
    (tmp_path / "model.py").write_text(old)
    ported = port(str(tmp_path / "model.py")).code
    assert ported.removeprefix("# From model.py for PyTorch, by jaxnet port.\n") == new


def test_a_loop_of_training_is_marked(ported):
    result = ported(
        """
        def train(model, data):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loss = F.mse_loss(model(data), data)
            loss.backward()

        if __name__ == "__main__":
            train(nn.Linear(3, 3), torch.ones(3))
        """
    )
    assert [note.line for note in result.marked] == [8, 10]
    for note, words in zip(
        result.marked, ("torch.optim.SGD", "a training loop that is not ported"), strict=True
    ):
        assert note.text.startswith(f"{words}: ")
    assert 'if __name__ == "__main__":\n    train(' in result.code


def test_the_command_writes_a_file_and_says_what_is_marked(tmp_path, capsys):
    source, target = tmp_path / "model.py", tmp_path / "model_jax.py"
    source.write_text(_HEAD + forward("return torch.nonzero(x)"))
    assert command.main(["port", str(source), "-o", str(target)]) == 1
    assert "not supported: model.py:8: torch.nonzero" in capsys.readouterr().err
    assert "def __call__(self, x, y=None):" in target.read_text()
    source.write_text(_HEAD + forward("return x"))
    assert command.main(["port", str(source)]) == 0
    assert "return x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere.py", "there is no file"),
        ("no_such_package.net:Net", "no installed package 'no_such_package'"),
        ("jaxnet.port:Net", "defines no 'Net'"),
    ],
)
def test_a_target_that_is_not_there(target, words, capsys):
    assert command.main(["port", target]) == 2
    assert words in capsys.readouterr().err


def test_without_libcst_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "libcst", None)
    with pytest.raises(ImportError, match="jaxnet port: it needs the package libcst: pip install"):
        port("model.py")
