"""Changes in place, and blocks without gradients: the ported line computes the same, or is marked.

Each row is the body of a module. What it says of the row is the claim: "same" rows are run in
PyTorch and as they were ported, and have to agree in their results, their buffers and their
gradients; "marked" rows have to raise an error that names the line.
"""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet import train
from jaxnet.port import port
from jaxnet.random import Generator

pytestmark = [pytest.mark.libcst, pytest.mark.torch]

_NET = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


{outside}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.w = nn.Parameter(torch.ones(4))
        self.register_buffer("mean", torch.zeros(4))
{made}

{methods}

    def forward(self, x: Tensor):
        x = x * 2
{forward}
"""


def net(forward, made="", methods="", outside=""):
    def lines(text, depth):
        return textwrap.indent(textwrap.dedent(text).strip(), " " * depth)

    return _NET.format(
        forward=lines(forward, 8),
        made=lines(made, 8),
        methods=lines(methods, 4),
        outside=textwrap.dedent(outside).strip(),
    )


def _given(found):
    return [leaf for leaf in jax.tree.leaves(found) if hasattr(leaf, "shape")]


def outcome(source, folder):
    """Runs a module in PyTorch and ported; returns what each gives: results, buffers, gradients."""
    import torch

    file = folder / "model.py"
    file.write_text(source)
    ported = port(str(file))
    assert not ported.marked, ported.marked
    # A dataclass looks for the module of the name, which any module can stand for here.
    original, made = {"__name__": __name__}, {"__name__": __name__}
    exec(compile(source, "model.py", "exec"), original)
    exec(compile(ported.code, "ported.py", "exec"), made)
    torch.manual_seed(0)
    model, twin = original["Net"](), made["Net"](rngs=Generator(0))
    twin.load_state_dict(model.state_dict())
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)

    given = torch.from_numpy(x).requires_grad_()
    output = model(given * 1)
    output = output if isinstance(output, tuple | list) else [output]
    output = [y for y in output if isinstance(y, torch.Tensor)]
    loss = sum((y * y).sum() for y in output if y.is_floating_point())
    loss.backward()
    expected = [y.detach().numpy() for y in output]
    expected += [b.detach().numpy() for b in model.buffers()]
    expected += [given.grad.numpy()]
    expected += [np.zeros(p.shape) if p.grad is None else p.grad.numpy()
                 for p in model.parameters()]  # fmt: skip

    structure, params, buffers = train.split(twin)

    def objective(params, x):
        merged = train.merge(structure, params, buffers)
        with jax.numpy_rank_promotion("allow"):
            output = _given(merged(x))
            loss = sum((y * y).sum() for y in output if jnp.issubdtype(y.dtype, jnp.floating))
        return loss, (output, [b[...] for b in merged.buffers()])

    gradients, (output, held) = jax.grad(objective, (0, 1), has_aux=True)(params, jnp.asarray(x))
    names = [name for name, _ in model.named_parameters()]
    return expected, [*output, *held, gradients[1], *(gradients[0][n] for n in names)]


_RELUS = "self.relu = nn.ReLU(inplace=True)"

SAME = {
    "name": {"forward": "x.add_(1)\nreturn x"},
    "second name before": {"forward": "y = x\nz = y * 2\nx = x + 1\nreturn x, z"},
    "second name of a new value": {"forward": "y = x\nx = x + 1\ny.mul_(2)\nreturn x, y"},
    "copy": {"forward": "y = x.clone()\ny.add_(1)\nreturn x, y"},
    "part that is not read again": {"forward": "y = x[0]\ny.add_(1)\nreturn y"},
    "shape of a second name": {"forward": "y = x.t()\nx.add_(1)\nreturn x * y.size(0)"},
    "one way each": {"forward": "y = x\nif x.size(0) > 5:\n    x += 1\n    return x\nreturn x + y"},
    "list of new arrays": {
        "forward": "outs = []\nfor i in range(2):\n    h = self.fc(x)\n    h += i\n"
        "    outs.append(h)\nreturn torch.stack(outs)"
    },
    "residual": {
        "made": _RELUS,
        "forward": "identity = x\nout = self.fc(x)\nout += identity\nout = self.relu(out)\n"
        "return out",
    },
    "argument of what is not known": {
        "outside": "class Helper:\n    def run(self, h):\n        return h * 3\n\n\n"
        "def helper():\n    return Helper()",
        "made": "self.helper = helper()",
        "forward": "z = self.helper.run(x.mul_(2))\nreturn z",
    },
    "named change": {"forward": "y = x.add_(1)\nreturn x + y"},
    "chained change": {"forward": "y = x.add_(1).mul_(2)\nreturn x + y"},
    "functional that is named": {"forward": "y = F.relu(x, inplace=True)\nreturn x + y"},
    "functional as a statement": {"forward": "F.relu(x, True)\nreturn x"},
    "index": {"forward": "x[0] += 1\nx[:, 1:] *= 2\nreturn x"},
    "index twice": {
        "forward": "i = torch.tensor([0, 0, 1])\ny = x.detach().clone()\ny[i] += 1.0\nreturn x + y"
    },
    "mask": {"forward": "x[x > 0] += 1.0\nreturn x"},
    "mask is a copy": {"forward": "x[x > 0].zero_()\nreturn x"},
    "list is a copy": {"forward": "x[[0, 1]].mul_(3)\nreturn x"},
    "copy by a list": {"forward": "y = x[[0, 1]]\ny.mul_(3)\nreturn x, y"},
    "index of an index": {"forward": "x[0][1] = 5.0\nx[1][:2] += 1\nx[2][1].zero_()\nreturn x"},
    "method of a part": {"forward": "x[0].clamp_(0, 1)\nx[1].sub_(2)\nreturn x"},
    "method of a part with two arguments": {"forward": "x[0].add_(x[1], alpha=3)\nreturn x"},
    "list of arrays": {
        "forward": "hs = [x, self.fc(x)]\nhs[1].add_(1)\nhs[0] = hs[0] * 2\nreturn torch.cat(hs, 0)"
    },
    "part of a list's array": {
        "forward": "hs = [self.fc(x), self.fc(x)]\nhs[0][1] = 0.0\nreturn torch.cat(hs, 0)"
    },
    "buffer": {"forward": "self.mean.mul_(0.9).add_(x.mean(0).detach())\nreturn x - self.mean"},
    "buffer's second name": {
        "forward": "m = self.mean\nm.add_(1)\nreturn x - self.mean",
    },
    "buffer that has a part": {"forward": "self.mean[0] += 1\nself.mean[1] = 2\nreturn x"},
    "layer of several": {
        "made": "self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())\n"
        "with torch.no_grad():\n    self.net[0].weight[0] = 0.5\n    self.net[0].bias.add_(1)",
        "forward": "return self.net(x)",
    },
    "detached by data": {"forward": "return x * x.data"},
    "data of a parameter": {"forward": "return x * self.w.data + self.fc.weight.data.sum()"},
    "block": {"forward": "with torch.no_grad():\n    y = self.fc(x)\nreturn x * y"},
    "block with several": {
        "forward": "with torch.no_grad():\n    a, b = x.chunk(2, 1)\n    c = [a, b]\n"
        "    c[0] = a * 2\nreturn x, torch.cat(c, 1)"
    },
    "block and a buffer": {
        "forward": "with torch.no_grad():\n    self.mean.copy_(x.mean(0))\n    self.mean += 1\n"
        "return x * self.mean"
    },
    "block and augmented": {
        "forward": "with torch.no_grad():\n    y = self.fc(x)\n    y += self.w\nreturn x * y"
    },
    "block and return": {
        "methods": "def target(self, x):\n    with torch.no_grad():\n        return self.fc(x)\n",
        "forward": "return x * self.target(x)",
    },
    "decorated": {
        "methods": "@torch.no_grad()\ndef target(self, x):\n    y = self.fc(x)\n"
        "    return y, y + 1",
        "forward": "a, b = self.target(x)\nreturn x * a + b",
    },
    "decorated change": {
        "methods": "@torch.no_grad()\ndef update(self, x):\n    self.mean += x.mean(0)",
        "forward": "self.update(x)\nreturn x * self.mean",
    },
    "decorated without brackets": {
        "methods": "@torch.no_grad\ndef target(self, x):\n    return self.fc(x)",
        "forward": "return x * self.target(x)",
    },
    "switched off by an argument": {
        "forward": "with torch.set_grad_enabled(False):\n    y = self.fc(x)\nreturn x * y"
    },
    "mask that a block makes and another changes": {
        "forward": "with torch.no_grad():\n    keep = 1.0 - (x > 0).float()\n"
        "if x.size(0) > 1:\n    with torch.no_grad():\n"
        "        keep.mul_(keep.numel() / keep.sum().add(1e-7))\nreturn x * keep"
    },
    "new array that a block changes": {
        "forward": "y = torch.zeros(4) + 1\nwith torch.no_grad():\n    y.add_(x[0])\nreturn x * y"
    },
    "view that a block makes": {
        "forward": "with torch.no_grad():\n    y = x.clone().view(-1)\n    y.mul_(2)\n"
        "return x.view(-1) * y"
    },
    "function that changes and gives back": {
        "outside": "def shift(t):\n    t.add_(1)\n    return t",
        "forward": "x = shift(x)\nreturn x",
    },
    "layer that changes": {"made": _RELUS, "forward": "x = self.relu(x)\nreturn x * 2"},
    "method that nobody calls": {
        "methods": "def loss(self, a, b):\n    c = (a - b).std()\n"
        "    return c + a.mean(1, keepdim=True).sum()",
        "forward": "return getattr(self, 'loss')(x, self.fc(x))",
    },
    "method that another object calls": {
        "outside": "class Part(nn.Module):\n    def code(self, a):\n"
        "        return a.std(1, keepdim=True).repeat(1, 4)",
        "made": "self.part = Part()",
        "forward": "return self.part.code(x)",
    },
    "helper of both": {
        "outside": "def scaled(a):\n    return a.std() + a.max(0)[0].sum()",
        "made": "self.s = float(scaled(torch.ones(2, 2)))",
        "forward": "return x * scaled(x)",
    },
}

MARKED = {
    "view": ("y = x[0]\ny.add_(1)\nreturn x", 2),
    "reshaped": ("y = x.view(-1)\ny.mul_(2)\nreturn x", 2),
    "view as a function": ("y = torch.flatten(x)\ny[0] = 3\nreturn x", 2),
    "chunks": ("a, b = x.chunk(2, 1)\na += 1\nreturn x", 2),
    "view of a view": ("y = x.t()\nz = y[0]\nz += 1\nreturn x", 3),
    "view in place": ("x.view(-1).mul_(2)\nreturn x", 1),
    "two names": ("a = b = x\na.add_(1)\nreturn a, b", 2),
    "element of a list": ("hs = [x, x * 2]\nx.add_(1)\nreturn torch.cat(hs)", 2),
    "put into a list": ("hs = []\nhs.append(x)\nx += 1\nreturn torch.cat(hs)", 3),
    "put into a dict": ("d = {}\nd['a'] = x\nx += 1\nreturn d['a']", 3),
    "for every element": ("hs = [x, x * 2]\nfor h in hs:\n    h.add_(1)\nreturn torch.cat(hs)", 3),
    "in a loop": (
        "outs = []\nh = x\nfor i in range(3):\n    outs.append(h)\n    h += 1\nreturn sum(outs)",
        5,
    ),
    "inside an expression": ("y = self.fc(x.mul_(2))\nreturn x + y", 1),
    "functional": ("y = self.fc(F.relu(x, inplace=True))\nreturn x + y", 1),
    "functional by its place": ("y = self.fc(F.relu(x, True))\nreturn x + y", 1),
    "chosen": ("y = x if x.size(0) > 1 else x * 2\ny += 1\nreturn x", 2),
    "unknown index": ("for i, n in [(0, 1)]:\n    x[n].zero_()\nreturn x", 2),
    "part of a copy": ("x[x > 0][0] = 5.0\nreturn x", 1),
    "kept by the module": ("self.last = x\nx += 1\nreturn x", 2),
    "part of a buffer": ("m = self.mean[:2]\nm.add_(1)\nreturn x", 2),
    "parameter": ("self.w.data.clamp_(0, 1)\nreturn x * self.w", 1),
    "parameter that is replaced": ("self.w.data = self.w.data.abs()\nreturn x * self.w", 1),
    "data of an array": ("x.data.mul_(2)\nreturn x", 1),
    "change in a block": ("with torch.no_grad():\n    x.clamp_(0, 1)\nreturn x", 2),
    "second name in a block": ("with torch.no_grad():\n    y = x\n    y.mul_(2)\nreturn y", 3),
    "perhaps the same in a block": (
        "with torch.no_grad():\n    y = x.float()\n    y.mul_(2)\nreturn y",
        3,
    ),
    "zeros that were given a gradient": (
        "y = torch.zeros(4)\ny += x[0]\nwith torch.no_grad():\n    y.mul_(2)\nreturn y",
        4,
    ),
    "name that is given zeros later": (
        "y = x * 3\nwith torch.no_grad():\n    y.mul_(2)\nz = y * 2\ny = torch.zeros(4)\n"
        "return z + y",
        3,
    ),
    "mask that has a gradient on one way": (
        "y = torch.ones(4)\nif x.size(0) > 1:\n    y = y * self.w\nwith torch.no_grad():\n"
        "    y.mul_(2)\nreturn y",
        5,
    ),
    "a switch": ("with torch.set_grad_enabled(self.training):\n    y = x * 2\nreturn y", 1),
    "a switch for all that follows": ("torch.set_grad_enabled(False)\nreturn x", 1),
    "a block that is a value": ("c = torch.no_grad()\nwith c:\n    y = x\nreturn y", 1),
}
"""The lines of `forward`, and which of them is marked."""

MARKED_NETS = {
    "layer": {"made": _RELUS, "forward": "y = self.relu(x)\nreturn x + y"},
    "layer by its place": {
        "made": "self.act = nn.LeakyReLU(0.1, True)",
        "forward": "y = self.act(x)\nreturn x + y",
    },
    "first of several": {
        "made": "self.act = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))",
        "forward": "y = self.act(x)\nreturn x + y",
    },
    "features": {
        "made": "self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))",
        "forward": "outs = []\nfor layer in self.layers:\n    x = layer(x)\n    outs.append(x)\n"
        "return torch.cat(outs)",
    },
    "own layer": {
        "outside": "class Act(nn.Module):\n    def forward(self, t):\n        t += 1\n"
        "        return t",
        "made": "self.act = Act()",
        "forward": "y = self.act(x)\nreturn x + y",
    },
    "function": {
        "outside": "def shift(t):\n    t.add_(1)",
        "forward": "shift(x)\nreturn x",
    },
    "function of a function": {
        "outside": "def shift(t):\n    t.add_(1)\n\n\ndef twice(t):\n    shift(t)\n    return 2",
        "forward": "return x * twice(x)",
    },
    "function that gives a view": {
        "outside": "def first(t):\n    return t[0]",
        "forward": "y = first(x)\ny += 1\nreturn x",
    },
    "buffer by a function": {
        "outside": "def ema(t, x):\n    t.mul_(0.9).add_(x)",
        "forward": "ema(self.mean, x.mean(0))\nreturn x - self.mean",
    },
    "called in a block": {
        "methods": "def update(self, x):\n    self.mean += x.mean(0)",
        "forward": "with torch.no_grad():\n    self.update(x)\nreturn x * self.mean",
    },
    "identity": {
        "made": "self.skip = nn.Identity()",
        "forward": "y = self.skip(x)\ny += 1\nreturn x + y",
    },
}


@pytest.mark.parametrize("name", SAME)
def test_what_is_ported_computes_the_same(name, tmp_path):
    expected, found = outcome(net(**SAME[name]), tmp_path)
    assert len(found) == len(expected)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def marked(source, folder):
    file = folder / "model.py"
    file.write_text(source)
    result = port(str(file))
    compile(result.code, "ported.py", "exec")
    assert "raise NotImplementedError(" in result.code
    return sorted({note.line for note in result.marked})


@pytest.mark.parametrize("name", MARKED)
def test_what_would_be_another_number_is_marked(name, tmp_path):
    lines, number = MARKED[name]
    source = net(lines)
    first = source[: source.index("x = x * 2")].count("\n") + 1
    assert marked(source, tmp_path) == [first + number]


@pytest.mark.parametrize("name", MARKED_NETS)
def test_what_others_change_is_marked(name, tmp_path):
    assert marked(net(**MARKED_NETS[name]), tmp_path)
