"""experiments/tensors.py and the two columns of experiments/tensor_lines.py"""

import re

import numpy as np
import pytest

from experiments import tensors
from experiments.harness import registry
from experiments.tensor_lines import LINES, NAN, START, Line


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.what)
def test_jax_gives_the_result(line):
    got = tensors.evaluate(line.jax)
    assert tensors.agrees(got, line.jax_result), got


@pytest.mark.torch
@pytest.mark.parametrize("line", LINES, ids=lambda line: line.what)
def test_torch_gives_the_result(line):
    import torch

    def fails(text):
        with pytest.raises(RuntimeError):
            eval(text, names)
        return True

    def sees(make):
        source = np.zeros(1_000_000, np.float32)
        tensor = make(source)
        source[:] = 1
        return bool((tensor == 1).any())

    def same(*arrays):
        numpy = {x.ctypes.data for x in arrays if isinstance(x, np.ndarray)}
        return len(numpy | {x.data_ptr() for x in arrays if isinstance(x, torch.Tensor)}) == 1

    def shown(**options):
        torch.set_printoptions(**options)
        try:
            text = str(torch.arange(2000.0))
        finally:
            torch.set_printoptions(profile="default")
        return [float(number) for number in re.findall(r"\d+\.?\d*(?:e[+-]?\d+)?", text)]

    def deterministic(text):
        torch.use_deterministic_algorithms(True)
        try:
            return eval(text, names)
        finally:
            torch.use_deterministic_algorithms(False)

    def stepped(frozen):
        layer = torch.nn.Linear(3, 2)
        layer.get_parameter(frozen).requires_grad_(False)
        before = {name: p.detach().clone() for name, p in layer.named_parameters()}
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        torch.nn.MSELoss()(layer(torch.ones(4, 3)), torch.ones(4, 2)).backward()
        optimizer.step()
        return {name: bool((p != before[name]).any()) for name, p in layer.named_parameters()}

    def grad_fn(tensor):
        return type(tensor.grad_fn).__name__

    def put(tensor):
        tensor[0, 1] = 9.0
        return tensor

    def changed(tensor):
        tensor.numpy()[0] = 9.0
        return bool((tensor[0] == 9.0).all())

    def backward_twice(function, x):
        x.requires_grad_()
        for _ in range(2):
            function(x).backward()
        return x.grad

    helpers = (fails, sees, same, shown, deterministic, stepped, grad_fn, put, changed,
               backward_twice)  # fmt: skip
    names = {"torch": torch, "np": np} | {helper.__name__: helper for helper in helpers}
    names |= {name: torch.tensor(value) for name, value in START.items()}
    if "grad_fn" in line.torch:
        names |= {name: names[name].requires_grad_() for name in ("a", "b")}
    torch.manual_seed(1)
    got = eval(line.torch, names)
    parts = got if isinstance(got, list) else [got]
    parts = [part.tolist() if isinstance(part, torch.Tensor) else part for part in parts]
    got = parts if isinstance(got, list) else parts[0]
    assert tensors.agrees(got, line.result), got


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (True, 1.5),
        (1.0, 2.0),
        ([1.0, 2.0], [1.0, 2.00001]),
        ([1.0], [1.0, 2.0]),
        ([1.0, NAN], [1.0, 2.0]),
        ("float32", "float64"),
        (["add"], ["mul"]),
        ([3.0, None], [3.0, 2.0]),
        ({"weight": True}, {"weight": False}),
        ([[3.0, 6.0], [2, 1]], [[3.0, 6.0], [2, 2]]),
    ],
)
def test_a_wrong_result_of_each_kind_is_seen(got, wanted):
    assert not tensors.agrees(got, wanted)
    assert tensors.agrees(wanted, wanted)


def test_the_run_and_its_verdict(tmp_path, capsys, monkeypatch):
    assert registry.execute("tensors", tensors.Config(out=tmp_path)) == 0
    count = len(LINES)
    said = capsys.readouterr().out
    assert f"{count} of {count} lines give their result" in said
    assert "float64" in said.partition("what takes how long")[2]
    wrong = Line("ones", "torch.ones(1)", "jnp.ones(1)", [2.0])
    monkeypatch.setattr(tensors, "LINES", (wrong,))
    assert registry.execute("tensors", tensors.Config(out=tmp_path)) == 1
