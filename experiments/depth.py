"""Depth: activations that saturate, gradients that do not reach the first layers, and the cures.

Three sentences of the documents (docs/pages/book.md) that none of them measures:

1. Batch norm keeps the inputs of activations out of saturation (the notes on the book). Here the
   notes' net with two tanh convolutions trains on birds and airplanes with and without it.
2. Skip connections carry gradients to far layers (the same notes). Here a deep net of their
   residual blocks is differentiated once, with and without skips, with and without batch norm.
3. SELU and softplus smooth the break of ReLU's slope at 0 (the lesson on classification).
   Softplus does; SELU's own slope jumps at 0, from 1.758 to 1.051.

    python -m experiments depth

Result (two CPU cores, two minutes): the notes' inputs saturate less than 1 % of the tanh units of
the untrained net, and batch norm raises that to 7 %, so saturation is not why it trains faster;
but inputs ten times as large saturate 54 % without batch norm and still 7 % with it. Of 20 blocks
without skips and batch norm, a millionth of the gradient reaches the first; with skips, alone or
with batch norm, it grows on its way by 5 to 9: experiments/results/depth.md.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import birds
from experiments.cifar2_nets import NetBatchNorm, NetWidth, ResBlock
from experiments.harness import ledger, tables
from experiments.harness.record import Run
from experiments.harness.settings import Count, Training
from jaxnet import losses, nn, optim, plots, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator

DATA = ("cifar10",)
SATURATED = 0.1  # a tanh whose slope, 1 - tanh^2, is below this


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Settings of depth."""

    epochs: Count = 3
    """Passes over the data, for each of the trained nets."""
    n_blocks: Count = 20
    """Number of blocks of the deep nets, which are not trained."""


def saturation(model: Any, images: jax.Array, training: bool) -> float:
    """The fraction of a net's outputs behind both convolutions whose tanh is saturated.

    Args:
        model: A net with the convolutions conv1 and conv2, and perhaps batch norm behind each.
        images: The images (N, 3, 32, 32).
        training: Whether batch norm uses the batch's own statistics.
    """
    suffix = "_batchnorm" if hasattr(model, "conv1_batchnorm") else ""
    before_tanh = {f"conv{i}{suffix}": jnp.zeros(0) for i in (1, 2)}

    def keep(call: Any, proceed: Callable[..., Any]) -> Any:
        output = proceed(*call.args, **call.kwargs)
        if call.name in before_tanh:
            before_tanh[call.name] = output
        return output

    model.train() if training else model.eval()
    with nn.intercept(model, keep):
        model(images)
    slopes = jnp.concatenate([1 - jnp.tanh(x).ravel() ** 2 for x in before_tanh.values()])
    return float((slopes < SATURATED).mean())


def saturation_in_training(config: Config) -> dict[str, dict[str, Any]]:
    """The saturated fractions before and after training, and the training losses.

    Args:
        config: The settings.
    """
    training, validation = (
        jax.device_put(birds.two_classes(split, config.data_dir)[1]) for split in ("train", "test")
    )
    images = training[0][:500]
    found = {}
    nets: dict[str, Callable[..., nn.Module]] = {"plain": NetWidth, "batch norm": NetBatchNorm}
    for name, build in nets.items():
        print(name)
        trainer = birds.Trainer(build, optim.SGD(lr=1e-2), training, validation)
        result = trainer.run(config.seed, config.epochs, batch_size=64)
        untrained = build(rngs=Generator(config.seed))
        found[name] = {
            "saturated": {
                "untrained": saturation(untrained, images, training=True),
                "untrained, ten times the input": saturation(untrained, 10 * images, training=True),
                "trained": saturation(result.state.model(), images, training=False),
            },
            "train_loss": [line["loss"] for line in result.history],
        }
    return found


class DeepNet(nn.Module):
    """The notes' deep net of separate blocks, whose skips and batch norms can be left out.

    Args:
        n_blocks: The number of blocks.
        skip: Whether a block's input is added to its output.
        norm: Whether a block has batch norm.
        rngs: The generator of the initial weights.
    """

    def __init__(self, n_blocks: int, skip: bool, norm: bool, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(3, 32, kernel_size=3, padding=1, rngs=rngs)
        self.blocks = nn.ModuleList([ResBlock(32, rngs=rngs) for _ in range(n_blocks)])
        self.fc1 = nn.Linear(8 * 8 * 32, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)
        self.skip, self.norm = skip, norm

    def __call__(self, x: jax.Array, taps: jax.Array | None = None) -> jax.Array:
        out = F.max_pool2d(F.relu(self.conv1(x)), 2)
        for i, block in enumerate(self.blocks):
            if taps is not None:  # zeros; the gradient by one is the gradient by the block's input
                out = out + taps[i]
            # Without batch norm its weight, 0.5, is what remains of it.
            inner = block.batch_norm(block.conv(out)) if self.norm else 0.5 * block.conv(out)
            out = F.relu(inner) + out if self.skip else F.relu(inner)
        out = F.max_pool2d(out, 2).reshape(len(x), -1)
        return self.fc2(F.relu(self.fc1(out)))


KINDS = {
    "skips and batch norm, the document's": (True, True),
    "batch norm alone": (False, True),
    "skips alone": (True, False),
    "neither": (False, False),
}


def gradients_by_depth(config: Config) -> dict[str, list[float]]:
    """The length of the loss's gradient by each block's input, for untrained nets.

    Args:
        config: The settings.
    """
    images, classes = birds.two_classes("train", config.data_dir)[1]
    x, y = jnp.asarray(images[:16]), jnp.asarray(classes[:16])
    taps = jnp.zeros((config.n_blocks, 16, 32, 16, 16))
    found = {}
    for name, (skip, norm) in KINDS.items():
        net = DeepNet(config.n_blocks, skip, norm, rngs=Generator(config.seed))
        structure, params, buffers = train.split(net)

        def objective(taps: jax.Array, net: Any = (structure, params, buffers)) -> jax.Array:
            return losses.cross_entropy(train.merge(*net)(x, taps), y)

        grads = jax.jit(jax.grad(objective))(taps)
        found[name] = [float(jnp.linalg.norm(grad)) for grad in grads]
    return found


def slopes_at_zero() -> dict[str, tuple[float, float]]:
    """The slope of each activation just below and just above 0."""
    functions: dict[str, Callable[..., Any]] = {
        "ReLU": F.relu,
        "SELU": F.selu,
        "softplus": F.softplus,
    }
    return {
        name: (float(jax.grad(function)(-1e-6)), float(jax.grad(function)(1e-6)))
        for name, function in functions.items()
    }


def judge(figures: dict[str, Any]) -> list[dict[str, str]]:
    """The checks of a run.

    Args:
        figures: "saturation", "gradients" and "slopes" of a run.
    """
    plain, norm = figures["saturation"].values()
    large, same = (
        [net["saturated"][when] for net in (plain, norm)]
        for when in ("untrained, ten times the input", "untrained")
    )
    fits = [net["train_loss"][-1] for net in (plain, norm)]
    ratios = {name: sizes[0] / sizes[-1] for name, sizes in figures["gradients"].items()}
    both, _, skips, neither = ratios.values()
    slopes = figures["slopes"]
    return [
        ledger.check(
            "inputs ten times as large saturate the tanh units without batch norm, not with it",
            f"{large[0]:.1%} and {large[1]:.1%}",
            large[0] > 0.3 and large[1] < 0.1 and abs(large[1] - same[1]) < 0.01,
        ),
        ledger.check(
            "with the document's inputs there is no saturation to cure; batch norm trains faster",
            f"{same[0]:.1%} and {same[1]:.1%}; training loss {fits[0]:.3f} and {fits[1]:.3f}",
            same[0] < 0.05 and fits[1] < fits[0],
        ),
        ledger.check(
            "without skips and batch norm next to nothing of the gradient reaches the first block",
            f"{neither:.1e} of the last block's",
            neither < 1e-3,
        ),
        ledger.check(
            "with skips the gradient at the first block is no smaller than at the last",
            f"{skips:.2g} times as large without batch norm, {both:.2g} times with it",
            min(skips, both) >= 1,
        ),
        ledger.check(
            "ReLU's slope jumps at 0, and so does SELU's; softplus's does not",
            "; ".join(f"{name} {a:.3f} to {b:.3f}" for name, (a, b) in slopes.items()),
            np.allclose(slopes["SELU"], (1.7581, 1.0507), atol=1e-4)
            and np.allclose(slopes["ReLU"], (0, 1))
            and np.allclose(slopes["softplus"], 0.5, atol=1e-5),
        ),
    ]


def main(config: Config, run: Run) -> None:
    """Measures the three sentences."""
    figures: dict[str, Any] = {
        "saturation": saturation_in_training(config),
        "gradients": gradients_by_depth(config),
        "slopes": slopes_at_zero(),
    }
    for name, sizes in figures["gradients"].items():
        print(f"{name}: gradient {sizes[0]:.1e} in the first block, {sizes[-1]:.1e} in the last")
    checks = judge(figures)
    run.metrics |= figures
    tables.save_checks(run, checks)
    header = ("sentence", "measured", "verdict")
    title = f"depth, {tables.count(config.epochs, 'epoch')}, seed {config.seed}"
    tables.save_table(run, title, header, [list(check.values()) for check in checks])
    ends = figures["gradients"]["neither"]
    run.result = f"without skips and batch norm {ends[0] / ends[-1]:.0e} of the gradient arrives"
    _plot(run.folder / "depth.png", config, figures)


def _plot(path: Path, config: Config, figures: dict[str, Any]) -> None:
    epochs, blocks = range(1, config.epochs + 1), range(1, config.n_blocks + 1)
    panels = [
        plots.Panel(
            "Birds and airplanes", "epoch", "training loss",
            [plots.Series(name, epochs, net["train_loss"], f"C{k}o-")
             for k, (name, net) in enumerate(figures["saturation"].items())],
        ),
        plots.Panel(
            f"Gradients by the inputs of {config.n_blocks} untrained blocks", "block", "length",
            [plots.Series(name, blocks, sizes, f"C{k}-")
             for k, (name, sizes) in enumerate(figures["gradients"].items())],
            log=True,
        ),
    ]  # fmt: skip
    plots.save_panels(path, panels)
