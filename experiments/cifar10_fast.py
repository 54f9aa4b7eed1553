"""CIFAR-10, all ten classes, in as few minutes as the machine allows.

Beyond the documents: the ideas of the airbench line of work (K. Jordan, "94% on CIFAR-10
in 3.29 seconds on a single GPU", 2024), written from their description:

- a first layer that whitens 2 x 2 patches, its filters from the data and frozen;
- three blocks of two convolutions, GELU, batch norm with a fast memory and no scale,
  weights that begin as the identity, and scores divided by nine;
- Nesterov SGD whose learning rate and decay are stated an image, not a step, so that they
  hold for any batch and momentum; biases learn faster; a triangular schedule;
- label smoothing, random shifts into reflected borders, and flips that alternate: a coin
  decides an image's first epoch, then every epoch has the other side. All of it on the
  device, inside the compiled step;
- an average of the weights over the last steps, and scores averaged with the mirror image's.

    python -m experiments cifar10_fast                 # an eighth of the work, for CPUs
    python -m experiments cifar10_fast --seeds 3
    python -m experiments cifar10_fast --images 5000 --width 8 --epochs 2       # a look
    python -m experiments cifar10_fast --width 64 --epochs 10 --batch-size 1024 --dtype bfloat16

Result of the default, seeds 0 to 2 on two CPU cores: 90.1 ± 0.2 % of the test images right
after 7.6 minutes of training, on a machine that did other work beside it:
experiments/results/cifar10_fast.md. Of `--width 64 --epochs 10`, seed 0: 93.7 % in about
45 minutes, so not yet the 94 % that airbench reaches in as many epochs with batches of 1,024:
experiments/results/cifar10_fast_wide.md. The GPU's setting is not measured.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.cifar2_net import MEAN, STD
from experiments.result_table import command, mean_and_spread, save_table, seeds_in_words
from experiments.settings import Settings
from experiments.unfinished import Budget, Unfinished
from jaxnet import data, losses, metrics, nn, optim, report, train
from jaxnet.data import transforms
from jaxnet.keys import next_key
from jaxnet.random import Generator

DATA = ("cifar10",)
MOMENTUM = 0.85
DECAY = 0.013  # the share of a weight that 1,024 images take away at the full rate
SMOOTHING = 0.2
BIAS_SCALE = 64.0  # how much faster biases learn
AVERAGED_IMAGES = 20_000  # how far back the average of the weights reaches
WHITENED = 2_000  # images that the first layer's filters come from
SHIFT = 2  # pixels at most
TEST_BATCH = 1000


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of cifar10_fast."""

    epochs: int = 5
    """Passes over the 50,000 images."""
    seeds: int = 1
    """How many runs, from --seed on."""
    width: int = 32
    """Channels of the first block; the other two have four times as many."""
    batch_size: int = 250
    """Images a step."""
    lr: float = 10.0
    """Learning rate of 1,024 images, all that momentum adds to it included."""
    images: int = 50_000
    """Training images; fewer for a look."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the net's arithmetic; bfloat16 is for GPUs."""

    def validate(self) -> None:
        super().validate()
        for name in ("seeds", "width", "batch_size"):
            if getattr(self, name) < 1:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag}: {getattr(self, name)}; at least 1 is needed")
        if self.lr <= 0:
            raise ValueError(f"--lr: {self.lr}; a positive number is needed")
        if not self.batch_size <= self.images <= 50_000:
            raise ValueError(
                f"--images: {self.images}; accepted is the batch size, {self.batch_size}, to 50,000"
            )


def whitening_filters(images: np.ndarray, size: int = 2, eps: float = 5e-4) -> np.ndarray:
    """Filters whose outputs, over all patches of the images, are uncorrelated and of one size.

    Args:
        images: (N, C, H, W), normalised.
        size: of the square patches.
        eps: added to the variances, so that what is almost constant is not blown up.

    Returns:
        (2 C size^2, C, size, size): each filter and its negative, as the activation
        that follows keeps one side only.
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
            # The first outputs begin as copies of the inputs, the others at random.
            same = min(conv.weight.shape[:2])
            copies = jnp.zeros((same, *conv.weight.shape[1:])).at[:, :same, 1, 1].set(jnp.eye(same))
            conv.weight[...] = conv.weight[...].at[:same].set(copies)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.activation(self.norm1(self.pool(self.conv1(x))))
        return self.activation(self.norm2(self.conv2(x)))


class Net(nn.Module):
    """Whitening, three blocks, one linear layer: images (N, 3, 32, 32) to scores (N, 10).

    Args:
        width: channels of the first block.
        filters: of the first layer, `whitening_filters`.
        rngs: draws the other weights.
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


def make_optimizer(lr: float, batch_size: int, steps: int) -> optim.Optimizer:
    """Nesterov SGD under a triangle, the filters and the norms' scales frozen.

    One gradient acts 1 / (1 - momentum) times in all, so the rate of a step is `lr` times
    the batch's share of 1,024 images times (1 - momentum). SGD multiplies its decay with
    the rate; dividing by `lr` takes that out again.
    """
    rate = lr * batch_size / 1024 * (1 - MOMENTUM)

    def sgd(scale: float) -> optim.Optimizer:
        decay = DECAY / (lr * scale)
        return optim.SGD(rate * scale, MOMENTUM, weight_decay=decay, nesterov=True)

    frozen = (["whiten.weight", "*.norm*.weight"], optim.frozen())
    optimizer = optim.groups([frozen, ("*.bias", sgd(BIAS_SCALE))], sgd(1.0))

    def triangle(step: int) -> float:
        return float(np.interp(step / steps, [0, 0.23, 1], [0.2, 1.0, 0.07]))

    return optim.scheduled(optimizer, optim.LambdaLR(optimizer, triangle), steps)


def make_average(batch_size: int) -> optim.AveragedModel:
    """An exponential average over the last AVERAGED_IMAGES, or a ninth of the run so far."""
    longest = float(np.exp(-batch_size / AVERAGED_IMAGES))

    def mix(averaged: jax.Array, current: jax.Array, n: jax.Array) -> jax.Array:
        decay = jnp.minimum(longest, (1 + n) / (10 + n)).astype(averaged.dtype)
        return decay * averaged + (1 - decay) * current

    return optim.AveragedModel(mix, use_buffers=True)


PREPARE = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
MOVE = transforms.RandomCrop(32, padding=SHIFT, padding_mode="reflect")


def training_loss(model: Any, batch: Any) -> Any:
    """Of images as they are stored, (N, 32, 32, 3) in 0..255, and whether to mirror each."""
    images, classes, mirrored = batch
    key = next_key()
    images = PREPARE(key, images)
    images = jnp.where(mirrored[:, None, None, None], images[..., ::-1], images)
    outputs = model(MOVE(key, images))
    value = losses.cross_entropy(outputs, classes, label_smoothing=SMOOTHING)
    return value, {"accuracy": metrics.accuracy(outputs, classes)}


test_loss = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})


def averaged(state: Any) -> Any:
    """The state with the average of the weights in place of the last ones."""
    return state.replace(params=state.average.params, buffers=state.average.buffers)


def averaged_eval_step(state: Any, batch: Any) -> Any:
    """Measures the average of the weights."""
    return train.make_eval_step(test_loss)(averaged(state), batch)


def alternating(images: Any, classes: Any, seed: int) -> Callable[[int], Any]:
    """The rows of each epoch: images, classes, and which are mirrored."""
    first = jax.random.bernoulli(jax.random.key(seed), shape=(len(classes),))
    return lambda epoch: (images, classes, first ^ (epoch % 2 == 1))


def accuracies(state: Any, rows: Any) -> dict[str, float]:
    """On the test images: of the last weights, of their average, and with mirror images too."""
    images, classes = rows
    predict = jax.jit(train.make_predict())
    smooth = averaged(state)
    parts: dict[str, list[metrics.Mean]] = {"last": [], "averaged": [], "mirrored": []}
    for start in range(0, len(classes), TEST_BATCH):
        x, y = (column[start : start + TEST_BATCH] for column in (images, classes))
        scores = predict(smooth, x)
        both = scores + predict(smooth, x[..., ::-1])
        parts["last"].append(metrics.accuracy(predict(state, x), y))
        parts["averaged"].append(metrics.accuracy(scores, y))
        parts["mirrored"].append(metrics.accuracy(both, y))
    return {name: float(sum(p[1:], p[0]).compute()) for name, p in parts.items()}


def main(config: Config) -> int:
    """Trains from every seed; there are no figures to be off, so the result is 0."""
    config.validate()
    with (
        Unfinished(config.out, "cifar10_fast") as kept,
        train.Run(config.out, "cifar10_fast", config) as run,
    ):
        training, testing = (
            data.load("cifar10", split=split, data_dir=config.data_dir)
            for split in ("train", "test")
        )
        few = data.normalize(data.to_tensor(training.images[:WHITENED]), MEAN, STD)
        filters = whitening_filters(few)
        images, labels = (x[: config.images] for x in (training.images, training.labels))
        images, labels = jax.device_put((images, labels))
        tested = data.normalize(data.to_tensor(testing.images), MEAN, STD), testing.labels
        tested = jax.device_put(tested)

        steps = config.epochs * -(-config.images // config.batch_size)
        optimizer = make_optimizer(config.lr, config.batch_size, steps)
        average = make_average(config.batch_size)
        step = train.make_train_step(
            training_loss, optimizer, compute_dtype=config.dtype, average=average
        )
        settings = (config.epochs, config.width, config.batch_size, config.lr, config.images,
                    config.dtype)  # fmt: skip
        runs: dict[int, dict[str, Any]] = {}
        for seed in range(config.seed, config.seed + config.seeds):
            print(f"seed {seed}")
            generator = Generator(seed)
            net = Net(config.width, filters, rngs=generator)
            clock = Budget()
            result = train.fit(
                train.create(net, optimizer, seed, average),
                step,
                alternating(images, labels, seed),
                epochs=config.epochs,
                batch_size=config.batch_size,
                generator=generator,
                validation=tested,
                eval_step=averaged_eval_step,
                eval_batch_size=TEST_BATCH,
                callbacks=[clock],
                checkpoint=kept.folder(*settings, f"seed{seed}"),
                keep=1,
            )
            if result.reason == "interrupted":
                raise KeyboardInterrupt
            found = accuracies(result.state, tested)
            runs[seed] = found | {
                name: {line["epoch"]: line[name] for line in result.history}
                for name in ("loss", "accuracy", "val_loss", "val_accuracy")
            }
            seconds = float(clock.memory)
            runs[seed] |= {"seconds": seconds, "compile_seconds": result.compile_seconds}
            print(f"seed {seed}: {found['mirrored']:.4f} right, {seconds / 60:.1f} minutes")
        run.metrics |= {"parameters": net.num_parameters, "runs": runs}
        _plot(run.folder / "accuracy.png", runs)
        _plot_filters(run.folder / "filters.png", filters)
        _save_table(run.folder / "result.md", config, net.num_parameters, runs)
        print((run.folder / "result.md").read_text())
    print(f"record, plots and table: {run.folder}")
    return 0


def _plot(path: Any, runs: dict[int, dict[str, Any]]) -> None:
    accuracy, loss = [], []
    for i, run in enumerate(runs.values()):
        hidden = "_" if i else ""  # one legend entry for all seeds
        epochs = list(run["loss"])
        for words, name, style in (
            ("training images, moved", "accuracy", "C0.-"),
            ("test images, averaged weights", "val_accuracy", "C1.-"),
        ):
            values = list(run[name].values())
            accuracy.append(report.Series(hidden + words, epochs, values, style))
        accuracy.append(
            report.Series(f"{hidden}with mirror images", epochs[-1:], [run["mirrored"]], "kx")
        )
        for words, name, style in (
            ("training, smoothed labels", "loss", "C0.-"),
            ("test", "val_loss", "C1.-"),
        ):
            loss.append(report.Series(hidden + words, epochs, list(run[name].values()), style))
    panels = [
        report.Panel("Accuracy on CIFAR-10", "epoch", "fraction right", accuracy),
        report.Panel("Loss", "epoch", "cross entropy", loss),
    ]
    report.save_panels(path, panels)


def _plot_filters(path: Any, filters: np.ndarray) -> None:
    """The first half of the filters, each scaled to its own range; the rest are negatives."""
    half = filters[: len(filters) // 2].transpose(0, 2, 3, 1)  # (n, size, size, 3)
    largest = np.abs(half).max(axis=(1, 2, 3), keepdims=True)
    pictures = (127.5 + 127.5 * half / largest).astype(np.uint8)
    report.save_images(path, pictures, [f"filter {i}" for i in range(len(half))])


def _save_table(
    path: Any, config: Config, parameters: int, runs: dict[int, dict[str, Any]]
) -> None:
    names = ("mirrored", "averaged", "last")
    rows: list[list[Any]] = [
        [seed, *(f"{run[name]:.4f}" for name in names), f"{run['seconds'] / 60:.1f}"]
        for seed, run in runs.items()
    ]
    if len(runs) > 1:
        columns = [mean_and_spread([run[name] for run in runs.values()], 4) for name in names]
        minutes = mean_and_spread([run["seconds"] / 60 for run in runs.values()], 1)
        rows.append(["all", *columns, minutes])
    notes = [
        f"{parameters:,} parameters. Accuracy on the 10,000 test images; mean ± standard deviation "
        "over seeds; minutes are of training, without tests and compilation.",
    ]
    header = ["seed", "averaged weights, mirror images too", "averaged weights", "last weights",
              "minutes"]  # fmt: skip
    seeds = seeds_in_words(config.seed, config.seeds)
    title = f"cifar10_fast, {config.epochs} epochs, {seeds}"
    save_table(path, title, command("cifar10_fast", config), header, rows, notes)
