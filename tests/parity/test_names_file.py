"""What a names.toml may say, and what is said of one that says something else."""

import jax.numpy as jnp
import pytest
from flax import nnx

from jaxnet import parity
from jaxnet.parity._names_file import said, with_flattened
from jaxnet.parity._pairing import pair
from jaxnet.parity._port import SubjectError
from jaxnet.parity._trace import read

pytestmark = pytest.mark.usefixtures("usual_settings")


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """One step of two norms of as many numbers, a linear layer, and a matrix."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.batch, self.layer = torch.nn.BatchNorm1d(8), torch.nn.LayerNorm(8)
            self.fc, self.w = torch.nn.Linear(8, 3), torch.nn.Parameter(torch.ones(3, 4))

        def forward(self, x):
            return self.fc(self.layer(self.batch(x))) @ self.w

    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    folder = tmp_path_factory.mktemp("names") / "trace"
    with parity.recording(folder, steps=1):
        model(torch.randn(5, 8)).square().mean().backward()
        optimizer.step()
    return read(folder)


class Port(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.one, self.two = nnx.LayerNorm(8, rngs=rngs), nnx.LayerNorm(8, rngs=rngs)
        self.fc, self.w = nnx.Linear(8, 3, rngs=rngs), nnx.Param(jnp.ones((4, 3)))


NORMS = {"one": "batch", "two": "layer"}


@pytest.mark.torch
def test_norms_of_two_kinds_are_partners_if_the_user_says_so(trace):
    partners = {p.own: (p.torch, p.why) for p in pair(trace, Port(), {"layers": NORMS}).partners}
    assert partners["one"] == ("batch", "names.toml")
    assert partners["two"] == ("layer", "names.toml")
    with pytest.raises(SubjectError, match=r"'one' = 'fc': their arrays are of other kinds"):
        pair(trace, Port(), {"layers": {"one": "fc"}})


@pytest.mark.torch
def test_axes_and_sizes_are_those_of_the_layers(trace):
    names = {"layers": NORMS, "axes": {"w": [1, 0]}, "flattened": {"fc": [2, 2, 2]}}
    made = pair(trace, Port(), names).made
    assert made["w"].pieces[0].axes == (1, 0)
    assert made["fc.kernel"].pieces[0].shape == (3, 2, 2, 2)


BAD = {
    "[layers]\n'one' = 3": "[layers] 'one' = 3; accepted is the name of a layer of the recorded",
    "axes = 3": "[axes] 3; accepted is a table, with a line for each layer of the model",
    "[axes]\n'w' = 'T'": "[axes] 'w' = 'T'; accepted is a list of the numbers of torch's axes",
    "[axes]\n'w' = [1, 2]": "[axes] 'w' = [1, 2]; accepted is a list of the numbers of torch's",
    "[axes]\n'w' = [0, 1]": "[axes] 'w' = [0, 1]: torch's w has the shape (3, 4), which is not "
    "(4, 3) in this order of its axes; accepted is an order of [0, 1]",
    "[axes]\n'w' = [0, 1, 2]": "[axes] 'w' = [0, 1, 2]: torch's w has the shape (3, 4)",
    "[axes]\n'fc' = [1, 0]": "[axes] 'fc' = [1, 0]: it is a Linear, whose axes are known; "
    "accepted is an array of the model's own",
    "[flattened]\n'fc' = 8": "[flattened] 'fc' = 8; accepted is a list of torch's sizes C, H, W",
    "[flattened]\n'fc' = [-2, 2, -2]": "[flattened] 'fc' = [-2, 2, -2]; accepted is a list of",
    "[flattened]\n'fc' = [2, 2, 3]": "[flattened] 'fc' = [2, 2, 3]: these are 12 numbers, and it "
    "has 8 inputs; accepted are torch's sizes C, H, W",
    "[flattened]\n'one' = [2, 2, 2]": "[flattened] 'one' = [2, 2, 2]: it is a LayerNorm; accepted "
    "is an nnx.Linear",
    "[flattened]\n'w' = [2, 2, 2]": "[flattened] 'w' = [2, 2, 2]: it is an array; accepted is an",
}  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize("text", BAD)
def test_what_does_not_fit_is_said_with_the_file_and_the_key(trace, tmp_path, text):
    file = tmp_path / "names.toml"
    layers = "" if text.startswith(("[layers]", "axes")) else "[layers]\n'one' = 'batch'\n"
    file.write_text(f"{layers}{text}\n")
    with pytest.raises(SubjectError) as error:
        pair(trace, Port(), file)
    assert str(error.value).startswith(f"names: {file}: {BAD[text]}")


def test_what_is_found_besides_does_not_lose_the_file(tmp_path):
    file = tmp_path / "names.toml"
    file.write_text("[flattened]\n'fc' = [8, 1, 1]\n")
    both = said(with_flattened(file, {"fc": (2, 2, 2), "other": (4, 1, 1)}))
    assert both["flattened"] == {"fc": [8, 1, 1], "other": (4, 1, 1)}
    assert both.file == f"names: {file}"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(SubjectError, match=r"names\.toml: 'utf-8' codec"):
        said(file)
