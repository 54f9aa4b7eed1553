"""The documents' networks in PyTorch. Import this module inside functions, since it needs torch.

The networks of jaxnet beside them are those of the experiments.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1)
        self.act1 = nn.Tanh()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(16, 8, kernel_size=3, padding=1)
        self.act2 = nn.Tanh()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(8 * 8 * 8, 32)
        self.act3 = nn.Tanh()
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        out = self.pool1(self.act1(self.conv1(x)))
        out = self.pool2(self.act2(self.conv2(out)))
        out = out.view(-1, 8 * 8 * 8)
        out = self.act3(self.fc1(out))
        return self.fc2(out)


class NetWidth(nn.Module):
    def __init__(self, n_channel: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, n_channel, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(n_channel, n_channel // 2, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(n_channel // 2 * 8 * 8, 32)
        self.fc2 = nn.Linear(32, 2)
        self.n_channel = n_channel

    def forward(self, x: Any) -> Any:
        out = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        out = F.max_pool2d(torch.tanh(self.conv2(out)), 2)
        out = out.view(-1, 8 * 8 * self.n_channel // 2)
        out = torch.tanh(self.fc1(out))
        return self.fc2(out)


class NetDropout(nn.Module):
    def __init__(self, n_chans1: int = 32) -> None:
        super().__init__()
        self.n_chans1 = n_chans1
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1)
        self.conv1_dropout = nn.Dropout2d(p=0.4)
        self.conv2 = nn.Conv2d(n_chans1, n_chans1 // 2, kernel_size=3, padding=1)
        self.conv2_dropout = nn.Dropout2d(p=0.4)
        self.fc1 = nn.Linear(8 * 8 * n_chans1 // 2, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        out = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        out = self.conv1_dropout(out)
        out = F.max_pool2d(torch.tanh(self.conv2(out)), 2)
        out = self.conv2_dropout(out)
        out = out.view(-1, 8 * 8 * self.n_chans1 // 2)
        out = torch.tanh(self.fc1(out))
        return self.fc2(out)


class NetBatchNorm(nn.Module):
    def __init__(self, n_chans1: int = 32) -> None:
        super().__init__()
        self.n_chans1 = n_chans1
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1)
        self.conv1_batchnorm = nn.BatchNorm2d(num_features=n_chans1)
        self.conv2 = nn.Conv2d(n_chans1, n_chans1 // 2, kernel_size=3, padding=1)
        self.conv2_batchnorm = nn.BatchNorm2d(num_features=n_chans1 // 2)
        self.fc1 = nn.Linear(8 * 8 * n_chans1 // 2, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        out = self.conv1_batchnorm(self.conv1(x))
        out = F.max_pool2d(torch.tanh(out), 2)
        out = self.conv2_batchnorm(self.conv2(out))
        out = F.max_pool2d(torch.tanh(out), 2)
        out = out.view(-1, 8 * 8 * self.n_chans1 // 2)
        out = torch.tanh(self.fc1(out))
        return self.fc2(out)


class NetRes(nn.Module):
    def __init__(self, n_chans1: int = 32) -> None:
        super().__init__()
        self.n_chans1 = n_chans1
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(n_chans1, n_chans1 // 2, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(n_chans1 // 2, n_chans1 // 2, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(4 * 4 * n_chans1 // 2, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        out = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        out = F.max_pool2d(torch.relu(self.conv2(out)), 2)
        out1 = out
        out = F.max_pool2d(torch.relu(self.conv3(out)) + out1, 2)
        out = out.view(-1, 4 * 4 * self.n_chans1 // 2)
        out = torch.relu(self.fc1(out))
        return self.fc2(out)


class ResBlock(nn.Module):
    def __init__(self, n_chans: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_chans, n_chans, kernel_size=3, padding=1, bias=False)
        self.batch_norm = nn.BatchNorm2d(num_features=n_chans)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        nn.init.constant_(self.batch_norm.weight, 0.5)
        nn.init.zeros_(self.batch_norm.bias)

    def forward(self, x: Any) -> Any:
        out = self.conv(x)
        out = self.batch_norm(out)
        out = torch.relu(out)
        return out + x


class NetResDeep(nn.Module):
    def __init__(self, n_chans1: int = 32, n_blocks: int = 10) -> None:
        super().__init__()
        self.n_chans1 = n_chans1
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1)
        self.resblocks = nn.Sequential(*(n_blocks * [ResBlock(n_chans=n_chans1)]))
        self.fc1 = nn.Linear(8 * 8 * n_chans1, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        out = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        out = self.resblocks(out)
        out = F.max_pool2d(out, 2)
        out = out.view(-1, 8 * 8 * self.n_chans1)
        out = torch.relu(self.fc1(out))
        return self.fc2(out)


class DeepNet(nn.Module):
    def __init__(self, n_blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList([ResBlock(32) for _ in range(n_blocks)])
        self.fc1 = nn.Linear(8 * 8 * 32, 32)
        self.fc2 = nn.Linear(32, 2)

    def forward(self, x: Any) -> Any:
        out = F.max_pool2d(torch.relu(self.conv1(x)), 2)
        for block in self.blocks:
            out = torch.relu(block.batch_norm(block.conv(out))) + out
        out = F.max_pool2d(out, 2).flatten(1)
        return self.fc2(torch.relu(self.fc1(out)))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 256)
        self.output = nn.Linear(256, 10)
        self.sigmoid = nn.Sigmoid()
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x: Any) -> Any:
        x = x.view(x.shape[0], -1)
        x = self.hidden(x)
        x = self.sigmoid(x)
        x = self.output(x)
        return self.softmax(x)


class FunctionalNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(784, 256)
        self.output = nn.Linear(256, 10)

    def forward(self, x: Any) -> Any:
        x = torch.sigmoid(self.hidden(x.view(x.shape[0], -1)))
        return F.softmax(self.output(x), dim=1)


def named_network() -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            [
                ("flatten", nn.Flatten()),
                ("hidden", nn.Linear(784, 256)),
                ("sigmoid", nn.Sigmoid()),
                ("output", nn.Linear(256, 10)),
                ("softmax", nn.Softmax(dim=1)),
            ]
        )
    )


def classifier() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 128),
        nn.ReLU(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
        nn.LogSoftmax(dim=1),
    )


def keras_net() -> nn.Module:
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, 128),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(128, 10),
    )
    for each in net:
        if isinstance(each, nn.Linear):
            nn.init.xavier_uniform_(each.weight)
            nn.init.zeros_(each.bias)
    return net


class NeuralNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(28 * 28, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 10),
        )

    def forward(self, x: Any) -> Any:
        x = self.flatten(x)
        return self.linear_relu_stack(x)


class SimpleNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(28 * 28, 128)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.2)
        self.fc2 = nn.Linear(128, 10)
        self.softmax = nn.LogSoftmax(dim=1)

    def forward(self, x: Any) -> Any:
        x = self.flatten(x)
        x = self.relu(self.fc1(x))
        x = self.dropout(x)
        return self.softmax(self.fc2(x))


class MLP(nn.Module):
    def __init__(self, activation: Any = nn.ReLU) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(784, 200),
            activation(),
            nn.Linear(200, 200),
            activation(),
            nn.Linear(200, 10),
        )

    def forward(self, x: Any) -> Any:
        return self.model(x.view(x.shape[0], -1))


def fully_connected() -> nn.Module:
    return nn.Sequential(nn.Linear(3072, 512), nn.Tanh(), nn.Linear(512, 2), nn.LogSoftmax(dim=1))


def deeper() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3072, 1024),
        nn.Tanh(),
        nn.Linear(1024, 512),
        nn.Tanh(),
        nn.Linear(512, 128),
        nn.Tanh(),
        nn.Linear(128, 2),
        nn.LogSoftmax(dim=1),
    )


class LogisticRegression(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(784, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: Any) -> Any:
        return self.sigmoid(self.linear(x)).squeeze(1)


def dist(pred: Any, y: Any) -> Any:
    return ((pred - y) ** 2).sum() / len(y)


def thermometer_net(hidden: int) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            [
                ("hidden_linear", nn.Linear(1, hidden)),
                ("hidden_activation", nn.Tanh()),
                ("output_linear", nn.Linear(hidden, 1)),
            ]
        )
    )


def wine_net(columns: int, hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(columns, hidden), nn.Tanh(), nn.Linear(hidden, 1))


def bikes_fully_connected(channels: int, past: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * past, 64), nn.ReLU(), nn.Linear(64, 1))


def bikes_convolutional(channels: int, past: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.Linear(32 * (past // 2), 1),
    )


class Denoiser(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(1, 8, 3, padding=1)
        self.conv2 = nn.Conv3d(8, 1, 3, padding=1)

    def forward(self, x: Any) -> Any:
        return x - self.conv2(F.relu(self.conv1(x)))


class DLModel(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features=in_features, out_features=out_features)

    def forward(self, X: Any) -> Any:
        return self.linear(X)


class NestedModel(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = DLModel(in_features=in_features, out_features=out_features)

    def forward(self, X: Any) -> Any:
        return self.linear(X)


class FastBlock(nn.Module):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding="same", bias=False)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = nn.BatchNorm2d(n_out, momentum=0.4)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding="same", bias=False)
        self.norm2 = nn.BatchNorm2d(n_out, momentum=0.4)
        self.activation = nn.GELU()

    def forward(self, x: Any) -> Any:
        x = self.activation(self.norm1(self.pool(self.conv1(x))))
        return self.activation(self.norm2(self.conv2(x)))


class FastNet(nn.Module):
    def __init__(self, width: int, filters: int, size: int) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, filters, size)
        self.activation = nn.GELU()
        self.block1 = FastBlock(filters, width)
        self.block2 = FastBlock(width, 4 * width)
        self.block3 = FastBlock(4 * width, 4 * width)
        self.pool = nn.MaxPool2d(3)
        self.head = nn.Linear(4 * width, 10, bias=False)

    def forward(self, x: Any) -> Any:
        x = self.activation(self.whiten(x))
        x = self.pool(self.block3(self.block2(self.block1(x))))
        return self.head(x.view(x.shape[0], -1)) / 9
