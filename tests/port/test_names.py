"""What names stand for: values that are given again, parameters, and names that jaxnet has too."""

import ast
import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.port import port

pytestmark = pytest.mark.libcst

_HEAD = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n"


@pytest.fixture
def ported(tmp_path, monkeypatch):
    """Ports a text as a file, or one name of it as a package's, and runs the output."""

    def run(text, name=None):
        text = _HEAD + textwrap.dedent(text)
        if name is None:
            file = tmp_path / "model.py"
            file.write_text(text)
            result = port(str(file))
        else:
            package = f"package_{abs(hash((text, name)))}"
            (tmp_path / package).mkdir()
            (tmp_path / package / "__init__.py").write_text("")
            (tmp_path / package / "net.py").write_text(text)
            monkeypatch.syspath_prepend(tmp_path)
            result = port(f"{package}.net:{name}")
        ast.parse(result.code)
        made = {"__name__": "made"}
        exec(compile(result.code, "ported.py", "exec"), made)
        return result, made

    return run


AGAIN = {
    "another value": ("N = 1\nN = N + 2\n", 3),
    "augmented": ("N = 1\nN += 4\n", 5),
    "under a condition": ("import sys\nif sys.maxsize > 5:\n    N = 7\nelse:\n    N = 8\n", 7),
    "only otherwise": ("import sys\nif sys.maxsize < 5:\n    M = 7\nelse:\n    N = 8\n", 8),
    "second of three": ("import sys\nif sys.maxsize < 5:\n    M = 7\nelif sys:\n    N = 9\n", 9),
    "in a loop": ("N = 0\nfor i in range(3):\n    N += i\n", 3),
    "only in a loop": ("for i in range(3):\n    N = i\n", 2),
    "an item": ("D = {}\nD['n'] = 6\nN = D['n']\n", 6),
    "an appended item": ("L = []\nL.append(4)\nN = L[0]\n", 4),
    "decorated later": (
        "def twice(f):\n    return lambda: 2 * f()\n\n\ndef n():\n    return 5\n\n\n"
        "n = twice(n)\nN = 0\nN = n()\n",
        10,
    ),
}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", AGAIN)
def test_a_name_that_is_given_another_value_has_it(ported, name, whole):
    text, value = AGAIN[name]
    result, made = ported(text + "\n\ndef get():\n    return N\n", None if whole else "get")
    assert made["get"]() == value
    assert result.marked == ()


def test_what_is_called_with_a_name_at_the_top_is_said(ported):
    result, _ = ported("def get():\n    return 1\n\n\nprint(get)\nprint(3)\n", "get")
    (note,) = result.marked
    assert note.text == "not ported: print(get)"


def test_a_class_under_a_condition_is_marked(ported):
    result, _ = ported(
        "import sys\nif sys.maxsize > 5:\n    class Net(nn.Module):\n        pass\n"
        "\n\ndef make():\n    return Net()\n"
    )
    assert "class Net: layers that are made under a condition" in result.marked[0].text


def test_a_function_with_overloads_is_the_one_that_computes(ported):
    _, made = ported(
        "from typing import overload\n\n\n@overload\ndef f(x: int) -> int: ...\n\n\n"
        "def f(x):\n    return 2 * x\n"
    )
    assert made["f"](4) == 8


# Parameters whose names torchvision's and timm's builders give another meaning.
KEPT = {
    "weights of a loss": (
        "def f(x, weights):\n    return (x * weights).sum()\n\n\n"
        "def g(x):\n    return f(x, weights=x + 1)\n",
        lambda x: (x * (x + 1)).sum(),
    ),
    "weights with a default": (
        "def f(x, weights=None):\n    if weights is None:\n        return x\n"
        "    return x * weights\n\n\ndef g(x):\n    return f(x, x + 3)\n",
        lambda x: x * (x + 3),
    ),
    "number of a device": (
        "def f(x, device=2):\n    return x * device\n\n\ndef g(x):\n    return f(x, device=5)\n",
        lambda x: x * 5,
    ),
    "pretrained numbers": (
        "def f(x, pretrained):\n    return x + pretrained\n\n\n"
        "def g(x):\n    return f(x, pretrained=x)\n",
        lambda x: x + x,
    ),
    "progress": (
        "def f(x, progress=0.5):\n    return x * progress\n\n\ndef g(x):\n    return f(x, 2)\n",
        lambda x: x * 2,
    ),
    "after a device": (
        "def f(x, device=None, n=1):\n    return x * n\n\n\n"
        "def g(x, device=None):\n    return f(x, device, 3)\n",
        lambda x: x * 3,
    ),
    "dtype of a function": (
        "def f(n, dtype=None, device=None):\n"
        "    return torch.ones(n, dtype=dtype, device=device)\n\n\n"
        "def g(x):\n    return x + f(3, dtype=torch.int32, device=x.device) / 2\n",
        lambda x: x + 0.5,
    ),
    "device of a method": (
        "class Mask:\n    def make(self, n, device=None, k=1):\n"
        "        return k * torch.ones(n, device=device)\n\n"
        "    def both(self, x):\n        return x * self.make(3, x.device, 4)\n\n\n"
        "def g(x):\n    return Mask().both(x)\n",
        lambda x: x * 4,
    ),
    "device without a default": (
        "def f(n, device):\n    return torch.ones(n, device=device)\n\n\n"
        "def g(x):\n    return x + f(3, device=x.device)\n",
        lambda x: x + 1,
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_parameter_is_not_left_out_for_its_name(ported, name):
    text, expected = KEPT[name]
    result, made = ported(text)
    assert result.marked == ()
    x = np.arange(1.0, 4.0, dtype=np.float32)
    np.testing.assert_allclose(made["g"](jnp.asarray(x)), expected(x), rtol=1e-6)


def test_an_argument_that_is_left_out_is_said(ported):
    result, _ = ported(
        "class Net(nn.Module):\n    def __init__(self, pretrained=False):\n"
        "        super().__init__()\n\n\ndef make():\n    return Net(pretrained=True)\n"
    )
    assert "the argument pretrained=True is left out" in result.marked[0].text
    assert re.search(r"raise NotImplementedError\(", result.code)
    assert jax is not None
