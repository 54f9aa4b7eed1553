"""Gradients of a linear model: jax.grad, the formulas by hand, and the printed figures.

The model and the figures are those of the short introduction to PyTorch (document 3 in
docs/pages/book.md): z = w x + b with the loss |z - y|^2 / 3, for tensors that are drawn as
after `torch.manual_seed(1)`, without torch. The formulas by hand are

    d loss / d w = -2 (y - b - w x) x^T / 3        d loss / d b = -2 (y - b - w x) / 3

Gradient descent along these gradients follows, which the document announces. A second
picture has the activation functions of all documents and their slopes, by jax.grad too.

    python -m experiments autograd

Result: tensors, loss and gradients hold to every printed digit.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.harness import ledger
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, Seed, Training
from experiments.harness.tables import save_ledger, show
from jaxnet import losses, plots
from jaxnet.nn import functional as F
from jaxnet.random import Generator

DATA = ()


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Settings of autograd."""

    seed: Seed = 1
    """Seed of the tensors; the document's figures are for 1."""
    epochs: Count = 50
    """Steps of gradient descent after the gradients are checked."""
    lr: Positive = 0.05
    """Learning rate of these steps."""


def loss_of(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean squared error of w x + b.

    Args:
        params: The parameters, "w" (3, 5) and "b" (3, 1).
        x: The input (5, 1).
        y: The target (3, 1).
    """
    return losses.mse_loss(params["w"] @ x + params["b"], y)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "tanh": jnp.tanh,
    "sigmoid": F.sigmoid,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "selu": F.selu,
    "softplus": F.softplus,
    "hardtanh": F.hardtanh,
}


def plot_activations(path: Path) -> dict[str, dict[str, list[float]]]:
    """Draws the activation functions and their slopes.

    Args:
        path: Path of the PNG file.

    Returns:
        The values and slopes at -3, 0 and 3, by name of the function.
    """
    x = jnp.linspace(-3, 3, 241)
    inputs = jnp.array([-3.0, 0.0, 3.0])
    values, slopes, table = [], [], {}
    for name, activation in ACTIVATIONS.items():
        slope = jax.vmap(jax.grad(activation))
        values.append(plots.Series(name, x, activation(x)))
        slopes.append(plots.Series(name, x, slope(x)))
        table[name] = {"value": activation(inputs).tolist(), "slope": slope(inputs).tolist()}
    header = ["activation f", *(f"{f}({x:g})" for f in ("f", "f'") for x in inputs)]
    cells = [
        [name, *(f"{v:.4f}" for row in both.values() for v in row)] for name, both in table.items()
    ]
    show(header, cells)
    panels = [
        plots.Panel("Activation functions", "input", "output", values),
        plots.Panel("Their slopes, by jax.grad", "input", "slope", slopes),
    ]
    plots.save_panels(path, panels)
    return table


def main(config: Config, run: Run) -> None:
    """Checks the gradients, then descends."""
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        generator = Generator(config.seed)
        x, y = (jnp.asarray(generator.randn(n, 1)) for n in (5, 3))
        params = {"w": jnp.asarray(generator.randn(3, 5)), "b": jnp.asarray(generator.randn(3, 1))}

        z = params["w"] @ x + params["b"]
        loss, grads = jax.jit(jax.value_and_grad(loss_of))(params, x, y)
        by_hand = {"w": -2 * (y - z) @ x.T / 3, "b": -2 * (y - z) / 3}
        for name, grad in grads.items():
            gap = float(jnp.abs(grad - by_hand[name]).max())
            print(f"d loss / d {name}: jax.grad and the formula differ by at most {gap:.1e}")
            run.metrics[f"{name}_grad_gap"] = gap

        ours = {
            "w": params["w"],
            "b": params["b"][:, 0],
            "z": z[:, 0],
            "loss": loss,
            "w_grad": grads["w"],
            "b_grad": grads["b"][:, 0],
            "x": x[:, 0],
            "y": y[:, 0],
        }
        figures = {name: np.asarray(value).tolist() for name, value in ours.items()}
        run.metrics |= figures
        rows = []
        if config.seed == 1:
            rows = ledger.compare("autograd", figures)
        else:
            print(f"seed {config.seed}: the document prints figures for seed 1 only")

        def descend(params, _):
            loss, grads = jax.value_and_grad(loss_of)(params, x, y)
            return jax.tree.map(lambda p, g: p - config.lr * g, params, grads), loss

        curve = jax.jit(lambda p: lax.scan(descend, p, length=config.epochs)[1])(params)
        if not np.isfinite(curve).all():
            raise ValueError(f"--lr: at {config.lr:g} the loss is not finite; lower it")
        run.metrics["descent"] = curve
        save_ledger(run, rows)
        print(f"descent, step 1 to {config.epochs}: loss {curve[0]:.4f} to {curve[-1]:.3g}")
        run.metrics["activations"] = plot_activations(run.folder / "activations.png")
        series = plots.Series(f"lr {config.lr:g}", range(1, config.epochs + 1), curve, ".-")
        panel = plots.Panel("Descent along the gradient", "step", "loss", [series], log=True)
        plots.save_panels(run.folder / "descent.png", [panel])
