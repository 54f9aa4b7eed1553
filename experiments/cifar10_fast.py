"""CIFAR-10, all ten classes, in as few minutes as the machine allows.

This experiment rebuilds no document. It has the ideas of airbench (K. Jordan, "94% on CIFAR-10
in 3.29 seconds on a single GPU", 2024, and its later version with Muon), written anew:

- a first layer that whitens patches of 2 x 2 pixels, with frozen filters from the data;
- three blocks of two convolutions, GELU, batch norm with quickly changing running statistics
  and no scale, initial weights of the identity, and scores divided by nine;
- Muon for the filters, each kept at length one; Nesterov SGD for the rest, with a learning rate
  and decay given per image and not per step, higher for biases. All fall linearly to 0;
- label smoothing, random shifts into reflected borders, and alternating flips: a random bit
  decides whether an image is mirrored in the first epoch, and then it is mirrored in every
  other epoch. All of it runs on the device, inside the compiled step;
- scores averaged over the test image, its mirror image, and both shifted by a pixel.

    python -m experiments cifar10_fast                 # a seventh of the work, for CPUs
    python -m experiments cifar10_fast --seeds 3
    python -m experiments cifar10_fast --images 5000 --width 8 --epochs 2       # a look
    python -m experiments cifar10_fast --width 64 --epochs 9                    # 94 %
    python -m experiments cifar10_fast --width 64 --epochs 8 --batch-size 2000 --lr 0.24

The last command has airbench's batches, epochs and rate; for a GPU add `--dtype bfloat16`.

Results on two CPU cores, mean ± standard deviation of seeds 0 to 2: with `--width 64
--epochs 9`, 94.15 ± 0.12 % of the test images are right after 24.4 ± 0.3 minutes of training
(experiments/results/cifar10_fast_wide.md), by default 91.3 ± 0.2 %
after 4.7 ± 0.1 minutes (experiments/results/cifar10_fast.md). Nothing was measured on a GPU.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.birds import MEAN, STD
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, ShardedTraining
from experiments.harness.tables import mean_and_spread, save_table, seeds_in_words, show
from experiments.harness.unfinished import checksum
from jaxnet import data, losses, metrics, nn, optim, plots, train
from jaxnet.data import transforms
from jaxnet.random import Generator

DATA = ("cifar10",)
FILTER_MOMENTUM = 0.6
MOMENTUM = 0.85  # of the head and the biases
HEAD_LR = 6.0  # learning rate per 1,024 images, with the factor that momentum adds
BIAS_SCALE = 64.0  # the biases' learning rate divided by the head's
DECAY = 0.013  # weight decay of the head and the biases per 1,024 images, at first
SMOOTHING = 0.2
WHITENED = 2_000  # the number of images from which the first layer's filters come
SHIFT = 2  # the largest shift in pixels
TEST_BATCH = 400


@dataclasses.dataclass(frozen=True)
class Config(ShardedTraining):
    """Settings of cifar10_fast."""

    epochs: Count = 5
    """Passes over the 50,000 images."""
    seeds: Count = 1
    """Number of runs, from --seed on."""
    width: Count = 32
    """Channels of the first block; the other two have four times as many."""
    batch_size: Count = 512
    """Images a step; multiples of 16 are fast on CPUs."""
    lr: Positive = 0.12
    """Muon's first learning rate: the share of its length by which a filter changes in a step."""
    images: int = 50_000
    """Training images; fewer for a look."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the net's arithmetic; bfloat16 is for GPUs."""

    def validate(self) -> None:
        super().validate()
        if not self.batch_size <= self.images <= 50_000:
            raise ValueError(
                f"--images: {self.images}; accepted is the batch size, {self.batch_size}, to 50,000"
            )


def whitening_filters(images: np.ndarray, size: int = 2, eps: float = 5e-4) -> np.ndarray:
    """Filters whose outputs over all patches of the images are uncorrelated, with variance 1.

    Args:
        images: The images (N, C, H, W), normalised.
        size: The side of the square patches in pixels.
        eps: A number added to the variances, so that noise of almost constant directions is
            not amplified.

    Returns:
        The filters (2 C size^2, C, size, size): each of them and its negative, since the
        activation that follows passes positive outputs only.
    """
    windows = np.lib.stride_tricks.sliding_window_view(images, (size, size), axis=(2, 3))
    columns = images.shape[1] * size * size
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, columns)
    variances, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = (directions / np.sqrt(variances + eps)).T[::-1]  # (columns, columns), largest first
    filters = filters.reshape(columns, images.shape[1], size, size)
    return np.concatenate([filters, -filters]).astype(np.float32)


class Block(nn.Module):
    """Two convolutions, the first with a pool: (N, in, H, W) to (N, out, H/2, W/2)."""

    def __init__(self, n_in: int, n_out: int, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding="same", bias=False, rngs=rngs)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = nn.BatchNorm2d(n_out, momentum=0.4)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding="same", bias=False, rngs=rngs)
        self.norm2 = nn.BatchNorm2d(n_out, momentum=0.4)
        self.activation = nn.GELU()
        for conv in (self.conv1, self.conv2):
            # The first output channels begin as copies of the inputs; the others are random.
            same = min(conv.weight.shape[:2])
            copies = jnp.zeros((same, *conv.weight.shape[1:])).at[:, :same, 1, 1].set(jnp.eye(same))
            conv.weight[...] = conv.weight[...].at[:same].set(copies)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.activation(self.norm1(self.pool(self.conv1(x))))
        return self.activation(self.norm2(self.conv2(x)))


class Net(nn.Module):
    """Whitening, three blocks, one linear layer: images (N, 3, 32, 32) to scores (N, 10).

    Args:
        width: The number of channels of the first block.
        filters: The filters of the first layer, from `whitening_filters`.
        rngs: The generator of the other weights.
    """

    def __init__(self, width: int, filters: np.ndarray, *, rngs: nn.init.Rngs) -> None:
        n, channels, size, _ = filters.shape
        self.whiten = nn.Conv2d(channels, n, size, rngs=rngs)
        self.whiten.weight[...] = jnp.asarray(filters)
        self.activation = nn.GELU()
        self.block1 = Block(n, width, rngs=rngs)
        self.block2 = Block(width, 4 * width, rngs=rngs)
        self.block3 = Block(4 * width, 4 * width, rngs=rngs)
        self.pool = nn.MaxPool2d(3)
        self.head = nn.Linear(4 * width, 10, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.activation(self.whiten(x))  # (N, n, 31, 31)
        x = self.pool(self.block3(self.block2(self.block1(x))))  # (N, 4 width, 1, 1)
        return self.head(x.reshape(x.shape[0], -1)) / 9


def of_filters(optimizer: optim.Optimizer) -> optim.Optimizer:
    """An optimizer for filters (O, C, h, w) that keeps them at length 1 (RMS).

    Args:
        optimizer: An optimizer of matrices, which is given a row for each filter.
    """

    def matrices(filters: Any) -> Any:
        return jax.tree.map(lambda p: p.reshape(len(p), -1), filters)

    def update(grads: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        changes, state = optimizer.update(matrices(grads), state, matrices(params), **extra)

        def from_unit_length(p: jax.Array, change: jax.Array) -> jax.Array:
            scale = len(p) ** 0.5 / jnp.linalg.norm(p.reshape(-1))
            return (scale - 1) * p + change.reshape(p.shape)

        return jax.tree.map(from_unit_length, params, changes), state

    return optimizer.around("of_filters", lambda params: optimizer.init(matrices(params)), update)


def make_optimizer(lr: float, batch_size: int, steps: int) -> optim.Optimizer:
    """Muon for the filters, Nesterov SGD for the head and the biases, falling linearly to 0.

    The whitening filters and the norms' scales are frozen. With momentum, one gradient acts
    1 / (1 - momentum) times in all, so the rate of a step is HEAD_LR times the batch's share
    of 1,024 images times (1 - momentum). SGD multiplies its decay by the rate, so the decay is
    divided by HEAD_LR here.

    Args:
        lr: The first learning rate of Muon.
        batch_size: The number of images in a step.
        steps: The number of all steps.
    """
    rate = HEAD_LR * batch_size / 1024 * (1 - MOMENTUM)

    def sgd(scale: float) -> optim.Optimizer:
        decay = DECAY / (HEAD_LR * scale)
        return optim.SGD(rate * scale, MOMENTUM, weight_decay=decay, nesterov=True)

    frozen = (["whiten.weight", "*.norm*.weight"], optim.frozen())
    filters = of_filters(optim.Muon(lr, weight_decay=0, momentum=FILTER_MOMENTUM, ns_steps=3))
    rules = [frozen, ("*.bias", sgd(BIAS_SCALE)), ("head.weight", sgd(1.0))]
    optimizer = optim.groups(rules, filters)
    return optim.scheduled(optimizer, optim.PolynomialLR(optimizer, total_iters=steps), steps)


PREPARE = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
MOVE = transforms.RandomCrop(32, padding=SHIFT, padding_mode="reflect")


def training_loss(model: Any, batch: Any) -> Any:
    """The loss of a batch: images as stored, uint8 (N, 32, 32, 3), classes (N,), flips (N,)."""
    images, classes, mirrored = batch
    key = nn.next_key()
    images = PREPARE(key, images)
    images = jnp.where(mirrored[:, None, None, None], images[..., ::-1], images)
    outputs = model(MOVE(key, images))
    value = losses.cross_entropy(outputs, classes, label_smoothing=SMOOTHING)
    return value, {"accuracy": metrics.accuracy(outputs, classes)}


test_loss = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})


def alternating(images: Any, classes: Any, seed: int) -> Callable[[int], Any]:
    """A function of the epoch's number that gives the rows: images, classes, and flips.

    Args:
        images: The images as stored, uint8 (N, 32, 32, 3).
        classes: The classes (N,).
        seed: The seed of the flips in the first epoch.
    """
    first = jax.random.bernoulli(jax.random.key(seed), shape=(len(classes),))
    return lambda epoch: (images, classes, first ^ (epoch % 2 == 1))


def accuracies(state: Any, rows: Any) -> dict[str, float]:
    """The accuracy on the test images by three ways of averaging the scores.

    Args:
        state: The training state.
        rows: The normalised test images (N, 3, 32, 32) and classes (N,).

    Returns:
        The accuracy of the image alone, "plain"; averaged with its mirror image, "mirrored";
        and averaged with both shifted by a pixel too, "shifted".
    """
    images, classes = rows
    predict = jax.jit(train.make_predict())
    parts: dict[str, list[metrics.Mean]] = {"plain": [], "mirrored": [], "shifted": []}

    def both(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        alone = predict(state, x)
        return alone, (alone + predict(state, x[..., ::-1])) / 2

    for start in range(0, len(classes), TEST_BATCH):
        x, y = (column[start : start + TEST_BATCH] for column in (images, classes))
        wide = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
        alone, straight = both(x)
        moved = (both(wide[..., :-2, :-2])[1] + both(wide[..., 2:, 2:])[1]) / 2
        parts["plain"].append(metrics.accuracy(alone, y))
        parts["mirrored"].append(metrics.accuracy(straight, y))
        parts["shifted"].append(metrics.accuracy(straight + moved, y))
    return {name: float(sum(p[1:], p[0]).compute()) for name, p in parts.items()}


def main(config: Config, run: Run) -> None:
    """Trains from every seed."""
    training, testing = (
        data.load("cifar10", split=split, data_dir=config.data_dir) for split in ("train", "test")
    )
    few = data.normalize(data.to_tensor(training.images[:WHITENED]), MEAN, STD)
    filters = whitening_filters(few)
    images, labels = (x[: config.images] for x in (training.images, training.labels))
    images, labels = jax.device_put((images, labels))
    tested = data.normalize(data.to_tensor(testing.images), MEAN, STD), testing.labels
    tested = jax.device_put(tested)

    steps = config.epochs * -(-config.images // config.batch_size)
    optimizer = make_optimizer(config.lr, config.batch_size, steps)
    step = train.make_train_step(training_loss, optimizer, compute_dtype=config.dtype)
    settings = (config.epochs, config.width, config.batch_size, config.lr, config.images,
                config.dtype, checksum(images, labels, *tested))  # fmt: skip
    runs: dict[int, dict[str, Any]] = {}
    for seed in range(config.seed, config.seed + config.seeds):
        print(f"seed {seed}")
        generator = Generator(seed)
        net = Net(config.width, filters, rngs=generator)
        result = train.fit(
            train.create(net, optimizer, seed),
            step,
            alternating(images, labels, seed),
            epochs=config.epochs,
            batch_size=config.batch_size,
            generator=generator,
            validation=tested,
            eval_step=train.make_eval_step(test_loss),
            eval_batch_size=TEST_BATCH,
            callbacks=[lambda report: report.log(seconds=report.seconds)],
            checkpoint=run.unfinished.folder(*settings, f"seed{seed}"),
            keep=1,
            mesh=config.mesh,
        )
        if result.reason == "interrupted":
            raise KeyboardInterrupt
        print("the test images once more, mirrored and shifted")
        found = accuracies(train.gather(result.state), tested)
        runs[seed] = found | {
            name: {line["epoch"]: line[name] for line in result.history}
            for name in ("loss", "accuracy", "val_loss", "val_accuracy")
        }
        seconds = sum(line["seconds"] for line in result.history)
        runs[seed] |= {"seconds": seconds, "compile_seconds": result.compile_seconds}
        print(f"seed {seed}: {found['shifted']:.4f} right, {seconds / 60:.1f} minutes")
    run.metrics |= {"parameters": net.num_parameters, "runs": runs}
    _plot(run.folder / "accuracy.png", runs)
    _plot_filters(run.folder / "filters.png", filters)
    _save_table(run, config, net.num_parameters, runs)
    right = mean_and_spread([100 * found["shifted"] for found in runs.values()], 2)
    run.result = f"{right} % of the test images right"


def _plot(path: Any, runs: dict[int, dict[str, Any]]) -> None:
    accuracy, loss = [], []
    for i, run in enumerate(runs.values()):
        hidden = "_" if i else ""  # one legend entry for all seeds
        epochs = list(run["loss"])
        for words, name, style in (
            ("training images, moved", "accuracy", "C0.-"),
            ("test images", "val_accuracy", "C1.-"),
        ):
            values = list(run[name].values())
            accuracy.append(plots.Series(hidden + words, epochs, values, style))
        accuracy.append(
            plots.Series(f"{hidden}mirrored and shifted too", epochs[-1:], [run["shifted"]], "kx")
        )
        for words, name, style in (
            ("training, smoothed labels", "loss", "C0.-"),
            ("test", "val_loss", "C1.-"),
        ):
            loss.append(plots.Series(hidden + words, epochs, list(run[name].values()), style))
    panels = [
        plots.Panel("Accuracy on CIFAR-10", "epoch", "fraction right", accuracy),
        plots.Panel("Loss", "epoch", "cross entropy", loss),
    ]
    plots.save_panels(path, panels)


def _plot_filters(path: Any, filters: np.ndarray) -> None:
    """Draws the first half of the filters, each in its own range; the rest are negatives."""
    half = filters[: len(filters) // 2].transpose(0, 2, 3, 1)  # (n, size, size, 3)
    largest = np.abs(half).max(axis=(1, 2, 3), keepdims=True)
    pictures = (127.5 + 127.5 * half / largest).astype(np.uint8)
    caption = "The frozen whitening filters, from the data, each scaled to its own range"
    titles = [f"filter {i}" for i in range(len(half))]
    plots.save_images(path, pictures, titles, title=caption)


def _save_table(run: Run, config: Config, parameters: int, runs: dict[int, dict[str, Any]]) -> None:
    names = ("shifted", "mirrored", "plain")
    rows: list[list[Any]] = [
        [seed, *(f"{found[name]:.4f}" for name in names), f"{found['seconds'] / 60:.1f}"]
        for seed, found in runs.items()
    ]
    if len(runs) > 1:
        columns = [mean_and_spread([r[name] for r in runs.values()], 4) for name in names]
        minutes = mean_and_spread([r["seconds"] / 60 for r in runs.values()], 1)
        rows.append(["all", *columns, minutes])
    notes = [
        f"{parameters:,} parameters. Accuracy on the 10,000 test images; mean ± standard deviation "
        "over seeds; minutes are of training, without tests and compilation.",
    ]
    header = ["seed", "mirrored and shifted too", "mirrored too", "the images alone", "minutes"]
    seeds = seeds_in_words(config.seed, config.seeds)
    title = f"cifar10_fast, {config.epochs} epochs, {seeds}"
    show(header, rows)
    save_table(run, title, header, rows, notes)
