"""The benchmarked models as PyTorch writes them. Imports torch: use it inside functions."""

import itertools
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """conv, tanh, pool, twice, and two linear layers; with what the variants add."""

    def __init__(self, first: int, second: int, norm: bool = False, drop: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, first, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(first, second, kernel_size=3, padding=1)
        self.norm1 = nn.BatchNorm2d(first) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(second) if norm else nn.Identity()
        self.drop = nn.Dropout2d(drop) if drop else nn.Identity()
        self.fc1 = nn.Linear(second * 8 * 8, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        out = self.drop(F.max_pool2d(torch.tanh(self.norm1(self.conv1(x))), 2))
        out = self.drop(F.max_pool2d(torch.tanh(self.norm2(self.conv2(out))), 2))
        return self.fc2(torch.tanh(self.fc1(out.flatten(1))))


class NetRes(nn.Module):
    """A third convolution with a way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 16, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(16, 16, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(16 * 4 * 4, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        out = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        out = F.max_pool2d(torch.relu(self.conv2(out)), 2)
        out = F.max_pool2d(torch.relu(self.conv3(out)) + out, 2)
        return self.fc2(torch.relu(self.fc1(out.flatten(1))))


class NetResDeep(nn.Module):
    """One residual block used many times, as the document builds it."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1)
        self.conv = nn.Conv2d(32, 32, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.blocks = blocks
        self.fc1 = nn.Linear(32 * 8 * 8, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        out = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        for _ in range(self.blocks):
            out = torch.relu(self.norm(self.conv(out))) + out
        return self.fc2(torch.relu(self.fc1(F.max_pool2d(out, 2).flatten(1))))


class Recurrent(nn.Module):
    """A two-layer LSTM and a linear layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 64, 2, batch_first=True)
        self.fc = nn.Linear(64, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(self.lstm(x)[0][:, -1])


def mlp(*sizes: int, activation: type[nn.Module]) -> nn.Module:
    """Linear layers with an activation between each two."""
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(sizes):
        layers += [nn.Linear(i, o), activation()]
    return nn.Sequential(*layers[:-1])


def trainer(model: Any, x: Any, y: Any, batches: Any, form: str) -> Any:
    """A function that trains over the batches once: eager, channels_last or compile."""
    inputs, targets = torch.tensor(x), torch.tensor(y).long()
    rows = [torch.tensor(batch) for batch in batches]
    if form == "channels_last":
        model = model.to(memory_format=torch.channels_last)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    if form == "compile":
        model = torch.compile(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def run() -> float:
        for picked in rows:
            loss = F.cross_entropy(model(inputs[picked]), targets[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return run


def thermometer(t_u: Any, t_c: Any, steps: int) -> Any:
    """A line by SGD, step by step."""
    x, y = torch.tensor(t_u), torch.tensor(t_c)

    def run() -> float:
        params = torch.tensor([1.0, 0.0], requires_grad=True)
        optimizer = torch.optim.SGD([params], lr=1e-2)
        for _ in range(steps):
            loss = ((params[0] * x + params[1] - y) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    return run
