"""Pairs of programs: a training in PyTorch, and what `parity.check` is given for its trace."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks import jaxnet_models
from experiments import (
    bike_forecast,
    cifar2_fc,
    cifar2_net,
    cifar2_nets,
    cifar10_fast,
    ct_scan,
    depth,
    logistic,
    mnist_nets,
    regression13,
    thermometer,
)
from jaxnet import losses, nn
from jaxnet.parity._trace import read as read
from jaxnet.random import Generator
from tests.parity.architectures import Recipe, Task, build, task


@dataclasses.dataclass(frozen=True)
class Pair:
    """One training in both libraries.

    Attributes:
        name: The name in tables.
        train: The PyTorch program, a function of the number of steps.
        subject: A function of the trace that returns the arguments of `parity.check` by name.
    """

    name: str
    train: Callable[[int], None]
    subject: Callable[[Any], dict[str, Any]]


def loop(
    model: Any,
    criterion: Callable[[Any, Any], Any],
    recipe: Recipe,
    data: tuple[np.ndarray, np.ndarray],
    batch: int,
) -> None:
    """The usual training loop of PyTorch, once over the data.

    Args:
        model: The model.
        criterion: The loss as a function of outputs and targets.
        recipe: How it is trained.
        data: Inputs and targets.
        batch: The number of rows of a batch.
    """
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    optimizer, scheduler = recipe.of_torch(model)
    loader = DataLoader(TensorDataset(*map(torch.tensor, data)), batch)
    for i, (inputs, targets) in enumerate(loader, 1):
        loss = criterion(model(inputs), targets)
        (loss / recipe.parts if recipe.parts > 1 else loss).backward()
        if i % recipe.parts:
            continue
        if recipe.clip is not None:
            kind, bound = recipe.clip
            clips = {"norm": "clip_grad_norm_", "value": "clip_grad_value_"}
            getattr(torch.nn.utils, clips[kind])(model.parameters(), bound)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()


def objective(criterion: Callable[[Any, Any], Any], parts: int = 1) -> Callable[[Any, Any], Any]:
    """jaxnet's loss of a model and a batch, divided as the loop divides it."""

    def loss(model: Any, batch: Any) -> Any:
        inputs, targets = batch
        value = criterion(model(inputs), targets)
        return value / parts if parts > 1 else value

    return loss


def of_task(name: str, one: Task, seed: int = 0, jaxnet: Task | None = None) -> Pair:
    """The pair of a description.

    Args:
        name: Its name.
        one: The description.
        seed: The seed of weights and data.
        jaxnet: The description of jaxnet's side where it differs, which is a planted fault.
    """
    other = one if jaxnet is None else jaxnet

    def criterion(library: Any, loss: tuple[Any, Mapping[str, Any]]) -> Callable[[Any, Any], Any]:
        def value(outputs: Any, targets: Any) -> Any:
            if one.kind == "tokens":
                outputs, targets = outputs.reshape(-1, one.targets), targets.reshape(-1)
            function = loss[0] if callable(loss[0]) else getattr(library, loss[0])
            return function(outputs, targets, **loss[1])

        return value

    def train(steps: int) -> None:
        import torch

        torch.manual_seed(seed)
        model = build(one.network, torch.nn)
        rows = one.data(steps * one.recipe.parts * one.batch - one.missing, seed)
        loop(model, criterion(torch.nn.functional, one.loss), one.recipe, rows, one.batch)

    def subject(trace: Any) -> dict[str, Any]:
        model = build(other.network, nn, Generator(seed))
        return {
            "model": model,
            "loss": objective(criterion(losses, other.loss), other.recipe.parts),
            "optimizer": other.recipe.of_jaxnet(len(trace.steps)),
            "weights": "own" if isinstance(model, nn.Module) else "copy",  # flax draws others
        }

    return Pair(name, train, subject)


def architecture(seed: int) -> Pair:
    """The pair of a random architecture."""
    return of_task(f"random {seed}", task(seed), seed)


_SGD, _MOMENTUM = (
    Recipe(("SGD", {"lr": 1e-2})),
    Recipe(("SGD", {"lr": 1e-2, "momentum": 0.9})),
)
_ADAM, _ADAM3 = Recipe(("Adam", {"lr": 1e-3})), Recipe(("Adam", {"lr": 3e-3}))
_PIXELS, _DIGIT = (3, 32, 32), (1, 28, 28)
_FILTERS = np.random.RandomState(1).randn(6, 3, 2, 2).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Document:
    """One network of the documents.

    Attributes:
        network: A function of `rngs` that makes jaxnet's network.
        torch: The name of PyTorch's in documents_torch, with its arguments.
        inputs: The shape of one input.
        targets: The number of classes, or the shape of one target.
        criterion: The name of the loss in both libraries: a key of `CRITERIA`.
        recipe: How it is trained.
    """

    network: Callable[..., Any]
    torch: tuple[Any, ...]
    inputs: tuple[int, ...]
    targets: int | tuple[int, ...]
    criterion: str
    recipe: Recipe = _SGD

    def data(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, as the document's have their shapes and ranges."""
        r = np.random.RandomState(0)
        x = r.randn(rows, *self.inputs).astype(np.float32)
        if isinstance(self.targets, int):
            return x, r.randint(0, self.targets, rows)
        y = r.randn(rows, *self.targets)
        return x, (y > 0 if "binary" in self.criterion else y).astype(np.float32)


DOCUMENTS = {
    "Net": Document(cifar2_net.Net, ("Net",), _PIXELS, 2, "cross_entropy"),
    "FunctionalNet": Document(
        cifar2_net.FunctionalNet, ("NetWidth", 16), _PIXELS, 2, "cross_entropy"
    ),
    "NetWidth": Document(cifar2_nets.NetWidth, ("NetWidth",), _PIXELS, 2, "cross_entropy"),
    "NetDropout": Document(cifar2_nets.NetDropout, ("NetDropout",), _PIXELS, 2, "cross_entropy"),
    "NetBatchNorm": Document(
        cifar2_nets.NetBatchNorm, ("NetBatchNorm",), _PIXELS, 2, "cross_entropy"
    ),
    "NetRes": Document(cifar2_nets.NetRes, ("NetRes",), _PIXELS, 2, "cross_entropy"),
    "NetResDeep": Document(
        functools.partial(cifar2_nets.NetResDeep, 32, 3), ("NetResDeep", 32, 3), _PIXELS, 2,
        "cross_entropy", Recipe(("SGD", {"lr": 3e-3})),
    ),
    "DeepNet": Document(
        functools.partial(depth.DeepNet, 3, True, True), ("DeepNet", 3), _PIXELS, 2,
        "cross_entropy",
    ),
    "sigmoid": Document(mnist_nets.Network, ("Network",), _DIGIT, 10, "probabilities", _ADAM),
    "sigmoid, functional": Document(
        mnist_nets.FunctionalNetwork, ("FunctionalNetwork",), _DIGIT, 10, "probabilities", _ADAM
    ),
    "sigmoid, named": Document(
        mnist_nets.named_network, ("named_network",), _DIGIT, 10, "probabilities", _ADAM
    ),
    "classifier": Document(
        mnist_nets.classifier, ("classifier",), _DIGIT, 10, "nll_loss",
        Recipe(("SGD", {"lr": 0.003, "momentum": 0.9})),
    ),
    "Keras's net": Document(
        mnist_nets.keras_net, ("keras_net",), _DIGIT, 10, "cross_entropy", _ADAM
    ),
    "stack": Document(
        mnist_nets.NeuralNetwork, ("NeuralNetwork",), _DIGIT, 10, "cross_entropy"
    ),
    "dropout": Document(mnist_nets.SimpleNet, ("SimpleNet",), _DIGIT, 10, "nll_loss", _ADAM),
    "mlp": Document(mnist_nets.MLP, ("MLP",), _DIGIT, 10, "cross_entropy"),
    "leaky": Document(
        functools.partial(mnist_nets.MLP, nn.LeakyReLU), ("MLP", "LeakyReLU"), _DIGIT, 10,
        "cross_entropy",
    ),
    "fully connected": Document(
        cifar2_fc.fully_connected, ("fully_connected",), (3072,), 2, "nll_loss"
    ),
    "deeper": Document(cifar2_fc.deeper, ("deeper",), (3072,), 2, "nll_loss"),
    "logistic": Document(
        logistic.LogisticRegression, ("LogisticRegression",), (784,), (), "binary_cross_entropy",
        Recipe(("SGD", {"lr": 0.1, "weight_decay": 0.01})),
    ),
    "logistic, dist": Document(
        logistic.LogisticRegression, ("LogisticRegression",), (784,), (), "binary dist"
    ),
    "thermometer, line": Document(
        functools.partial(nn.Linear, 1, 1), ("Linear", 1, 1), (1,), (1,), "mse_loss"
    ),
    "thermometer, tanh": Document(
        lambda rngs: thermometer.net(8, rngs), ("thermometer_net", 8), (1,), (1,), "mse_loss",
        Recipe(("SGD", {"lr": 1e-3})),
    ),
    "wine": Document(
        lambda rngs: nn.Sequential(
            nn.Linear(11, 32, rngs=rngs), nn.Tanh(), nn.Linear(32, 1, rngs=rngs)
        ),
        ("wine_net", 11, 32), (11,), (1,), "mse_loss", _ADAM,
    ),
    "bikes, fully connected": Document(
        lambda rngs: bike_forecast.fully_connected(9, 24, rngs),
        ("bikes_fully_connected", 9, 24), (9, 24), (1,), "mse_loss", _ADAM,
    ),
    "bikes, Conv1d": Document(
        lambda rngs: bike_forecast.convolutional(9, 24, rngs),
        ("bikes_convolutional", 9, 24), (9, 24), (1,), "mse_loss", _ADAM,
    ),
    "CT, Conv3d": Document(
        ct_scan.Denoiser, ("Denoiser",), (1, 8, 8, 8), (1, 8, 8, 8), "mse_loss", _ADAM3
    ),
    "regression": Document(
        functools.partial(regression13.DLModel, 13, 1), ("DLModel", 13, 1), (13,), (1,), "mse_loss"
    ),
    "regression, nested": Document(
        functools.partial(regression13.NestedModel, 13, 1), ("NestedModel", 13, 1), (13,), (1,),
        "mse_loss",
    ),
    "CIFAR-10, fast": Document(
        functools.partial(cifar10_fast.Net, 4, _FILTERS), ("FastNet", 4, 6, 2), _PIXELS, 10,
        "cross_entropy", Recipe(("SGD", {"lr": 0.1, "momentum": 0.85, "nesterov": True})),
    ),
    "ResNet-18": Document(
        functools.partial(jaxnet_models.ResNet18, 10, 8), ("ResNet18", 10, 8), _PIXELS, 10,
        "cross_entropy", _MOMENTUM,
    ),
}  # fmt: skip


def document(name: str, batch: int = 4) -> Pair:
    """The pair of a network of the documents.

    Args:
        name: A key of `DOCUMENTS`.
        batch: The number of rows of a batch.
    """
    one = DOCUMENTS[name]
    # The filters of the last one are given, and not drawn.
    weights = "copy" if name == "CIFAR-10, fast" else "own"

    def train(steps: int) -> None:
        import torch
        from torch.nn import functional as F

        from benchmarks import torch_models
        from tests.parity import documents_torch

        criteria: dict[str, Any] = {
            "probabilities": lambda p, y: F.nll_loss(torch.log(p), y),
            "binary dist": documents_torch.dist,
        }
        torch.manual_seed(0)
        kind, *given = one.torch
        home = next(m for m in (documents_torch, torch_models, torch.nn) if hasattr(m, kind))
        given = [getattr(torch.nn, g) if isinstance(g, str) else g for g in given]
        criterion = criteria.get(one.criterion) or getattr(F, one.criterion)
        loop(getattr(home, kind)(*given), criterion, one.recipe, one.data(steps * batch), batch)

    def subject(trace: Any) -> dict[str, Any]:
        criteria: dict[str, Any] = {
            "probabilities": mnist_nets.OUTPUTS["probabilities"][0],
            "binary dist": logistic.dist,
        }
        criterion = criteria.get(one.criterion) or getattr(losses, one.criterion)
        return {
            "model": one.network(rngs=Generator(0)),
            "loss": objective(criterion),
            "optimizer": one.recipe.of_jaxnet(len(trace.steps)),
            "weights": weights,
        }

    return Pair(name, train, subject)
