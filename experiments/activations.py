"""Activation functions: slopes and limits, why they must not be linear, and which trains fastest.

What the documents say of activation functions (1, 2 and 4 in docs/pages/book.md), measured. Two
linear layers are one linear layer, and an activation between them ends that. Most functions have
a limit on one side at least, and where they are near it their slope vanishes. The lesson on
PyTorch as a tool says that networks train much faster with ReLU than with sigmoid or tanh: its
net 784-128-64-10 learns digits with each of the three, from the same weights, on the same
batches, by its SGD with lr 0.003.

    python -m experiments activations

Result (2-core CPU, half a minute): after 5 epochs of 20,000 digits the loss is 0.82 ± 0.04
with ReLU, 0.89 ± 0.03 with tanh and 2.29 with sigmoid (3 seeds). So ReLU is far ahead of sigmoid,
and of tanh by little and at the end only: the first four epochs are tanh's. It depends on the
learning rate: with lr 0.03 tanh ends slightly ahead (0.262 against 0.268, seed 0), and with lr 0.3
ReLU is the worst of the three (1.80; tanh 0.15, sigmoid 0.26).
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import ledger
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, Training
from experiments.harness.tables import mean_and_spread, save_checks, seeds_in_words, show
from jaxnet import data, losses, nn, optim, plots, train, weights
from jaxnet.nn import functional as F
from jaxnet.random import Generator

DATA = ("mnist",)

Activation = Callable[[jax.Array], jax.Array]
INF = float("inf")


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Settings of activations."""

    epochs: Count = 5
    """Passes over the images."""
    seeds: Count = 3
    """Number of runs of each net, from --seed on."""
    lr: Positive = 0.003
    """Learning rate of SGD."""
    images: Count = 20_000
    """Number of the training images that are used."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """What is known of an activation function.

    Attributes:
        function: The function.
        limits: Its limits for inputs towards minus and plus infinity.
        jumps: The inputs at which its slope jumps.
    """

    function: Activation
    limits: tuple[float, float]
    jumps: tuple[float, ...] = ()


SHAPES = {
    "tanh": Shape(jnp.tanh, (-1, 1)),
    "sigmoid": Shape(F.sigmoid, (0, 1)),
    "hardtanh": Shape(F.hardtanh, (-1, 1), (-1, 1)),
    "softplus": Shape(F.softplus, (0, INF)),
    "relu": Shape(F.relu, (0, INF), (0,)),
    "leaky_relu": Shape(F.leaky_relu, (-INF, INF), (0,)),
    # -scale * alpha; its slope jumps from 1.758 to 1.051 where ReLU's jumps from 0 to 1.
    "selu": Shape(F.selu, (-1.0507009873554805 * 1.6732632423543772, INF), (0,)),
}
LAYERS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def limit_checks(shapes: Mapping[str, Shape]) -> list[dict[str, str]]:
    """Whether functions have their limits, and no slope where these are finite.

    Args:
        shapes: The functions with their limits.
    """
    checks = []
    far = jnp.array([-1e4, 1e4])
    measured = jax.jit(
        lambda x: {k: (s.function(x), jax.vmap(jax.grad(s.function))(x)) for k, s in shapes.items()}
    )(far)
    for name, shape in shapes.items():
        values, slopes = (np.asarray(part, np.float64) for part in measured[name])
        finite = np.isfinite(shape.limits)
        near = np.abs(np.where(finite, values - shape.limits, 0)) < 1e-6
        # An infinite limit: the function grows with its input, by at least a hundredth of it.
        grows = np.sign(values) == np.sign(shape.limits)
        away = grows & (np.abs(values) >= 99) & (np.abs(slopes) >= 0.01 * (1 - 1e-6))
        right = np.where(finite, near & (slopes == 0), away)
        words = f"{shape.limits[0]:.5g} and {shape.limits[1]:.5g}"
        found = f"{values[0]:.5g} and {values[1]:.5g}, slopes {slopes[0]:.2g} and {slopes[1]:.2g}"
        checks.append(ledger.check(f"{name} has the limits {words}", found, bool(right.all())))
    return checks


def linear_checks(between: Mapping[str, Activation | None]) -> list[dict[str, str]]:
    """Whether two linear layers are one, and are no longer with an activation between them.

    Args:
        between: The function between the two layers by its name; None for nothing.
    """
    generator = Generator(0)
    first, second = nn.Linear(4, 8, rngs=generator), nn.Linear(8, 3, rngs=generator)
    x = jnp.asarray(generator.randn(200, 4)) * 3
    one = nn.Linear(4, 3, rngs=generator)
    (w1, b1), (w2, b2) = (weights.state_dict(layer).values() for layer in (first, second))
    weights.load_state_dict(one, {"weight": w2 @ w1, "bias": w2 @ b1 + b2})
    columns = np.hstack([x, np.ones((200, 1))]).astype(np.float64)
    checks = []
    for name, function in between.items():
        if function is None:
            gap = float(jnp.abs(second(first(x)) - one(x)).max())
            what = "two linear layers are the one with W2 W1 and W2 b1 + b2"
            checks.append(ledger.check(what, f"outputs differ by {gap:.0e}", gap < 1e-5))
            continue
        y = np.asarray(second(function(first(x))), np.float64)
        rest = y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
        share = float(rest.std() / y.std())
        what = f"with {name} between, the best linear layer is off by more than 1 %"
        checks.append(ledger.check(what, f"{share:.1%} of the deviation", share > 0.01))
    return checks


def learn(
    rows: tuple[np.ndarray, np.ndarray], layer: Callable[[], nn.Module], seed: int, config: Config
) -> list[float]:
    """Trains the net 784-128-64-10 with an activation; returns the training loss by epoch.

    Args:
        rows: The images (N, 784) and digits (N,).
        layer: The activation.
        seed: The seed of the initial weights and the order, the same for every activation.
        config: The settings.
    """
    generator = Generator(seed)
    model = nn.Sequential(
        nn.Linear(784, 128, rngs=generator),
        layer(),
        nn.Linear(128, 64, rngs=generator),
        layer(),
        nn.Linear(64, 10, rngs=generator),
    )
    optimizer = optim.SGD(lr=config.lr)
    result = train.fit(
        train.create(model, optimizer, seed),
        train.make_train_step(train.supervised(losses.cross_entropy), optimizer),
        rows,
        epochs=config.epochs,
        batch_size=64,
        generator=generator,
        quiet=True,
        log=lambda line: None,
    )
    return [line["loss"] for line in result.history]


def speed_checks(curves: Mapping[str, Sequence[Sequence[float]]]) -> list[dict[str, str]]:
    """Whether the loss is lower with ReLU than with the others at the end, for every seed.

    Args:
        curves: The losses by epoch of each seed, by name of the activation.
    """
    last = {name: np.array([curve[-1] for curve in runs]) for name, runs in curves.items()}
    checks = []
    for name in (name for name in last if name != "relu"):
        what = f"the last loss is lower with ReLU than with {name}"
        found = f"{mean_and_spread(last['relu'])} and {mean_and_spread(last[name])}"
        checks.append(ledger.check(what, found, bool((last["relu"] < last[name]).all())))
    return checks


def main(config: Config, run: Run) -> None:
    """Measures the functions, then trains with three of them."""
    checks = limit_checks(SHAPES)
    checks += linear_checks(
        {"nothing": None} | {name: shape.function for name, shape in SHAPES.items()}
    )
    stored = data.load("mnist", split="train", data_dir=config.data_dir)
    images = data.normalize(data.to_tensor(stored.images[: config.images]), (0.5,), (0.5,))
    rows = images.reshape(len(images), 784), stored.labels[: config.images]

    seeds = range(config.seed, config.seed + config.seeds)
    curves = {
        name: [learn(rows, layer, seed, config) for seed in seeds] for name, layer in LAYERS.items()
    }
    show(
        ("training loss", *(f"epoch {i + 1}" for i in range(config.epochs))),
        [(name, *(f"{loss:.3f}" for loss in np.mean(runs, 0))) for name, runs in curves.items()],
        title=f"means of {seeds_in_words(config.seed, config.seeds)}",
    )
    if not {"epochs", "lr", "images"} & config.changed().keys():
        checks += speed_checks(curves)
    save_checks(run, checks)
    last = {name: mean_and_spread([c[-1] for c in runs], 2) for name, runs in curves.items()}
    run.result = "loss " + ", ".join(f"{loss} with {name}" for name, loss in last.items())
    run.metrics |= {"loss": curves}
    _plot_shapes(run.folder / "activations.png")
    epochs = range(1, config.epochs + 1)
    series = [
        plots.Series(name, epochs, np.mean(runs, 0), f"C{k}.-", (np.min(runs, 0), np.max(runs, 0)))
        for k, (name, runs) in enumerate(curves.items())
    ]
    panel = plots.Panel("Digits, 784-128-64-10", "epoch", "mean training loss", series)
    plots.save_panels(run.folder / "training.png", [panel])


def _plot_shapes(path: Path) -> None:
    """Each function with its slope, and the slopes of those that saturate on a log axis."""
    figure, all_axes = plots.make_figure(4, rows=2, width=3.4, height=3.0)
    for axes, (name, shape) in zip(all_axes, SHAPES.items(), strict=False):
        # The parts between the jumps of the slope are drawn apart, so that a jump is a gap.
        ends = [-3.0, *shape.jumps, 3.0]
        for i, (low, high) in enumerate(itertools.pairwise(ends)):
            x = jnp.linspace(low + 1e-3, high - 1e-3, 121)
            words = {} if i else {"value": "f(x)", "slope": "slope f'(x)"}
            axes.plot(x, shape.function(x), "C0-", label=words.get("value"))
            axes.plot(x, jax.vmap(jax.grad(shape.function))(x), "C1--", label=words.get("slope"))
        axes.set_title(name)
        axes.set_ylim(-2, 3)
    x = jnp.linspace(-12, 12, 241)
    for k, name in enumerate(("tanh", "sigmoid", "softplus")):
        slope = jax.vmap(jax.grad(SHAPES[name].function))(x)
        all_axes[-1].plot(x, jnp.where(slope > 0, slope, jnp.nan), f"C{k + 2}-", label=name)
    all_axes[-1].set_yscale("log")
    all_axes[-1].set_ylim(1e-6, 2)
    all_axes[-1].set_title("Slopes that vanish")
    for axes in all_axes:
        axes.grid(alpha=0.3)
        axes.set_xlabel("x")
    for axes in (all_axes[0], all_axes[-1]):
        axes.legend(fontsize=8)
    title = "Activation functions and their slopes"
    plots.save_figure(figure, path, title, f"A panel each: {', '.join(SHAPES)}; slopes by log.")
