"""The benchmarked models in PyTorch. Import this module inside functions, since it needs torch."""

import itertools
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Twice convolution, tanh and pooling, then two linear layers; variants add layers.

    Args:
        first: The number of channels of the first convolution.
        second: The number of channels of the second convolution.
        norm: Whether there is batch norm after each convolution.
        drop: The probability of the dropout after each pooling; 0 for none.
    """

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
    """A third convolution with a skip connection."""

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


class ResBlock(nn.Module):
    """Convolution, batch norm, ReLU, and a skip connection."""

    def __init__(self, n_chans: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_chans, n_chans, kernel_size=3, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(n_chans)

    def forward(self, x: Any) -> Any:
        return torch.relu(self.batch_norm(self.conv(x))) + x


class NetResDeep(nn.Module):
    """One residual block used many times, as in `experiments.cifar2_variants`."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1)
        self.resblocks = nn.Sequential(*(blocks * [ResBlock(32)]))
        self.fc1 = nn.Linear(32 * 8 * 8, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        out = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        out = F.max_pool2d(self.resblocks(out), 2)
        return self.fc2(torch.relu(self.fc1(out.flatten(1))))


class BasicBlock(nn.Module):
    """Two convolutions with batch norm and a skip connection: torchvision's BasicBlock."""

    def __init__(self, inplanes: int, planes: int, stride: int) -> None:
        super().__init__()
        args: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": False}
        self.conv1 = nn.Conv2d(inplanes, planes, stride=stride, **args)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, **args)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inplanes != planes:
            self.downsample = nn.Sequential(
                nn.Conv2d(inplanes, planes, 1, stride=stride, bias=False),
                nn.BatchNorm2d(planes),
            )

    def forward(self, x: Any) -> Any:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        around = x if self.downsample is None else self.downsample(x)
        return torch.relu(out + around)


class ResNet18(nn.Module):
    """ResNet-18 with torchvision's names, and the usual first layer for images of 32 by 32."""

    def __init__(self, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = self._layer(width, width, 1)
        self.layer2 = self._layer(width, 2 * width, 2)
        self.layer3 = self._layer(2 * width, 4 * width, 2)
        self.layer4 = self._layer(4 * width, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, classes)

    @staticmethod
    def _layer(inplanes: int, planes: int, stride: int) -> nn.Sequential:
        first = BasicBlock(inplanes, planes, stride)
        return nn.Sequential(first, BasicBlock(planes, planes, 1))

    def forward(self, x: Any) -> Any:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        return self.fc(self.avgpool(out).flatten(1))


class Block(nn.Module):
    """Causal attention and two linear layers, each after a LayerNorm, with skip connections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width)
        self.c_attn = nn.Linear(width, 3 * width)
        self.c_proj = nn.Linear(width, width)
        self.ln_2 = nn.LayerNorm(width)
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_out = nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        n, length, width = x.shape
        q, k, v = (
            part.reshape(n, length, self.heads, -1).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(width, dim=-1)
        )
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(heads.transpose(1, 2).reshape(n, length, width))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """A language model with GPT-2's blocks; the embedding of tokens is also the last layer."""

    def __init__(
        self,
        vocabulary: int = 50304,
        length: int = 1024,
        width: int = 768,
        blocks: int = 12,
        heads: int = 12,
    ) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(length, width)
        self.h = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens: Any) -> Any:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)
        return F.linear(self.ln_f(self.h(x)), self.wte.weight)


class Recurrent(nn.Module):
    """A two-layer LSTM and a linear layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 64, 2, batch_first=True)
        self.fc = nn.Linear(64, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(self.lstm(x)[0][:, -1])


def mlp(*sizes: int, activation: type[nn.Module]) -> nn.Module:
    """Linear layers of some sizes with an activation between them.

    Args:
        *sizes: The sizes, the input first.
        activation: The class of the activation.
    """
    layers: list[nn.Module] = []
    for i, o in itertools.pairwise(sizes):
        layers += [nn.Linear(i, o), activation()]
    return nn.Sequential(*layers[:-1])


def trainer(model: Any, x: Any, y: Any, batches: Any, form: str) -> Any:
    """A function without arguments that trains on every batch once.

    Args:
        model: The model.
        x: The inputs.
        y: The classes.
        batches: The row numbers of each batch.
        form: The way PyTorch runs: "eager", "channels_last" or "compile".
    """
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
    """A function without arguments that fits a line by SGD.

    Args:
        t_u: The readings.
        t_c: The degrees Celsius.
        steps: The number of steps.
    """
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
