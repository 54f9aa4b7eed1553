"""Bird or airplane, nine ways: width, penalties, dropout, batch norm, skips, depth.

The document changes its small net one idea at a time and prints no figures. Every
variant trains as `cifar2_net` does (SGD, shuffled batches of 64, cross entropy); one
bar chart compares train and validation accuracy, mean and spread over seeds.

    python -m experiments cifar2_variants --epochs 100 --seeds 3
    python -m experiments cifar2_variants --variants net width --epochs 2

`res_deep` builds its blocks as the document does, `n_blocks * [block]`: one block,
used n times, with one set of weights and running statistics. `res_deep_separate` has
a block of its own at each place.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import cifar2_net
from experiments.settings import Settings
from jaxnet import losses, nn, optim, report, train
from jaxnet.nn import functional as F

DATA = ("cifar10",)

Name = Literal[
    "net",
    "width",
    "l2",
    "l1",
    "weight_decay",
    "dropout",
    "batch_norm",
    "res",
    "res_deep",
    "res_deep_separate",
]


class NetWidth(nn.Module):
    """The document's net with more channels."""

    def __init__(self, n_channel: int = 32, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(3, n_channel, kernel_size=3, padding=1, rngs=rngs)
        self.conv2 = nn.Conv2d(n_channel, n_channel // 2, kernel_size=3, padding=1, rngs=rngs)
        self.fc1 = nn.Linear(n_channel // 2 * 8 * 8, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.max_pool2d(jnp.tanh(self.conv1(x)), 2)
        out = F.max_pool2d(jnp.tanh(self.conv2(out)), 2)
        out = out.reshape(x.shape[0], -1)
        return self.fc2(jnp.tanh(self.fc1(out)))


class NetDropout(nn.Module):
    """Whole channels dropped after each pool."""

    def __init__(self, n_chans1: int = 32, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1, rngs=rngs)
        self.conv1_dropout = nn.Dropout2d(p=0.4)
        self.conv2 = nn.Conv2d(n_chans1, n_chans1 // 2, kernel_size=3, padding=1, rngs=rngs)
        self.conv2_dropout = nn.Dropout2d(p=0.4)
        self.fc1 = nn.Linear(8 * 8 * n_chans1 // 2, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = self.conv1_dropout(F.max_pool2d(jnp.tanh(self.conv1(x)), 2))
        out = self.conv2_dropout(F.max_pool2d(jnp.tanh(self.conv2(out)), 2))
        out = out.reshape(x.shape[0], -1)
        return self.fc2(jnp.tanh(self.fc1(out)))


class NetBatchNorm(nn.Module):
    """Batch normalisation between convolution and activation."""

    def __init__(self, n_chans1: int = 32, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1, rngs=rngs)
        self.conv1_batchnorm = nn.BatchNorm2d(num_features=n_chans1)
        self.conv2 = nn.Conv2d(n_chans1, n_chans1 // 2, kernel_size=3, padding=1, rngs=rngs)
        self.conv2_batchnorm = nn.BatchNorm2d(num_features=n_chans1 // 2)
        self.fc1 = nn.Linear(8 * 8 * n_chans1 // 2, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.max_pool2d(jnp.tanh(self.conv1_batchnorm(self.conv1(x))), 2)
        out = F.max_pool2d(jnp.tanh(self.conv2_batchnorm(self.conv2(out))), 2)
        out = out.reshape(x.shape[0], -1)
        return self.fc2(jnp.tanh(self.fc1(out)))


class NetRes(nn.Module):
    """A third convolution with a way around it."""

    def __init__(self, n_chans1: int = 32, *, rngs: nn.init.Rngs) -> None:
        half = n_chans1 // 2
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1, rngs=rngs)
        self.conv2 = nn.Conv2d(n_chans1, half, kernel_size=3, padding=1, rngs=rngs)
        self.conv3 = nn.Conv2d(half, half, kernel_size=3, padding=1, rngs=rngs)
        self.fc1 = nn.Linear(4 * 4 * half, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.max_pool2d(F.relu(self.conv1(x)), 2)
        out = F.max_pool2d(F.relu(self.conv2(out)), 2)
        out = F.max_pool2d(F.relu(self.conv3(out)) + out, 2)
        out = out.reshape(x.shape[0], -1)
        return self.fc2(F.relu(self.fc1(out)))


class ResBlock(nn.Module):
    """Convolution, batch norm, ReLU, and a way around; the document's initial weights."""

    def __init__(self, n_chans: int, *, rngs: nn.init.Rngs) -> None:
        self.conv = nn.Conv2d(n_chans, n_chans, kernel_size=3, padding=1, bias=False, rngs=rngs)
        self.batch_norm = nn.BatchNorm2d(num_features=n_chans)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu", generator=rngs)
        nn.init.constant_(self.batch_norm.weight, 0.5)
        nn.init.zeros_(self.batch_norm.bias)

    def __call__(self, x: jax.Array) -> jax.Array:
        return F.relu(self.batch_norm(self.conv(x))) + x


class NetResDeep(nn.Module):
    """Many residual blocks; by default the document's: one block used n_blocks times."""

    def __init__(
        self,
        n_chans1: int = 32,
        n_blocks: int = 10,
        shared: bool = True,
        *,
        rngs: nn.init.Rngs,
    ) -> None:
        self.conv1 = nn.Conv2d(3, n_chans1, kernel_size=3, padding=1, rngs=rngs)
        if shared:
            blocks = n_blocks * [ResBlock(n_chans=n_chans1, rngs=rngs)]
        else:
            blocks = [ResBlock(n_chans=n_chans1, rngs=rngs) for _ in range(n_blocks)]
        self.resblocks = nn.Sequential(*blocks)
        self.fc1 = nn.Linear(8 * 8 * n_chans1, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.max_pool2d(F.relu(self.conv1(x)), 2)
        out = F.max_pool2d(self.resblocks(out), 2)
        out = out.reshape(x.shape[0], -1)
        return self.fc2(F.relu(self.fc1(out)))


@dataclasses.dataclass(frozen=True)
class Variant:
    """One idea: a model, an optimizer, and what is added to the loss."""

    build: Callable[..., nn.Module]
    optimizer: Callable[[], optax.GradientTransformation] = lambda: optim.SGD(lr=1e-2)
    penalty: Callable[[nn.Module], jax.Array] | None = None

    def loss(self, model: Any, batch: Any) -> Any:
        images, classes = batch
        outputs = model(images)
        value = losses.cross_entropy(outputs, classes)
        if self.penalty is not None and model.training:
            value = value + self.penalty(model)
        return value, {"correct": cifar2_net.correct(outputs, classes)}


def variants(n_blocks: int) -> dict[str, Variant]:
    """All of them by name."""

    def slow() -> optax.GradientTransformation:
        return optim.SGD(lr=3e-3)

    def deep(shared: bool) -> Callable[..., nn.Module]:
        return lambda *, rngs: NetResDeep(32, n_blocks, shared, rngs=rngs)

    return {
        "net": Variant(cifar2_net.Net),
        "width": Variant(NetWidth),
        "l2": Variant(cifar2_net.Net, penalty=lambda model: 0.001 * losses.l2_penalty(model)),
        "l1": Variant(cifar2_net.Net, penalty=lambda model: 0.001 * losses.l1_penalty(model)),
        "weight_decay": Variant(
            cifar2_net.Net, lambda: optim.SGD(lr=1e-2, weight_decay=0.002)
        ),  # the same as l2: the derivative of 0.001 p^2
        "dropout": Variant(NetDropout),
        "batch_norm": Variant(NetBatchNorm),
        "res": Variant(NetRes),
        "res_deep": Variant(deep(shared=True), slow),
        "res_deep_separate": Variant(deep(shared=False), slow),
    }


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of cifar2_variants."""

    epochs: int = 100
    """Passes over the 10,000 images, for each variant and seed."""
    seeds: int = 1
    """How many runs of each, from --seed on."""
    variants: tuple[Name, ...] = ("net", "width", "l2", "l1", "weight_decay", "dropout",
                                  "batch_norm", "res")  # fmt: skip
    """Which to run; res_deep and res_deep_separate take hours on a CPU at 100 blocks."""
    n_blocks: int = 100
    """Blocks of the deep ones; the document's is 100."""

    def validate(self) -> None:
        super().validate()
        for name in ("seeds", "n_blocks"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag}: {getattr(self, name)}; at least 1 is needed")
        if not self.variants:
            raise ValueError("--variants: none given; name at least one")


def main(config: Config) -> int:
    """Trains the variants; there are no figures to be off, so the result is 0."""
    config.validate()
    with train.Run(config.out, "cifar2_variants", config) as run:
        base = cifar2_net.Config(
            seed=config.seed, epochs=config.epochs, data_dir=config.data_dir, out=config.out
        )
        training = jax.device_put(cifar2_net.two_classes("train", base)[1])
        validation = jax.device_put(cifar2_net.two_classes("test", base)[1])
        chosen = variants(config.n_blocks)
        results: dict[str, dict[str, list[float]]] = {}
        for name in config.variants:
            variant = chosen[name]
            accuracies: dict[str, list[float]] = {"train": [], "val": []}
            runs = {}
            for seed in range(config.seed, config.seed + config.seeds):
                _, curves = cifar2_net.train_one(
                    seed,
                    base,
                    training,
                    validation,
                    build=variant.build,
                    optimizer=variant.optimizer(),
                    loss=variant.loss,
                    label=f"{name}, seed {seed}",
                )
                runs[seed] = curves
                for split in accuracies:
                    accuracies[split].append(curves[f"{split}_accuracy"][config.epochs])
            results[name] = accuracies
            run.metrics[name] = {"accuracy": accuracies, "runs": runs}
            ddof = min(1, config.seeds - 1)
            words = [
                f"{split} {np.mean(values):.3f} ± {np.std(values, ddof=ddof):.3f}"
                for split, values in accuracies.items()
            ]
            print(f"{name}: accuracy {', '.join(words)} (n={config.seeds})")
        bars = {
            split: [accuracies[split] for accuracies in results.values()]
            for split in ("train", "val")
        }
        title = f"Accuracy after {config.epochs} epochs, {config.seeds} seed(s)"
        report.save_bars(run.folder / "accuracy.png", list(results), bars, title, "fraction right")
    print(f"record and plot: {run.folder}")
    return 0
