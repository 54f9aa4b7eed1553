"""Gradients of a linear model: jax.grad, the formulas by hand, the graph, the printed figures.

The model and the figures are those of the short introduction to PyTorch (document 3 in
docs/pages/book.md): z = w x + b with the loss |z - y|^2 / 3, for tensors that are drawn as
after `torch.manual_seed(1)`, without torch. The formulas by hand are

    d loss / d w = -2 (y - b - w x) x^T / 3        d loss / d b = -2 (y - b - w x) / 3

The document shows the graph that torch builds, whose grad functions `backward` follows. Here the
graph is the jaxpr, printed and drawn with torch's names beside it, and the walk back is done by
hand too, one `jax.vjp` for each grad function. Gradient descent follows.

    python -m experiments autograd

Result: tensors, loss and gradients hold to every printed digit; the walk back gives
jax.grad's gradients.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.harness import ledger
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, Seed, Training
from experiments.harness.tables import save_checks, save_ledger
from jaxnet import losses, plots
from jaxnet.random import Generator

DATA = ()

# The operations of the loss's jaxpr that torch has as one grad function, from the loss back.
GRAD_FNS = {
    "MseLossBackward0": ("sub", "square", "reduce_sum", "div"),
    "AddBackward0": ("add",),
    "MmBackward0": ("dot_general",),
}


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


def by_hand(params: dict[str, jax.Array], x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
    """The document's formulas for the gradients of `loss_of`."""
    z = params["w"] @ x + params["b"]
    return {"w": -2 * (y - z) @ x.T / 3, "b": -2 * (y - z) / 3}


def backward(
    params: dict[str, jax.Array], x: jax.Array, y: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, str]]:
    """What torch's `loss.backward()` does: each grad function in turn, from the loss back.

    Args:
        params: The parameters, "w" (3, 5) and "b" (3, 1).
        x: The input (5, 1).
        y: The target (3, 1).

    Returns:
        The gradients of the parameters, and the jaxpr of each step back by torch's name for it.
    """
    wx, mm_back = jax.vjp(jnp.matmul, params["w"], x)
    z, add_back = jax.vjp(jnp.add, wx, params["b"])
    loss, mse_back = jax.vjp(lambda z: losses.mse_loss(z, y), z)

    (d_z,) = mse_back(jnp.ones_like(loss))  # d loss / d loss is 1
    d_wx, d_b = add_back(d_z)
    d_w, _ = mm_back(d_wx)  # the gradient of x is of no use
    steps = {"MseLossBackward0": (mse_back, loss), "AddBackward0": (add_back, d_z),
             "MmBackward0": (mm_back, d_wx)}  # fmt: skip
    texts = {name: str(jax.make_jaxpr(back)(given)) for name, (back, given) in steps.items()}
    return {"w": d_w, "b": d_b}, texts


def checks_of(
    grads: dict[str, jax.Array],
    others: dict[str, dict[str, jax.Array]],
    operations: list[str],
) -> list[dict[str, str]]:
    """Whether the gradients agree with those of other ways, and the graph is the expected one.

    Args:
        grads: The gradients of jax.grad.
        others: The gradients of other ways, by the name of the way.
        operations: The names of the jaxpr's operations in their order.
    """
    checks = []
    for way, theirs in others.items():
        for name, grad in grads.items():
            gap = float(jnp.abs(grad - theirs[name]).max() / jnp.abs(grad).max())
            what = f"d loss / d {name} by jax.grad and by {way} are one to 1e-6"
            checks.append(ledger.check(what, f"{gap:.0e} of the largest", gap <= 1e-6))
    expected = [name for part in reversed(GRAD_FNS.values()) for name in part]
    what = f"the graph is {', '.join(expected)}"
    return [*checks, ledger.check(what, ", ".join(operations), operations == expected)]


def descend(params: dict[str, jax.Array], x: jax.Array, y: jax.Array, config: Config) -> np.ndarray:
    """The losses of gradient descent along `loss_of`'s gradients, (epochs,)."""

    def step(params: Any, _: None) -> tuple[Any, jax.Array]:
        loss, grads = jax.value_and_grad(loss_of)(params, x, y)
        return jax.tree.map(lambda p, g: p - config.lr * g, params, grads), loss

    curve = jax.jit(lambda p: lax.scan(step, p, length=config.epochs)[1])(params)
    if not np.isfinite(curve).all():
        raise ValueError(f"--lr: at {config.lr:g} the loss is not finite; lower it")
    return np.asarray(curve)


def main(config: Config, run: Run) -> None:
    """Checks the gradients and the graph, then descends."""
    with jax.default_device(jax.devices("cpu")[0]):
        generator = Generator(config.seed)
        x, y = (jnp.asarray(generator.randn(n, 1)) for n in (5, 3))
        params = {"w": jnp.asarray(generator.randn(3, 5)), "b": jnp.asarray(generator.randn(3, 1))}

        loss, grads = jax.jit(jax.value_and_grad(loss_of))(params, x, y)
        ours = {
            "w": params["w"],
            "b": params["b"][:, 0],
            "z": (params["w"] @ x + params["b"])[:, 0],
            "loss": loss,
            "w_grad": grads["w"],
            "b_grad": grads["b"][:, 0],
            "x": x[:, 0],
            "y": y[:, 0],
        }
        figures = {name: np.asarray(value).tolist() for name, value in ours.items()}
        run.metrics |= figures

        graph = jax.make_jaxpr(lambda w, x, b, y: loss_of({"w": w, "b": b}, x, y))(
            params["w"], x, params["b"], y
        )
        walked, steps = backward(params, x, y)
        print(f"the graph of the loss, as jax.make_jaxpr prints it:\n{graph}")
        for name, text in steps.items():
            print(f"\n{name}, as the vjp of {', '.join(GRAD_FNS[name])}:\n{text}")
        print()
        operations = [each.primitive.name for each in graph.eqns]
        ways = {"the formula": by_hand(params, x, y), "the vjps, one after another": walked}
        save_checks(run, checks_of(grads, ways, operations))

        rows = []
        if config.seed == 1:
            rows = ledger.compare("autograd", figures)
        else:
            print(f"seed {config.seed}: the document prints figures for seed 1 only")
        save_ledger(run, rows)

        curve = descend(params, x, y, config)
        run.metrics |= {"graph": str(graph), "backward": steps, "descent": curve}
        print(f"descent, step 1 to {config.epochs}: loss {curve[0]:.4f} to {curve[-1]:.3g}")
    draw_graph(run.folder / "graph.png", graph, ("w", "x", "b", "y"))
    series = plots.Series(f"lr {config.lr:g}", range(1, config.epochs + 1), curve, ".-")
    panel = plots.Panel("Descent along the gradient", "step", "loss", [series], log=True)
    plots.save_panels(run.folder / "descent.png", [panel])


def draw_graph(path: Path, graph: Any, names: tuple[str, ...]) -> None:
    """Draws a jaxpr whose operations form a chain, with the way of the gradient below it.

    Args:
        path: Path of the PNG file.
        graph: The jaxpr.
        names: The names of its inputs.
    """
    figure, (axes,) = plots.make_figure(1, width=12.0, height=3.6)
    axes.axis("off")
    named = {id(var): name for var, name in zip(graph.jaxpr.invars, names, strict=True)}
    text = {"ha": "center", "va": "center", "fontsize": 10}
    ahead = {"arrowstyle": "-|>", "color": "0.3", "shrinkA": 0, "shrinkB": 0}
    back = ahead | {"color": "C3", "linestyle": "--", "shrinkA": 4, "shrinkB": 4}
    steps = [each.primitive.name for each in graph.eqns] + ["loss"]
    half = [0.06 + 0.028 * len(word) for word in steps]  # of the width of each box

    def box(face: str) -> dict[str, str]:
        return {"boxstyle": "round,pad=0.4", "facecolor": face, "edgecolor": "0.3"}

    def shape(var: Any) -> str:
        return " x ".join(map(str, var.aval.shape)) or "1"

    for i, each in enumerate(graph.eqns):
        axes.text(i, 0, each.primitive.name, bbox=box("#dce9f7"), **text)
        leaves = [var for var in each.invars if id(var) in named]
        # The first operation has two inputs without an operation before them.
        places = [(i - 1.0, 0.0), (i, 1.0)] if len(leaves) == 2 else [(i, 1.0)]
        for var, at in zip(leaves, places, strict=False):
            name = named[id(var)]
            learns = name in ("w", "b")
            axes.text(*at, f"{name}\n{shape(var)}", bbox=box("#ffe9b8" if learns else "w"), **text)
            begin, end = (float(i), at[1] - 0.2), (float(i), 0.14)
            if at[1] == 0:
                begin, end = (at[0] + 0.14, 0), (i - half[i], 0)
            axes.annotate("", end, begin, arrowprops=ahead)
        axes.annotate("", (i + 1 - half[i + 1], 0), (i + half[i], 0), arrowprops=ahead)
        axes.text(
            i + 0.5 + (half[i] - half[i + 1]) / 2,
            0.13,
            shape(each.outvars[0]),
            color="0.3",
            ha="center",
            fontsize=8,
        )
    last = len(graph.eqns)
    axes.text(last, 0, "loss", bbox=box("#d8f0d8"), **text)
    stop = last - 0.45
    for name, part in GRAD_FNS.items():
        start = stop - len(part)
        axes.annotate("", (start, -0.5), (stop, -0.5), arrowprops=back)
        gives = "\ngives b.grad" if name == "AddBackward0" else ""
        axes.text((start + stop) / 2, -0.66, name + gives, color="C3", **text | {"va": "top"})
        stop = start
    axes.text(last, -0.5, "1", color="C3", **text)
    axes.text(-1, -0.5, "w.grad", color="C3", **text)
    axes.set_xlim(-1.4, last + 0.5)
    axes.set_ylim(-1.05, 1.4)
    title = "The graph of |w x + b - y|² / 3: JAX's operations, and torch's grad functions back"
    axes.set_title(title)
    plots.save_figure(figure, path, title, f"Boxes in a row: {', '.join(steps)}.")
