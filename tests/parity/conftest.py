"""Settings of the tests of parity.

The PyTorch networks import torch at their top, so no doctests are looked for in them.
"""

from collections.abc import Iterator

import jax
import numpy as np
import pytest

from jaxnet import parity

ROWS, STEPS = 5, 2
collect_ignore_glob = ["*_torch.py"]


@pytest.fixture
def usual_settings() -> Iterator[None]:
    """flax and optax do not run under the strictness of these tests, as a user's would not."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


# -- PyTorch programs that models of several libraries are compared with


def recorded(folder, make, inputs, targets):
    """A trace of the usual loop with Adam, its learning rate 0.01."""
    import torch
    from torch.nn import functional as F

    with parity.recording(folder, steps=STEPS):
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        rows = torch.utils.data.TensorDataset(torch.tensor(inputs), torch.tensor(targets))
        for x, y in torch.utils.data.DataLoader(rows, ROWS):
            optimizer.zero_grad()
            F.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
            optimizer.step()
    return folder


def numbers(*shape):
    return np.random.RandomState(0).randn(ROWS * STEPS, *shape).astype(np.float32)


def classes(count, *shape):
    return np.random.RandomState(1).randint(0, count, (ROWS * STEPS, *shape))


@pytest.fixture(scope="session")
def torch_vectors(tmp_path_factory):
    """Three linear layers, of which two have one shape, GELU, a norm, and dropout."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.norm, self.fc2 = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8)
            self.drop, self.fc3 = nn.Dropout(0.3), nn.Linear(8, 4)

        def forward(self, x):
            x = self.norm(nn.functional.gelu(self.fc1(x)))
            return self.fc3(self.drop(torch.relu(self.fc2(x))))

    folder = tmp_path_factory.mktemp("vectors") / "trace"
    return recorded(folder, Model, numbers(6), classes(4))


@pytest.fixture(scope="session")
def torch_images(tmp_path_factory):
    """Two convolutions with batch norms of one shape, and dropout of whole activations."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4)
            self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
            self.drop, self.fc = nn.Dropout(0.3), nn.Linear(4, 4)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            x = self.drop(torch.relu(self.bn2(self.conv2(x))))
            return self.fc(x.mean((2, 3)))

    folder = tmp_path_factory.mktemp("images") / "trace"
    return recorded(folder, Model, numbers(3, 6, 6), classes(4))


@pytest.fixture(scope="session")
def torch_tokens(tmp_path_factory):
    """One block of a transformer; its attention is not dropped, as haiku's has no dropout."""
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm1 = nn.Embedding(7, 4), nn.LayerNorm(4)
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.norm2, self.wide, self.out = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 7)

        def forward(self, tokens):
            x = self.embed(tokens)
            y = self.norm1(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return self.out(nn.functional.gelu(self.wide(self.norm2(x))))

    folder = tmp_path_factory.mktemp("tokens") / "trace"
    return recorded(folder, Model, classes(7, 3), classes(7, 3))
