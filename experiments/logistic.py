"""Logistic regression: a linear layer, a sigmoid, and why its loss is the cross entropy.

The lesson on classification (4 in docs/pages/book.md), called the document, begins with it in
five lines: the output gets a sigmoid, which brings it near 0 or 1; `dist(pred, y)` measures how
far it is off; the usual loss is the cross entropy. It shows no program and prints no figure.
Here `nn.Linear(784, 1)` tells threes from eights of MNIST with either loss. The problem with
cross entropy and weight decay is convex, so it has one solution, which Newton's method computes
in NumPy: the run has to come to it.

    python -m experiments logistic

Result, 20 epochs on two CPU cores, in half a minute: the training ends within 0.4 % of the minimum,
and 96.9 % of the test images are right (96.7 % with dist).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import ledger, tables
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, Training
from jaxnet import data, losses, metrics, nn, optim, plots, train, weights
from jaxnet.nn import functional as F
from jaxnet.random import Generator

DATA = ("mnist",)
DIGITS = (3, 8)  # which look most alike

Rows = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Settings of logistic."""

    epochs: Count = 20
    """Passes over the 11,982 images of two digits."""
    lr: Positive = 0.05
    """First learning rate of SGD, which falls to 0 as a cosine does."""
    weight_decay: Positive = 0.01
    """The weight of the penalty, without which the weights would grow for ever."""
    batch_size: Count = 64
    """Images in a step."""


class LogisticRegression(nn.Module):
    """Pixels (N, 784) to the probability (N,) of the second digit."""

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        self.linear = nn.Linear(784, 1, rngs=rngs)
        self.sigmoid = nn.Sigmoid()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.sigmoid(self.linear(x))[:, 0]


def dist(pred: jax.Array, y: jax.Array) -> jax.Array:
    """The document's dist(pred, y), the Euclidean distance; squared, and as a mean over rows."""
    return jnp.sum((pred - y) ** 2) / len(y)


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "cross entropy": nn.BCELoss(),
    "dist": dist,
}


def two_digits(split: str, config: Config) -> Rows:
    """The images of the two digits, float32 (N, 784) in 0 to 1, and 0.0 or 1.0 for each."""
    stored = data.load("mnist", split=split, data_dir=config.data_dir)
    rows = np.isin(stored.labels, DIGITS)
    x = stored.images[rows].reshape(-1, 784).astype(np.float32) / 255
    return jnp.asarray(x), jnp.asarray((stored.labels[rows] == DIGITS[1]).astype(np.float32))


def fit(config: Config, loss: Callable[..., jax.Array], training: Rows, test: Rows) -> train.Result:
    """Trains a fresh net with a loss.

    Args:
        config: The settings.
        loss: A function of probabilities (N,) and targets (N,).
        training: The training rows.
        test: The test rows, on which the net is measured after every epoch.
    """

    def objective(model: Any, batch: Rows) -> Any:
        x, y = batch
        p = model(x)
        right = metrics.accuracy(jnp.stack([1 - p, p], axis=1), y.astype(jnp.int32))
        return loss(p, y), {"accuracy": right}

    generator = Generator(config.seed)
    optimizer = optim.SGD(lr=config.lr, weight_decay=config.weight_decay)
    schedule = optim.CosineAnnealingLR(optimizer, T_max=config.epochs)
    return train.fit(
        train.create(LogisticRegression(rngs=generator), optimizer, config.seed),
        train.make_train_step(objective, optimizer),
        training,
        validation=test,
        eval_step=train.make_eval_step(objective),
        eval_batch_size=1000,
        epochs=config.epochs,
        batch_size=config.batch_size,
        generator=generator,
        schedule=schedule.apply,
        quiet=True,
        log=lambda line: None,
    )


def penalized(parameters: np.ndarray, config: Config, rows: Rows) -> float:
    """The function that training minimizes: mean cross entropy and penalty, in float64.

    Args:
        parameters: The 784 weights and the bias, in one vector; weight decay is on all of them.
        config: The settings, for the weight of the penalty.
        rows: The rows.
    """
    x, y = _with_ones(rows)
    z = x @ parameters
    mean = float(np.mean(np.logaddexp(0, z) - y * z))
    return mean + config.weight_decay / 2 * float(parameters @ parameters)


def newton(config: Config, rows: Rows) -> np.ndarray:
    """The one minimum of `penalized`, by Newton's method.

    Args:
        config: The settings, for the weight of the penalty.
        rows: The rows.
    """
    x, y = _with_ones(rows)
    found = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-(x @ found)))
        gradient = x.T @ (p - y) / len(y) + config.weight_decay * found
        curvature = (x * (p * (1 - p))[:, None]).T @ x / len(y)
        curvature[np.diag_indices_from(curvature)] += config.weight_decay
        found -= np.linalg.solve(curvature, gradient)
        if np.abs(gradient).max() < 1e-10:
            return found
    raise FloatingPointError(f"Newton's method: the gradient is still {np.abs(gradient).max():.1e}")


def _with_ones(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(array, np.float64) for array in rows)
    return np.append(x, np.ones((len(x), 1)), axis=1), y


def three_writings(seed: int) -> float:
    """The largest difference of loss and slopes between three writings of the cross entropy.

    Args:
        seed: The seed of the outputs.
    """
    generator = Generator(seed)
    z = jnp.asarray(3 * generator.randn(50))
    y = jnp.asarray((generator.randn(50) > 0).astype(np.float32))
    writings: list[Callable[[jax.Array], jax.Array]] = [
        lambda z: nn.BCELoss()(F.sigmoid(z), y),
        lambda z: nn.BCEWithLogitsLoss()(z, y),
        # Two scores, of which only the difference counts: the softmax of (0, z) is the sigmoid.
        lambda z: losses.cross_entropy(jnp.stack([0 * z, z], axis=1), y.astype(jnp.int32)),
    ]
    first, *others = (jax.value_and_grad(writing)(z) for writing in writings)
    gaps = [jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), first, other)
            for other in others]  # fmt: skip
    return max(jax.tree.leaves(gaps))


def slopes_when_wrong() -> dict[str, float]:
    """The slope of each loss by the linear layer's output, -8, where the answer should be 1."""
    y = jnp.ones(1)
    return {
        name: float(jax.grad(lambda z, loss=loss: loss(F.sigmoid(z), y))(jnp.full(1, -8.0))[0])
        for name, loss in LOSSES.items()
    }


def judge(figures: dict[str, Any], config: Config) -> list[dict[str, str]]:
    """The checks of a run.

    Args:
        figures: The figures of the run by name.
        config: The settings; the minimum and the accuracies are those of 20 epochs.
    """
    slopes = figures["slopes"]
    checks = [
        ledger.check(
            "BCELoss of the sigmoid, BCEWithLogitsLoss and cross_entropy of two scores agree",
            f"{figures['writings_apart']:.1e} apart",
            figures["writings_apart"] < 1e-6,
        ),
        ledger.check(
            "far on the wrong side cross entropy still pulls by 1, dist by less than 1/100",
            f"{slopes['cross entropy']:.4f} and {slopes['dist']:.4f}",
            slopes["cross entropy"] < -0.99 and -0.01 < slopes["dist"] < 0,
        ),
    ]
    if config.epochs < Config.epochs:
        return checks
    excess = figures["reached"] / figures["minimum"] - 1
    right = figures["accuracy"]
    return [
        *checks,
        ledger.check(
            "training comes within 0.5 % of the minimum that Newton's method finds",
            f"{figures['reached']:.6f} against {figures['minimum']:.6f}",
            -1e-6 < excess < 5e-3,
        ),
        *(
            ledger.check(f"with {name} more than 94 % of the test images are right",
                         f"{value:.4f}", value > 0.94)
            for name, value in right.items()
        ),
    ]  # fmt: skip


def main(config: Config, run: Run) -> None:
    """Trains with both losses, and compares with Newton's method."""
    training, test = (two_digits(split, config) for split in ("train", "test"))
    print(f"{len(training[1])} training and {len(test[1])} test images of {DIGITS}")
    results = {name: fit(config, loss, training, test) for name, loss in LOSSES.items()}
    arrays = weights.state_dict(results["cross entropy"].state.model())
    found = np.append(arrays["linear.weight"], arrays["linear.bias"]).astype(np.float64)
    best = newton(config, training)
    figures: dict[str, Any] = {
        "writings_apart": three_writings(config.seed),
        "slopes": slopes_when_wrong(),
        "reached": penalized(found, config, training),
        "minimum": penalized(best, config, training),
        "accuracy": {name: r.history[-1]["val_accuracy"] for name, r in results.items()},
    }
    run.metrics |= figures
    checks = judge(figures, config)
    tables.save_checks(run, checks)
    run.result = f"{100 * figures['accuracy']['cross entropy']:.1f} % of the test images right"
    _plot(run.folder, results, found, best)


def _plot(
    folder: Any, results: dict[str, train.Result], found: np.ndarray, best: np.ndarray
) -> None:
    z = np.linspace(-8, 8, 161)
    p = 1 / (1 + np.exp(-z))
    curves = [
        plots.Series(name, [line["epoch"] for line in result.history],
                     [1 - line["val_accuracy"] for line in result.history], f"C{k}.-")
        for k, (name, result) in enumerate(results.items())
    ]  # fmt: skip
    shapes = [plots.Series("cross entropy", z, -np.log(p)), plots.Series("dist", z, (1 - p) ** 2)]
    plots.save_panels(folder / "losses.png", [
        plots.Panel("Loss where the answer is 1", "output of the linear layer", "loss", shapes),
        plots.Panel("Test images of 3 and 8", "epoch", "fraction wrong", curves),
    ])  # fmt: skip
    largest = np.abs(best[:-1]).max()
    pictures = [
        np.uint8(255 * np.clip(0.5 + w[:-1].reshape(28, 28, 1) / (2 * largest), 0, 1)).repeat(3, 2)
        for w in (found, best)
    ]
    titles = ["weights, trained", "weights, Newton"]
    caption = "Weights of the 784 pixels: white speaks for an 8, black for a 3"
    plots.save_images(folder / "weights.png", pictures, titles, columns=2, title=caption)
