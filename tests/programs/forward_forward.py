"""The forward-forward algorithm: each layer has its own loss and optimizer."""

from itertools import pairwise

import jax

from jaxnet import nn, ops, optim, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator
from tests.programs.synthetic import images


def overlay_y_on_x(x, y, classes=10):
    x = x.copy()
    x[:, :classes] = 0.0
    x[range(len(x)), y] = x.max()
    return x


def get_y_neg(y, rngs):
    shifts = rngs.randint(1, 10, y.shape)
    return (y + shifts) % 10


class Layer(nn.Linear):
    def __call__(self, x):
        x_direction = x / (ops.norm(x, 2, 1, keepdim=True) + 1e-4)
        return ops.relu(super().__call__(x_direction))


def loss_function(layer, batch, threshold=1.0):
    x_pos, x_neg = batch
    g_pos = (layer(x_pos) ** 2).mean(1)
    g_neg = (layer(x_neg) ** 2).mean(1)
    return F.softplus(ops.cat([threshold - g_pos, g_neg - threshold])).mean()


class Net(nn.Module):
    def __init__(self, dims, rngs):
        self.layers = nn.ModuleList([Layer(*pair, rngs=rngs) for pair in pairwise(dims)])

    def predict(self, x):
        goodness_per_label = []
        for label in range(10):
            h = overlay_y_on_x(x, label)
            goodness = 0.0
            for layer in self.layers:
                h = layer(h)
                goodness = goodness + (h**2).mean(1)
            goodness_per_label.append(goodness)
        return ops.stack(goodness_per_label, 1).argmax(1)

    def train_layers(self, x_pos, x_neg, epochs):
        optimizer = optim.Adam(lr=0.2)
        step = jax.jit(train.make_train_step(loss_function, optimizer))
        for i, layer in enumerate(self.layers):
            state = train.create(layer, optimizer)
            for _ in range(epochs):
                state, metrics = step(state, (x_pos, x_neg))
                yield metrics["loss"].item()
            self.layers[i] = layer = state.model()
            x_pos, x_neg = layer(x_pos), layer(x_neg)


def main(cast=lambda x: x):
    rngs = Generator(1)
    inputs, y = images(60, 8)
    x = cast(inputs.reshape(-1, 64))
    net = cast(Net([64, 32, 32], rngs))
    x_pos, x_neg = overlay_y_on_x(x, y), overlay_y_on_x(x, get_y_neg(y, rngs))
    yield from net.train_layers(x_pos, x_neg, epochs=25)
    return {**net.state_dict(), "predicted": net.predict(x)}
