"""Ported models compute what PyTorch's compute; benchmarks/port.py has many more."""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import port_cases
from benchmarks.port import Case, _arrays, _in_a_process, _same, _tensors, recorded_draws
from jaxnet import nn
from jaxnet.port import port
from jaxnet.random import Generator

pytestmark = [pytest.mark.libcst, pytest.mark.torch]
_CASES = {case.name: case for case in port_cases.cases([1])}


@pytest.fixture(scope="module")
def modules():
    """What a target is in PyTorch, and ported; each file is ported once."""
    made: dict[str, Any] = {}

    def of(target):
        file, _, name = target.partition(":")
        whole = file if file.endswith("port_examples.py") else target
        if whole not in made:
            result = port(whole)
            assert result.marked == ()
            ported, original = {"__name__": "ported"}, {"__name__": "original"}
            exec(compile(result.code, "ported.py", "exec"), ported)
            exec(compile(Path(file).read_text(), file, "exec"), original)
            made[whole] = original, ported
        return tuple(some[name] for some in made[whole])

    return of


# With draws, in-place changes, buffers, tied weights, loops, and layers that are made by name.
@pytest.mark.parametrize("name", ["GPT", "RNNModel", "RunningNorm", "UNet", "VAE", "GAT", "Policy"])
def test_the_same_seed_gives_the_same_weights_and_outputs(modules, name):
    import torch

    original, made = modules(_CASES[name].target)
    given = port_cases._GIVEN.get(name, {})
    torch.manual_seed(0)
    model = original(**given)
    twin = made(**given, rngs=Generator(0))
    state = model.state_dict()
    assert {n: tuple(v.shape) for n, v in state.items()} == {
        n: v.shape for n, v in twin.state_dict().items()
    }
    for key, value in twin.state_dict().items():
        np.testing.assert_allclose(value, state[key].numpy(), rtol=1e-5, atol=1e-7, err_msg=key)
    twin.load_state_dict(state)
    inputs = [x.astype(np.float32) if x.dtype == np.float64 else x for x in
              _CASES[name].inputs()]  # fmt: skip
    with recorded_draws() as drawn:
        expected = _tensors(model.train()(*map(torch.from_numpy, inputs)))
    with nn.draws(drawn), jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = _arrays(twin.train()(*map(jax.numpy.asarray, inputs)))
    assert len(found) == len(expected) > 0
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other, one.detach().numpy(), rtol=1e-4, atol=1e-5)
    for key, value in model.state_dict().items():  # buffers that forward changes
        np.testing.assert_allclose(twin.state_dict()[key], value.numpy(), rtol=1e-5, err_msg=key)


def _result(expected, found):
    result = {}
    try:
        _same(result, "eval", [np.asarray(x) for x in expected], [np.asarray(x) for x in found])
    except ValueError as error:
        return result["eval"], str(error)
    return result["eval"], ""


_NAN = float("nan")


@pytest.mark.parametrize(
    ("expected", "found", "words"),
    [
        ([[1.0]], [[_NAN]], "not a number"),
        ([[_NAN]], [[1.0]], "not a number"),
        ([[_NAN]], [[_NAN]], "not a number"),
        ([[_NAN], [1.0]], [[1.0], [1.0]], "not a number"),
        ([[1.0], [1.0]], [[_NAN], [1.0]], "not a number"),
        ([[float("inf")]], [[1.0]], "not a number"),
        ([], [], "no numbers"),
        ([[]], [[]], "no numbers"),
        ([[1.0]], [], "0 arrays for 1"),
        ([[1.0, 2.0]], [[1.0]], "shape"),
        ([[1.0]], [[1.1]], "relative error"),
    ],
)
def test_the_benchmark_counts_no_result_that_says_nothing(expected, found, words):
    held, said = _result(expected, found)
    assert not held
    assert words in said


def test_the_benchmark_counts_what_is_the_same():
    assert _result([[1.0, 2.0], []], [[1.0, 2.0], []]) == (True, "")
    assert _result([[1.0, float("-inf")]], [[1.0, float("-inf")]]) == (True, "")


_CHILD = """
import json, os, sys
for name in sys.argv[1:]:
    if name == "bad":
        os._exit(7)
    print(json.dumps({"name": name, "ported": True, "with": sys.argv[1:]}), flush=True)
"""


def test_a_crash_is_a_result_of_the_model_that_crashed_alone():
    """The models that were to come are run in another process."""
    some = [Case(1, name, "", str, tuple) for name in ("a", "bad", "b", "c")]
    results = {r["name"]: r for r in _in_a_process(some, [sys.executable, "-c", _CHILD])}
    assert {name: r["ported"] for name, r in results.items()} == {
        "a": True, "bad": False, "b": True, "c": True
    }  # fmt: skip
    assert "exit status 7" in results["bad"]["cause"]
    assert results["c"]["with"] == ["b", "c"]
