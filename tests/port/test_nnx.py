"""`jaxnet port --to nnx`: the output is plain flax.nnx, and computes what PyTorch computes."""

import ast
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from jaxnet.port import port
from tests.port import flax_twin
from tests.port.flax_programs import HEAD, PROGRAMS

pytestmark = [pytest.mark.libcst, pytest.mark.torch, pytest.mark.usefixtures("plain_settings")]


@pytest.fixture
def plain_settings():
    """JAX's own settings, with which a user of the output computes."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def ported(source, folder):
    """The output of a program, which is plain flax.nnx, and the namespace that it makes."""
    file = folder / "model.py"
    file.write_text(source)
    result = port(str(file), to="nnx")
    assert not result.marked, result.marked
    is_plain(result.code, folder)
    made = {"__name__": __name__}
    exec(compile(result.code, "ported.py", "exec"), made)
    return result, made


def is_plain(code, folder):
    """Holds that a text imports nothing of jaxnet or torch and passes ruff."""
    tree = ast.parse(code)
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
               for alias in node.names}  # fmt: skip
    modules |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in modules} & {"jaxnet", "torch"}, modules
    assert "jax" in {name.partition(".")[0] for name in modules} | {"jax"}
    file = folder / "ported.py"
    file.write_text(code)
    done = subprocess.run(
        ["ruff", "check", "--isolated", "--select", "E4,E9,F,I", str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def compared(original, twin, inputs, digits=1e-10):
    """Compares results, gradients and buffers, in float64."""
    expected, found = flax_twin.torch_run(original, inputs), flax_twin.flax_run(
        twin, original, inputs)  # fmt: skip
    assert len(found[0]) == len(expected[0]) > 0
    for one, other in zip(expected[0], found[0], strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=digits, atol=digits)
    for part in (1, 2):
        for name, one in expected[part].items():
            size = max(1.0, float(np.abs(one).max(initial=0)))
            np.testing.assert_allclose(
                found[part][name], one, rtol=digits, atol=digits * size, err_msg=name
            )


def twins(source, folder, name="Net"):
    """torch's module and its port, with torch's weights in float64."""
    import torch

    _, made = ported(source, folder)
    original = {"__name__": __name__}
    exec(compile(source, "model.py", "exec"), original)
    torch.manual_seed(0)
    model = original[name]().double()
    try:
        twin = made[name](rngs=nnx.Rngs(0))
    except TypeError as error:
        if "rngs" not in str(error):
            raise
        twin = made[name]()
    nnx.update(twin, jax.tree.map(_wide, nnx.state(twin)))
    spread(model)
    flax_twin.assign(twin, {n: v.detach().numpy() for n, v in arrays(model)}, model)
    return model, twin


def _wide(x):
    floating = jax.numpy.issubdtype(x.dtype, jax.numpy.floating)
    return x.astype(jax.numpy.float64) if floating else x


def arrays(model):
    return [*model.named_parameters(remove_duplicate=False), *model.named_buffers()]


def spread(model):
    """Gives parameters that begin as zeros or ones numbers of their own."""
    import torch

    for parameter in model.parameters():
        with torch.no_grad():
            parameter += 0.1 * torch.randn(parameter.shape, dtype=parameter.dtype)


@pytest.fixture
def digits():
    """Numbers of 64 bits, in both."""
    import torch

    with jax.enable_x64(True):
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_computes_the_same(name, tmp_path, digits):
    source, shapes = PROGRAMS[name]
    model, twin = twins(HEAD + source, tmp_path)
    draws = np.random.default_rng(0)
    inputs = [draws.integers(0, 7, s[1:]) if s[0] == "int" else draws.standard_normal(s)
              for s in shapes]  # fmt: skip
    compared(model.eval(), _eval(twin), inputs)
    for module in model.modules():
        if "Dropout" in type(module).__name__:
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # of an LSTM, an attention
            module.dropout = 0.0
    compared(model.train(), _train(twin), inputs)


def _eval(twin):
    twin.eval()
    return twin


def _train(twin):
    twin.train()
    for _, module in nnx.iter_modules(twin):
        if isinstance(module, nnx.Dropout):
            module.rate = 0.0
    return twin


def test_the_output_runs_without_jaxnet(tmp_path):
    result, _ = ported(HEAD + PROGRAMS["a small ResNet"][0], tmp_path)
    code = (
        "import sys\n"
        "sys.modules['jaxnet'] = sys.modules['torch'] = None\n"
        f"exec(open({str(tmp_path / 'ported.py')!r}).read())\n"
        "model = Net(rngs=nnx.Rngs(0))\n"
        "print(model(jnp.ones((2, 3, 8, 8))).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.strip() == "(2, 4)", done.stderr
