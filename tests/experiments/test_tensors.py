"""experiments/tensors.py: both columns of its table."""

import numpy as np
import pytest

from experiments import tensors
from experiments.harness import registry


@pytest.mark.parametrize("line", tensors.LINES, ids=lambda line: line.what)
def test_jax_gives_the_result(line):
    got = tensors.evaluate(line.jax)
    if isinstance(line.result, list):
        np.testing.assert_allclose(got, line.result, rtol=1e-6)
    else:
        assert got == line.result


@pytest.mark.torch
@pytest.mark.parametrize("line", tensors.LINES, ids=lambda line: line.what)
def test_torch_gives_the_result(line):
    import torch

    def fails(text):
        with pytest.raises(RuntimeError):
            eval(text, names)
        return True

    def shared():
        source = np.zeros(3, np.float32)
        tensor = torch.from_numpy(source)
        source[0] = 1
        return {"torch": tensor[0].item() == 1, "jax": False}

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

    names = {"torch": torch, "np": np, "fails": fails, "shared": shared, "put": put}
    names |= {"changed": changed, "backward_twice": backward_twice}
    names |= {name: torch.tensor(value) for name, value in tensors.START.items()}
    torch.manual_seed(1)
    got = eval(line.torch, names)
    got = got.tolist() if isinstance(got, torch.Tensor) else got
    if isinstance(line.result, list):
        np.testing.assert_allclose(got, line.result, rtol=1e-6)
    else:
        assert got == line.result


def test_the_run_and_its_verdict(tmp_path, capsys, monkeypatch):
    assert registry.execute("tensors", tensors.Config(out=tmp_path)) == 0
    count = len(tensors.LINES)
    assert f"{count} of {count} lines give their result" in capsys.readouterr().out
    wrong = tensors.Line("ones", "torch.ones(1)", "jnp.ones(1)", [2.0])
    monkeypatch.setattr(tensors, "LINES", (wrong,))
    assert registry.execute("tensors", tensors.Config(out=tmp_path)) == 1
