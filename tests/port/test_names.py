"""What names stand for: values that are given again, parameters, and names that jaxnet has too."""

import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnet.random import Generator
from tests.port.conftest import HEAD

pytestmark = pytest.mark.libcst

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


# Old constructors and casts: the expression, its value and its dtype, as in torch.
TYPES = {
    "values": ("torch.Tensor([1, 2])", [1, 2], "float32"),
    "values of a tuple": ("torch.Tensor((1, 2))", [1, 2], "float32"),
    "values in a name": ("torch.Tensor(v)", [1, 2], "float32"),
    "length in a name": ("torch.Tensor(n).shape[0] + torch.zeros(1)", [3], "float32"),
    "shape": ("torch.Tensor(2, 3).size(1) + torch.zeros(1)", [3], "float32"),
    "shape of an array": ("torch.Tensor(x.shape).size(0) + torch.zeros(1)", [2], "float32"),
    "another array": ("torch.Tensor(x)", [1, 2], "float32"),
    "bool": ("torch.BoolTensor([0, 1])", [False, True], "bool"),
    "int": ("torch.IntTensor([1.0, 2.0])", [1, 2], "int32"),
    "short": ("torch.ShortTensor(v)", [1, 2], "int16"),
    "type": ("x.type(torch.IntTensor)", [1, 2], "int32"),
    "type as a text": ("x.type('torch.IntTensor')", [1, 2], "int32"),
    "type of the GPU": ("x.type(torch.cuda.IntTensor)", [1, 2], "int32"),
    "dtype": ("x.type(torch.int16)", [1, 2], "int16"),
}


@pytest.mark.parametrize("name", TYPES)
def test_old_constructors_and_casts(ported, name):
    expression, values, dtype = TYPES[name]
    result, made = ported(f"""
        class Net(nn.Module):
            def forward(self, x, v, n):
                return {expression}
    """)
    assert result.marked == ()
    found = made["Net"]()(jnp.asarray([1.0, 2.0]), [1, 2], 3)
    np.testing.assert_array_equal(found, values)
    assert str(found.dtype) == dtype


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("return x.type() == 'torch.FloatTensor'", "x.type() is a text of torch's"),
        ("return isinstance(x, torch.LongTensor)", "arrays have one class"),
        ("return isinstance(x, (torch.Tensor, torch.IntTensor))", "arrays have one class"),
        ("return x + missing", "missing is defined nowhere"),
        ("return torch.Tensor(x.get())", "a shape or values?"),
    ],
)
def test_what_has_no_meaning_in_jaxnet_is_marked(ported, line, words):
    result, _ = ported(f"class Net(nn.Module):\n    def forward(self, x):\n        {line}\n")
    assert any(words in note.text for note in result.marked), result.marked


NAMES = {
    "variable": "ops = [x.mean(1), torch.zeros(2)]\n        return ops[0] + torch.ones(2)",
    "variable nn": "nn = x.mean(1)\n        return torch.conv1d(x[None], x[None])[0, 0] + nn",
    "loop": "for ops in (x, x + 1):\n            x = x + ops.mean()\n        return x.std(1)",
    "argument": "return self.f(ops=x, jax=2)",
    "lambda": "return (lambda ops: ops.mean(1) + torch.ones(2))(x)",
    "math": "math = x.mean()\n        return math * torch.pi",
    "top": "return total(x)",
    "partial": "return partial(x)",
}


@pytest.mark.torch
@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_jaxnet_has_too_stays_the_programs(ported, name):
    import torch

    text = textwrap.dedent("""
        def ops(x):
            return x.std(1)


        def total(x):
            return ops(x) + 1


        def partial(x):
            return x * 2


        class Net(nn.Module):
            def f(self, ops, jax):
                return ops.std(1) * jax + torch.ones(2)

            def forward(self, x):
                LINE
    """).replace("LINE", NAMES[name])
    result, made = ported(text)
    assert result.marked == ()
    original = {}
    exec(HEAD + text, original)
    x = np.asarray([[1.0, 2.0], [4.0, 8.0]], dtype=np.float32)
    with jax.numpy_rank_promotion("allow"):
        found = made["Net"]()(jnp.asarray(x))
    np.testing.assert_allclose(found, original["Net"]()(torch.from_numpy(x)), rtol=1e-6)


def test_a_parameter_rngs_is_said_and_the_output_is_python(ported):
    result, made = ported(
        "class Net(nn.Module):\n    def __init__(self, rngs=3):\n        super().__init__()\n"
        "        self.fc = nn.Linear(rngs, 2)\n"
    )
    assert "the parameter rngs has the name" in result.marked[0].text
    assert made["Net"](rngs=Generator(0)).fc.weight.shape == (2, 3)


LAMBDAS = {
    "of a condition": (
        "if n > 2:\n    self.f = lambda x: F.relu(x)\nelse:\n    self.f = lambda x: x * 2",
        False,
    ),
    "after none": ("self.f = None\nif n > 2:\n    self.f = lambda x: F.relu(x)", False),
    "of an expression": ("self.f = (lambda x: F.relu(x)) if n > 2 else (lambda x: x * 2)", False),
    "once": ("self.f = lambda x: F.relu(self.fc(x))", False),
    "with layers and a condition": (
        "if n > 2:\n    self.f = lambda x: F.relu(self.fc(x))\nelse:\n    self.f = lambda x: x * 2",
        True,
    ),
    "with layers in an expression": ("self.f = (lambda x: self.fc(x)) if n > 2 else F.relu", True),
    "with a local layer": ("act = nn.Linear(3, 3)\nself.f = [lambda x: act(x)]", True),
    "with an argument of a name's": (
        "weight = self.fc.weight\nself.f = lambda x: F.linear(x, weight=weight)",
        False,
    ),
    "a function": ("def f(x):\n    return self.fc(x)\nself.f = f", True),
    "put into a list": ("self.f = []\nself.f.append(lambda x: self.fc(x))", True),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", LAMBDAS)
def test_functions_that_are_attributes_are_the_right_ones(ported, name):
    import torch

    lines, marked = LAMBDAS[name]
    text = (
        "class Net(nn.Module):\n    def __init__(self, n):\n        super().__init__()\n"
        "        self.fc = nn.Linear(3, 3)\n" + textwrap.indent(lines, " " * 8)
        + "\n\n    def forward(self, x):\n        return self.f(x)\n"
    )  # fmt: skip
    result, made = ported(text)
    assert bool(result.marked) == marked
    if marked:
        return
    original = {}
    exec(HEAD + text, original)
    x = np.asarray([[-1.0, 2.0, 3.0]], dtype=np.float32)
    for n in (1, 3) if "n >" in lines and "None" not in lines else (3,):
        model, twin = original["Net"](n), made["Net"](n, rngs=Generator(0))
        twin.load_state_dict(model.state_dict())
        expected = model(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(twin(jnp.asarray(x)), expected, rtol=1e-5)
