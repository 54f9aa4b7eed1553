"""Questions about torch, names that it may have, and arguments that mean nothing: no false marks.

What is right stays unmarked and is run; next to each rule stands a fault that it must not hide.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.random import Generator
from tests.port.conftest import HEAD

pytestmark = pytest.mark.libcst

AUTOCAST = """
def enabled(device="cuda"):
    '''Whether numbers are cast.'''
    try:
        return torch.is_autocast_enabled(device)
    except TypeError:
        return torch.is_autocast_cpu_enabled()


def g(x):
    if enabled(x.device.type):
        x = x.to(torch.get_autocast_dtype("cpu"))
    return x * 2
"""

RIGHT = {
    "question in a function": AUTOCAST,
    "question that is a value": (
        "def exporting():\n    return hasattr(torch, 'x') or torch.compiler.is_exporting()\n\n\n"
        "def g(x):\n    return x * (1 if exporting() else 2)\n"
    ),
    "answer that has a name": (
        "has_relu = 'relu' in dir(F)\nhas_frob = hasattr(F, 'frobnicate')\n\n\n"
        "def g(x):\n    if has_frob:\n        return F.frobnicate(x)\n"
        "    return F.relu(x) * 2 if has_relu else torch.frobnicate(x)\n"
    ),
    "fallback for what jaxnet has": (
        "try:\n    from torch import relu as act\nexcept ImportError:\n    def act(x):\n"
        "        return -x\n\n\ndef g(x):\n    return act(x) * 2\n"
    ),
    "fallback for what jaxnet handles": (
        "try:\n    from torch import _assert\nexcept ImportError:\n    def _assert(t, words):\n"
        "        assert t, words\n\n\n"
        "def g(x):\n    _assert(x.ndim == 1, 'one')\n    return x * 2\n"
    ),
    "fallback for what jaxnet has not": (
        "try:\n    from torch import frobnicate\n    there = True\nexcept ImportError:\n"
        "    there = False\n\n    def frobnicate(x):\n        return x + x\n\n\n"
        "def g(x):\n    return 3 * x if there else frobnicate(x)\n"
    ),
    "fallback that is an import": (
        "try:\n    from torch import inf\nexcept ImportError:\n    from torch._six import inf\n"
        "\n\ndef g(x):\n    return x * 2 + (0 if inf > 1 else 5)\n"
    ),
    "device of a device": (
        "def two(x, device='cuda'):\n    return torch.full((3,), 2.0, device=device)\n\n\n"
        "def g(x):\n    return x * two(x, device=x.device.type)\n"
    ),
    "form of the memory": (
        "def g(x):\n    y = x.clone(memory_format=torch.contiguous_format)\n"
        "    return y.to(memory_format=torch.channels_last) * 2\n"
    ),
    "dtype of what says none": (
        "def g(x: torch.Tensor):\n    return x.to(torch.get_default_dtype()) * 2\n"
    ),
    "lists of lists": (
        "from typing import List\n\n\nclass Net(nn.Module):\n"
        "    def forward(self, x: torch.Tensor):\n"
        "        outs: List[List[torch.Tensor]] = [[] for _ in range(2)]\n"
        "        for i in range(2):\n            outs[i].append(x)\n"
        "        return outs[0][0] + outs[1][0]\n\n\ndef g(x):\n    return Net()(x)\n"
    ),
    "array or dict": (
        "from typing import Dict, Union\n\n\nclass Net(nn.Module):\n"
        "    def forward(self, x: Union[torch.Tensor, Dict[str, torch.Tensor]]):\n"
        "        return x['a'] + x.get('b', 0) if isinstance(x, dict) else x.mul(2)\n\n\n"
        "def g(x):\n    return (Net()({'a': x, 'b': x}) + Net()(x)) / 2\n"
    ),
    "method of the program": (
        "class Table:\n    def frobnicate(self, x):\n        return x + x\n\n\n"
        "class Net(nn.Module):\n    def forward(self, x: torch.Tensor, table):\n"
        "        return table.frobnicate(x)\n\n\ndef g(x):\n    return Net()(x, Table())\n"
    ),
    "base classes of layers": (
        "from torch.nn.modules.conv import _ConvNd\n\n\ndef kind(m):\n"
        "    if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)):\n"
        "        return 1\n    return 2 if isinstance(m, _ConvNd) else 0\n\n\n"
        "def g(x):\n    kinds = kind(nn.BatchNorm2d(3)) + kind(nn.LayerNorm(3)) + kind(nn.ReLU())\n"
        "    return x * kinds\n"
    ),
    "types of the compiler": (
        "from torch.jit.annotations import List, Optional\n\n\n"
        "def add(xs: List[torch.Tensor], y: Optional[int] = None):\n    return sum(xs)\n\n\n"
        "def g(x):\n    return add([x, x])\n"
    ),
    "type that jaxnet has not": (
        "def g(x, later: torch.futures.Future[torch.Tensor] = None, n: torch.SymInt = 2):\n"
        "    return x * n\n"
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_has_no_mark(ported, name):
    result, made = ported(RIGHT[name])
    assert result.marked == ()
    assert "NotImplementedError" not in result.code
    x = np.arange(1.0, 4.0, dtype=np.float32)
    np.testing.assert_array_equal(made["g"](jnp.asarray(x)), 2 * x)


def test_a_function_that_asks_torch_is_folded_where_it_is_called(ported):
    result, _ = ported(AUTOCAST)
    assert "def g(x):\n    return x * 2\n" in result.code
    assert "except" not in result.code


def test_a_function_that_asks_nothing_stays_as_it_is(ported):
    text = "def biased():\n    return False\n\n\ndef g(x):\n    return x if biased() else 2 * x\n"
    result, _ = ported(text)
    assert text in result.code


FAULTS = {
    "name that is bound again": (
        AUTOCAST + "\n\ndef h(x, enabled):\n    return x if enabled() else torch.geqrf(x)\n",
        "torch.geqrf",
    ),
    "answer that is given again": (
        "has_relu = 'relu' in dir(F)\nhas_relu = has_relu and bool([])\n\n\n"
        "def g(x):\n    return F.relu(x) if has_relu else torch.frobnicate(x)\n",
        "torch.frobnicate",
    ),
    "dtype of a cast that is asked for": (
        "def g(x):\n    return x.to(torch.get_autocast_dtype('cpu'))\n",
        "torch.get_autocast_dtype",
    ),
    "name without a fallback": (
        "try:\n    from torch import frobnicate\nexcept ImportError:\n    pass\n\n\n"
        "def g(x):\n    return frobnicate(x)\n",
        "torch.frobnicate",
    ),
    "an argument that is no device": (
        "def two(x, device='cuda'):\n    return torch.full((3,), 2.0, device=device)\n\n\n"
        "def g(x):\n    return x * two(x, device=x.kind)\n",
        "the argument device=x.kind is left out",
    ),
    "form of the memory as a value": (
        "def g(x):\n    return x.frobnicate(torch.contiguous_format)\n",
        "torch.contiguous_format",
    ),
    "list of arrays": (
        "from typing import List\n\n\nclass Net(nn.Module):\n"
        "    def forward(self, xs: List[torch.Tensor]):\n"
        "        return xs[0].frobnicate()\n",
        "Tensor.frobnicate",
    ),
    "base class that is made": (
        "def norm(n):\n    return nn.modules.batchnorm._BatchNorm(n)\n",
        "torch.nn.modules.batchnorm._BatchNorm",
    ),
    "type that is called": ("def g(x):\n    return torch.SymInt(x)\n", "torch.SymInt"),
    "question about a gradient": (
        "class Net(nn.Module):\n    def forward(self, x: torch.Tensor):\n"
        "        return x * 2 if x.requires_grad else x\n",
        "Tensor.requires_grad",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_beside_it_is_marked(ported, name):
    text, words = FAULTS[name]
    result, _ = ported(text)
    assert any(note.text.startswith(words) for note in result.marked), result.marked
    assert "raise NotImplementedError(" in result.code


def test_a_flag_that_is_left_out_is_no_question(ported):
    result, _ = ported(
        """
        class Net(nn.Module):
            def __init__(self, frozen: bool):
                super().__init__()
                self.w = nn.Parameter(torch.ones(3), requires_grad=not frozen)

            def doubled(self):
                new = nn.Parameter(torch.ones(6), requires_grad=self.w.requires_grad)
                new.requires_grad_(self.w.requires_grad)
                self.w = new
        """
    )
    assert result.marked == ()
    assert any("requires_grad=not frozen: freezing" in note.text for note in result.notes)
    assert "self.w = nn.Parameter(ops.ones(3))" in result.code
    assert "requires_grad" not in result.code


NUMBERS = """
class Stem(nn.Module):
    def __init__(self):
        super().__init__()
        self.stride = 4


class Net(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.stem = Stem()
        stride, size = self.stem.stride, sizes[0]
        self.info = []
        for i in range(3):
            step = 2 if i else 1
            stride *= step
            size += step
            self.info += [dict(reduction=stride, size=size, first=sizes[0])]
"""


def test_numbers_of_a_constructor_are_no_arrays(ported):
    result, made = ported(NUMBERS)
    assert result.marked == ()
    infos = made["Net"]((5, 6)).info
    assert infos == [{"reduction": n, "size": s, "first": 5} for n, s in ((4, 6), (8, 8), (16, 10))]


INIT = """
import math


def scaled_(tensor, mean=0.5):
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(tensor)
    with torch.no_grad():
        tensor.uniform_(0, 1)
        tensor.mul_(math.sqrt(fan_in)).add_(mean)
    return tensor


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        scaled_(self.fc.weight)
"""


@pytest.mark.torch
def test_a_chain_of_changes_reaches_the_parameter(ported):
    import torch

    result, made = ported(INIT)
    assert result.marked == ()
    theirs = {}
    exec(compile(HEAD + INIT, "model.py", "exec"), theirs)
    torch.manual_seed(3)
    expected = theirs["Net"]().fc.weight.detach().numpy()
    found = made["Net"](rngs=Generator(3)).fc.weight[...]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
