"""The five MNIST nets of the documents: as modules, and as functions of plain tensors.

The documents are listed in docs/pages/book.md. Each `Program` describes the program of one
document: the net, its loss, optimizer, epochs, batches, normalisation and log lines. A value
that the document does not show is the usual one for that program, and a comment in `PROGRAMS`
says so.
"""

import dataclasses
import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxnet import losses, nn, optim
from jaxnet.nn import functional as F
from jaxnet.random import Generator

Params = dict[str, jax.Array]
Lines = Callable[[int, float, np.ndarray, int], Iterator[str]]
Optimizer = Literal["document", "sgd", "adam"]


class Network(nn.Module):
    """784-256-10 with a sigmoid and a softmax, each a module of its own."""

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        self.hidden = nn.Linear(784, 256, rngs=rngs)
        self.output = nn.Linear(256, 10, rngs=rngs)
        self.sigmoid = nn.Sigmoid()
        self.softmax = nn.Softmax(dim=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.sigmoid(self.hidden(x.reshape(len(x), -1)))
        return self.softmax(self.output(x))


class FunctionalNetwork(nn.Module):
    """The same net with functions for the layers without parameters."""

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        self.hidden = nn.Linear(784, 256, rngs=rngs)
        self.output = nn.Linear(256, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = F.sigmoid(self.hidden(x.reshape(len(x), -1)))
        return F.softmax(self.output(x), dim=1)


def named_network(*, rngs: nn.init.Rngs) -> nn.Sequential:
    """The same net as a sequence of layers with names."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            hidden=nn.Linear(784, 256, rngs=rngs),
            sigmoid=nn.Sigmoid(),
            output=nn.Linear(256, 10, rngs=rngs),
            softmax=nn.Softmax(dim=1),
        )
    )


def classifier(*, rngs: nn.init.Rngs) -> nn.Sequential:
    """784-128-64-10 with ReLU; returns the logarithms of probabilities."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 128, rngs=rngs),
        nn.ReLU(),
        nn.Linear(128, 64, rngs=rngs),
        nn.ReLU(),
        nn.Linear(64, 10, rngs=rngs),
        nn.LogSoftmax(dim=1),
    )


def keras_net(*, rngs: nn.init.Rngs) -> nn.Sequential:
    """784-128-10 with ReLU and dropout; returns logits, and the loss has the softmax.

    The initial weights are those of Keras's layers: Glorot's uniform ones, and zero biases.
    """
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(28 * 28, 128, rngs=rngs),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(128, 10, rngs=rngs),
    )
    for layer in (net[1], net[4]):
        nn.init.xavier_uniform_(layer.weight, generator=rngs)
        nn.init.zeros_(layer.bias)
    return net


class NeuralNetwork(nn.Module):
    """784-512-512-10 with ReLU; returns logits."""

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        self.flatten = nn.Flatten()
        self.linear_relu_stack = nn.Sequential(
            nn.Linear(28 * 28, 512, rngs=rngs),
            nn.ReLU(),
            nn.Linear(512, 512, rngs=rngs),
            nn.ReLU(),
            nn.Linear(512, 10, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.linear_relu_stack(self.flatten(x))


class SimpleNet(nn.Module):
    """784-128-10 with ReLU and dropout; returns the logarithms of probabilities."""

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(28 * 28, 128, rngs=rngs)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(0.2)
        self.fc2 = nn.Linear(128, 10, rngs=rngs)
        self.softmax = nn.LogSoftmax(dim=1)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.dropout(self.relu(self.fc1(self.flatten(x))))
        return self.softmax(self.fc2(x))


class MLP(nn.Module):
    """784-200-200-10 with an activation between the layers; returns logits."""

    def __init__(
        self, activation: Callable[[], nn.Module] = nn.ReLU, *, rngs: nn.init.Rngs
    ) -> None:
        self.model = nn.Sequential(
            nn.Linear(784, 200, rngs=rngs),
            activation(),
            nn.Linear(200, 200, rngs=rngs),
            activation(),
            nn.Linear(200, 10, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.model(x.reshape(len(x), -1))


# For each kind of output the loss, and the function that turns outputs into probabilities.
OUTPUTS: dict[str, tuple[Callable[..., jax.Array], Callable[[jax.Array], jax.Array]]] = {
    "probabilities": (lambda p, y: losses.nll_loss(jnp.log(p), y), lambda p: p),
    "log_probabilities": (losses.nll_loss, jnp.exp),
    "logits": (losses.cross_entropy, lambda z: F.softmax(z, dim=1)),
}


def _plain(epoch: int, mean: float, losses: np.ndarray, rows: int) -> Iterator[str]:
    yield f"Training loss: {mean}"


def _counted(epoch: int, mean: float, losses: np.ndarray, rows: int) -> Iterator[str]:
    yield f"Epoch: {epoch} \tTraining Loss: {mean:.6f}"


def _numbered(epoch: int, mean: float, losses: np.ndarray, rows: int) -> Iterator[str]:
    yield f"Epoch {epoch} - Training loss: {mean}"


def _every_hundredth(epoch: int, mean: float, losses: np.ndarray, rows: int) -> Iterator[str]:
    for i in range(0, len(losses), 100):
        share = i / len(losses)
        seen = -(-rows // len(losses)) * i
        yield f"Train Epoch: {epoch - 1} [{seen}/{rows} ({share:.0%})]\tLoss: {losses[i]:.6f}"


@dataclasses.dataclass(frozen=True)
class Program:
    """One training program of the documents.

    Attributes:
        build: A function of `rngs` that makes the net as a module.
        sizes: The sizes of the layers, the input first.
        activation: The activation between the layers of the plain form.
        gives: The kind of output, a key of `OUTPUTS`.
        optimizer: The document's optimizer, "sgd" or "adam".
        lr: The learning rates of both optimizers; only one of them is the document's.
        epochs: The document's number of passes over the training images.
        batch_size: The number of images in a step.
        mean, std: The mean and deviation that pixels in 0 to 1 are normalised with.
        lines: A function that gives the document's log lines of an epoch, from the number
            of the epoch, the mean loss, the losses of the steps and the number of images.
        weigh_rows: Whether an epoch's mean loss is over images; otherwise it is over batches,
            although the last batch is smaller.
        dropout: The probability of the dropout before the last layer.
        kaiming: Whether the plain form starts from kaiming_normal_ and zero biases, as
            in its document; otherwise it starts like nn.Linear.
        tests_in_loop: Whether each epoch of the PyTorch program goes over a DataLoader of
            the test images, which draws from the random generator.
        closing: The document's last line, with a format code for the percentage of right answers.
    """

    build: Callable[..., nn.Module]
    sizes: tuple[int, ...]
    activation: Callable[[jax.Array], jax.Array]
    gives: str
    optimizer: Literal["sgd", "adam"]
    lr: dict[str, float]
    epochs: int
    batch_size: int
    mean: float
    std: float
    lines: Lines
    weigh_rows: bool = False
    dropout: float = 0.0
    kaiming: bool = False
    tests_in_loop: bool = False
    closing: str = ""

    def make_optimizer(self, name: Optimizer) -> optax.GradientTransformation:
        """The optimizer.

        Args:
            name: The name of the optimizer; "document" means the document's.
        """
        chosen = self.optimizer if name == "document" else name
        return (optim.SGD if chosen == "sgd" else optim.Adam)(lr=self.lr[chosen])

    def epoch_loss(self, losses: np.ndarray, rows: int) -> float:
        """The mean loss of an epoch, as the document computes it.

        Args:
            losses: The losses of the steps.
            rows: The number of images in the epoch.
        """
        if not self.weigh_rows:
            return float(losses.mean())
        sizes = np.minimum(self.batch_size, rows - self.batch_size * np.arange(len(losses)))
        return float((losses * sizes).sum() / rows)

    def start(self, generator: Generator) -> Params:
        """The initial plain tensors by name: w1 (out, in), b1 (out,), w2, and so on, as in torch.

        Args:
            generator: The generator of the numbers.
        """
        params: Params = {}
        fans = list(zip(self.sizes[:-1], self.sizes[1:], strict=True))
        if self.kaiming:
            # The program draws torch.randn first, which kaiming_normal_ then overwrites.
            for fan_in, out in fans:
                generator.randn(out, fan_in)
            for i, (fan_in, out) in enumerate(fans, 1):
                std = (2 / fan_in) ** 0.5
                params[f"w{i}"] = nn.init.draw_normal(generator, (out, fan_in), 0.0, std)
                params[f"b{i}"] = jnp.zeros(out)
            return params
        for i, (fan_in, out) in enumerate(fans, 1):
            params[f"w{i}"], params[f"b{i}"] = (
                variable[...] for variable in nn.Linear(fan_in, out, rngs=generator).parameters()
            )
        return params

    def forward(self, params: Params, x: jax.Array, training: bool = False) -> jax.Array:
        """The net as a function of its tensors.

        Args:
            params: The tensors by name.
            x: The images (N, 1, 28, 28).
            training: Whether dropout is applied.

        Returns:
            The outputs (N, 10), of the kind `gives`.
        """
        x = x.reshape(len(x), -1)
        last = len(self.sizes) - 1
        for i in range(1, last):
            x = self.activation(F.linear(x, params[f"w{i}"], params[f"b{i}"]))
        x = F.dropout(x, self.dropout, training)
        x = F.linear(x, params[f"w{last}"], params[f"b{last}"])
        if self.gives == "logits":
            return x
        return F.softmax(x, dim=1) if self.gives == "probabilities" else F.log_softmax(x, dim=1)


_SGD, _ADAM = 1e-2, 1e-3

PROGRAMS: dict[str, Program] = {
    # The document builds this net but does not train it: loss, optimizer and epochs are ours.
    "sigmoid": Program(
        Network, (784, 256, 10), F.sigmoid, "probabilities",
        "adam", {"sgd": 0.1, "adam": _ADAM}, 5, 64, 0.5, 0.5, _plain,
    ),
    # The document does not show its loader: batches of 64 and (0.5, 0.5) are those of the course
    # that it follows.
    "classifier": Program(
        classifier, (784, 128, 64, 10), F.relu, "log_probabilities",
        "sgd", {"sgd": 0.003, "adam": _ADAM}, 5, 64, 0.5, 0.5, _plain,
    ),
    # The document shows the loop of 30 epochs without a net, and this net without a loop.
    "stack": Program(
        NeuralNetwork, (784, 512, 512, 10), F.relu, "logits",
        "sgd", {"sgd": _SGD, "adam": _ADAM}, 30, 64, 0.0, 1.0, _counted,
        weigh_rows=True,
    ),
    "dropout": Program(
        SimpleNet, (784, 128, 10), F.relu, "log_probabilities",
        "adam", {"sgd": _SGD, "adam": _ADAM}, 5, 64, 0.5, 0.5, _numbered, dropout=0.2,
        closing="Accuracy on test images: %d %%",
    ),
    # The document's listing is not complete; the rest is that of the well-known program.
    "mlp": Program(
        MLP, (784, 200, 200, 10), F.relu, "logits",
        "sgd", {"sgd": _SGD, "adam": _ADAM}, 10, 200, 0.1307, 0.3081, _every_hundredth,
        kaiming=True, tests_in_loop=True,
    ),
    "leaky": Program(
        functools.partial(MLP, nn.LeakyReLU), (784, 200, 200, 10), F.leaky_relu, "logits",
        "sgd", {"sgd": _SGD, "adam": _ADAM}, 10, 200, 0.1307, 0.3081, _every_hundredth,
        kaiming=True, tests_in_loop=True,
    ),
}  # fmt: skip
