"""Questions about torch, names that it may have, and arguments that mean nothing: no false marks.

What is right stays unmarked and is run; next to each rule stands a fault that it must not hide.
"""

import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.port import port

pytestmark = pytest.mark.libcst

_HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"


@pytest.fixture
def ported(tmp_path):
    """Ports a text and runs the output; what it defines comes along."""

    def run(text):
        file = tmp_path / "model.py"
        file.write_text(_HEAD + textwrap.dedent(text))
        result = port(str(file))
        made = {"__name__": "made"}
        exec(compile(result.code, "ported.py", "exec"), made)
        return result, made

    return run


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
