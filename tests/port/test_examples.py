"""The page of ported files is what `jaxnet port` writes today: tests docs/port_examples.py."""

import importlib.util
from pathlib import Path

import jax
import pytest

pytestmark = pytest.mark.libcst
FILE = Path(__file__).parents[2] / "docs" / "port_examples.py"


@pytest.fixture(scope="module")
def examples():
    spec = importlib.util.spec_from_file_location("port_examples", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(examples):
    text = examples.PAGE.read_text(encoding="utf-8")
    assert examples.page() == text, "run `python docs/port_examples.py`"
    checked = examples.PROGRAMS.keys() - examples.UNCHECKED.keys()
    assert {name for name, _ in examples._VERDICT.findall(text)} == checked


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gpt", "transformer_language_model", "vae", "word_language_model"]
)
def test_the_verdicts_are_current(examples, name, monkeypatch):
    monkeypatch.chdir(FILE.parents[1])
    known = dict(examples._VERDICT.findall(examples.PAGE.read_text(encoding="utf-8")))[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = examples.verdict(name)
    assert found.partition("  (")[0] == known.strip("`").partition("  (")[0]


def test_lines_are_those_of_code_and_names_do_not_count(examples):
    old = '"""Two\nlines."""\n\nx = torch.exp(y)  # why\n\nz = x.view(1, 2)\nreturned = x.pow(2)\n'
    new = "x = ops.exp(y)\nz = x.reshape(1, 2)\nreturned = ops.pow(x, 2)\nmore = 1\n"
    assert examples.compared(old, new) == (3, 2, 4, {7}, {3, 4})
    assert examples.compared(old, old) == (3, 3, 3, set(), set())


def test_a_number_or_an_operator_is_no_name(examples):
    assert examples.compared("x = y + 1\n", "x = y + 2\n")[1] == 0
    assert examples.compared("x = y + 1\n", "x = y - 1\n")[1] == 0
    assert examples.compared("if x: y = 1\n", "while x: y = 1\n")[1] == 0


def test_arguments_of_random_numbers_are_told_apart(examples):
    text = "f(a, rngs=rngs)\ng(rngs=rngs)\nh(a, generator=rngs)\ndef i(self, *, rngs):\n    pass\n"
    assert "rngs" not in examples._RNGS.sub("", text)
