"""The forward-forward algorithm: each layer has its own loss and optimizer, in PyTorch."""

from itertools import pairwise

import torch
from torch import nn, optim

from tests.programs.synthetic import images


def overlay_y_on_x(x, y, classes=10):
    x = x.clone()
    x[:, :classes] = 0.0
    x[range(len(x)), y] = x.max()
    return x


def get_y_neg(y):
    shifts = torch.randint(1, 10, y.shape)
    return (y + shifts) % 10


class Layer(nn.Linear):
    def forward(self, x):
        x_direction = x / (x.norm(2, 1, keepdim=True) + 1e-4)
        return torch.relu(super().forward(x_direction))

    def loss(self, x_pos, x_neg, threshold=1.0):
        g_pos = self.forward(x_pos).pow(2).mean(1)
        g_neg = self.forward(x_neg).pow(2).mean(1)
        return nn.functional.softplus(torch.cat([threshold - g_pos, g_neg - threshold])).mean()


class Net(nn.Module):
    def __init__(self, dims):
        super().__init__()
        self.layers = nn.ModuleList([Layer(*pair) for pair in pairwise(dims)])

    def predict(self, x):
        goodness_per_label = []
        for label in range(10):
            h = overlay_y_on_x(x, label)
            goodness = 0.0
            for layer in self.layers:
                h = layer(h)
                goodness = goodness + h.pow(2).mean(1)
            goodness_per_label.append(goodness)
        return torch.stack(goodness_per_label, 1).argmax(1)

    def train_layers(self, x_pos, x_neg, epochs):
        for layer in self.layers:
            optimizer = optim.Adam(layer.parameters(), lr=0.2)
            for _ in range(epochs):
                loss = layer.loss(x_pos, x_neg)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                yield loss.item()
            x_pos, x_neg = layer(x_pos).detach(), layer(x_neg).detach()


def main(cast=lambda x: x):
    torch.manual_seed(1)
    inputs, targets = images(60, 8)
    x, y = cast(torch.tensor(inputs).reshape(-1, 64)), torch.tensor(targets)
    net = cast(Net([64, 32, 32]))
    x_pos, x_neg = overlay_y_on_x(x, y), overlay_y_on_x(x, get_y_neg(y))
    yield from net.train_layers(x_pos, x_neg, epochs=25)
    return {**net.state_dict(), "predicted": net.predict(x)}
