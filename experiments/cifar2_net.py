"""Bird or airplane: a small convolutional net on 10,000 images of CIFAR-10.

The net and the figures are those of the notes on the book "Deep Learning with PyTorch"
(docs/pages/book.md), called the document: two convolutions, two max pools, two linear layers
(18,090 parameters); SGD with lr 1e-2 on shuffled batches of 64, cross entropy. With `--seed S`
the run is the PyTorch program's after torch.manual_seed(S): same initial weights, same batches.

    python -m experiments cifar2_net --seeds 5
    python -m experiments cifar2_net --epochs 2      # a look, in seconds

Result, seeds 0 to 4 on two CPU cores: after 100 epochs training loss 0.156 ± 0.005 (the
document's run: 0.144), accuracy 0.938 ± 0.006 in training (0.95) and 0.891 ± 0.004 in
validation (0.89). The nine shapes that the document prints hold, and its 13 measured figures
lie within the 99 % prediction interval of the five runs. Our loss lies above the document's at
all 11 epochs that it prints, by 4 % in the mean, which the interval of the mean allows (p = 0.1):
experiments/results/cifar2_net.md.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.birds import EVALUATION_BATCH, Trainer, curves, plot_images, two_classes
from experiments.harness import ledger
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, ShardedTraining
from experiments.harness.tables import mean_and_spread, save_ledger
from experiments.harness.unfinished import checksum
from jaxnet import nn, optim, plots, weights
from jaxnet.nn import functional as F
from jaxnet.random import Generator

DATA = ("cifar10",)
FILTERS = {
    "all 1/9": [[1 / 9] * 3] * 3,  # a blur: each pixel becomes the mean of its neighbours
    "-1 0 1": [[-1.0, 0.0, 1.0]] * 3,  # vertical edges: the right less the left neighbours
}


@dataclasses.dataclass(frozen=True)
class Config(ShardedTraining):
    """Settings of cifar2_net."""

    epochs: Count = 100
    """Passes over the 10,000 images."""
    seeds: Count = 1
    """Number of runs, from --seed on; three or more are compared with the document's."""
    lr: Positive = 1e-2
    """Learning rate of SGD."""
    batch_size: Count = 64
    """Images a step."""
    form: Literal["module", "functional"] = "module"
    """Form of the net: all layers as modules, or functions where there is no parameter."""


class Net(nn.Module):
    """The document's net with a module for every layer: images (N, 3, 32, 32) to (N, 2)."""

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, rngs=rngs)
        self.act1 = nn.Tanh()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(16, 8, kernel_size=3, padding=1, rngs=rngs)
        self.act2 = nn.Tanh()
        self.pool2 = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(8 * 8 * 8, 32, rngs=rngs)
        self.act3 = nn.Tanh()
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = self.pool1(self.act1(self.conv1(x)))
        out = self.pool2(self.act2(self.conv2(out)))
        out = out.reshape(-1, 8 * 8 * 8)
        out = self.act3(self.fc1(out))
        return self.fc2(out)


class FunctionalNet(nn.Module):
    """The same net with functions for the layers without parameters."""

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, rngs=rngs)
        self.conv2 = nn.Conv2d(16, 8, kernel_size=3, padding=1, rngs=rngs)
        self.fc1 = nn.Linear(8 * 8 * 8, 32, rngs=rngs)
        self.fc2 = nn.Linear(32, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.max_pool2d(jnp.tanh(self.conv1(x)), 2)
        out = F.max_pool2d(jnp.tanh(self.conv2(out)), 2)
        out = out.reshape(-1, 8 * 8 * 8)
        out = jnp.tanh(self.fc1(out))
        return self.fc2(out)


FORMS = {"module": Net, "functional": FunctionalNet}


def main(config: Config, run: Run) -> None:
    """Trains every seed."""
    training = jax.device_put(two_classes("train", config.data_dir)[1])
    pictures, validation = two_classes("test", config.data_dir)
    validation = jax.device_put(validation)
    print(f"Training on device {training[0].device}.")
    print(f"{len(training[1])} training and {len(validation[1])} validation images")

    trainer = Trainer(FORMS[config.form], optim.SGD(lr=config.lr), training, validation)
    given = checksum(training, validation)
    runs = {}
    for seed in range(config.seed, config.seed + config.seeds):
        print(f"seed {seed}")
        settings = (config.form, f"{config.epochs}epochs", f"lr{config.lr:g}", config.batch_size)
        kept = run.unfinished.folder(*settings, f"seed{seed}", given)
        result = trainer.run(
            seed,
            config.epochs,
            config.batch_size,
            checkpoint=kept,
            save_every=5,
            keep=1,
            mesh=config.mesh,
        )
        runs[seed] = curves(result)
        for split in ("train", "val"):
            print(f"Accuracy {split}: {result.history[-1][f'{split}_accuracy']:.2f}")

    figures = {
        "train_loss": {
            i: [c["train_loss"][i] for c in runs.values()] for i in range(1, config.epochs + 1)
        },
        "train_accuracy": [c["train_accuracy"][config.epochs] for c in runs.values()],
        "val_accuracy": [c["val_accuracy"][config.epochs] for c in runs.values()],
    }
    if config.epochs != 100:
        del figures["train_accuracy"], figures["val_accuracy"]
    ours = config.lr == Config.lr and config.batch_size == Config.batch_size
    if not ours:
        print("the document's figures are for its own --lr and --batch-size: not judged")
    rows = ledger.compare("cifar2.conv", shapes(training[0][:1]))
    rows += ledger.compare_over_seeds(
        "cifar2.net", figures if ours else {}, complete=ours and config.epochs == 100
    )
    run.metrics["runs"] = runs
    last = [c["val_accuracy"][config.epochs] for c in runs.values()]
    run.result = f"validation accuracy {mean_and_spread(last)}"
    save_ledger(run, rows, _notes(config, runs))
    _plot(run.folder, runs)
    model = result.state.model()
    plot_images(run.folder / "images.png", model, pictures, validation)
    _plot_filters(run.folder, training[0][:1])
    path = run.folder / "birds_vs_airplanes.pt"
    weights.save(path, weights.state_dict(model))
    same = loaded_gives_the_same(path, config, model, validation[0])
    print(f"a fresh net with the weights of {path.name} gives the same answers: {same}")
    what = "a fresh net that the saved weights are loaded into gives the same answers"
    run.metrics["checks"] = [ledger.check(what, str(same), same)]


def shapes(image: jax.Array) -> dict[str, Any]:
    """The shapes that the document prints on its way to the net.

    Args:
        image: An image (1, 3, 32, 32).
    """
    conv = nn.Conv2d(3, 16, kernel_size=3, rngs=Generator(0))
    padded = nn.Conv2d(3, 1, kernel_size=3, padding=1, rngs=Generator(0))
    print(f"3 x 3 convolution: {conv(image).shape}; with padding=1: {padded(image).shape}")
    for words, flatten in (("as it is", []), ("with nn.Flatten", [nn.Flatten()])):
        try:
            outcome = str(as_sequence(flatten)(image).shape)
        except ValueError as error:
            outcome = f"refused: {error}"
        print(f"the net as one nn.Sequential, {words}: {outcome}")
    parameters = {name: array.shape for name, array in weights.state_dict(conv).items()}
    return parameters | {"pooled": nn.MaxPool2d(2)(image).shape}


def as_sequence(between: Sequence[nn.Module]) -> nn.Sequential:
    """The document's first attempt at the net, one nn.Sequential.

    Args:
        between: Modules between the convolutions and the linear layers, where the document
            forgets nn.Flatten.
    """
    rngs = Generator(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, kernel_size=3, padding=1, rngs=rngs),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 8, kernel_size=3, padding=1, rngs=rngs),
        nn.Tanh(),
        nn.MaxPool2d(2),
        *between,
        nn.Linear(8 * 8 * 8, 32, rngs=rngs),
        nn.Tanh(),
        nn.Linear(32, 2, rngs=rngs),
    )


def loaded_gives_the_same(path: Path, config: Config, model: Any, inputs: jax.Array) -> bool:
    """Whether a net of another seed gives a model's answers after it has loaded its weights.

    Args:
        path: Path of the file with the model's weights.
        config: The settings, for the form of the net.
        model: The model.
        inputs: Images (N, 3, 32, 32), of which the first are compared.
    """
    # From a seed that no run has, so that an array that is not loaded would show.
    fresh: Any = FORMS[config.form](rngs=Generator((config.seed + config.seeds) % 2**32))
    fresh.eval()
    weights.load_state_dict(fresh, weights.load(path))
    some = inputs[:EVALUATION_BATCH]
    return bool((fresh(some) == model(some)).all())


def filtered(image: jax.Array, kernel: Any) -> jax.Array:
    """A convolution to one channel with a filter set by hand, the same for all channels.

    Args:
        image: An image (1, 3, H, W).
        kernel: The filter, nested lists of 3 by 3 numbers.

    Returns:
        The filtered image (1, 1, H, W).
    """
    conv = nn.Conv2d(3, 1, kernel_size=3, padding=1, rngs=Generator(0))
    weight = np.broadcast_to(np.float32(kernel), conv.weight.shape)
    weights.load_state_dict(conv, {"weight": weight, "bias": np.zeros(1, np.float32)})
    return conv(image)


def _plot(folder: Any, runs: dict[int, Any]) -> None:
    loss, accuracy = [], []
    for k, (seed, run) in enumerate(runs.items()):
        color = f"C{k % 10}"
        epochs = list(run["train_loss"])
        values = list(run["train_loss"].values())
        loss.append(plots.Series(f"seed {seed}", epochs, values, f"{color}-"))
        for split, style in (("train", "--"), ("val", "-")):
            points = run[f"{split}_accuracy"]
            name = split if k == 0 else "_"  # one legend entry for all seeds
            marks = color + style + ("o" if split == "train" else "")  # measured there only
            accuracy.append(plots.Series(name, list(points), list(points.values()), marks))
    last = max(max(run["train_loss"]) for run in runs.values())
    printed = {
        int(name.split(".")[1]): float(figure)
        for name, figure in ledger.documented("cifar2.net").items()
        if name.startswith("train_loss.") and int(name.split(".")[1]) <= last
    }
    loss.append(plots.Series("document", list(printed), list(printed.values()), "ko"))
    panels = [
        plots.Panel("Training loss", "epoch", "mean of the batches' cross entropy", loss),
        plots.Panel("Accuracy", "epoch", "fraction right", accuracy),
    ]
    plots.save_panels(folder / "curves.png", panels)


def _plot_filters(folder: Any, image: jax.Array) -> None:
    """Draws the output of each filter in grey beside the input, as the document does."""

    def grey(values: jax.Array) -> np.ndarray:
        low, high = float(values.min()), float(values.max())
        return np.asarray(255 * (values - low) / (high - low)).astype(np.uint8)

    pictures, titles = [], []
    for words, kernel in FILTERS.items():
        pictures += [grey(filtered(image, kernel)[0, 0]), grey(image[0].mean(axis=0))]
        titles += [f"output: {words}", "input"]
    stacked = np.stack(pictures)[..., None].repeat(3, axis=3)  # (N, H, W, 3)
    caption = "Two filters set by hand: what they make of an image"
    plots.save_images(folder / "filters.png", stacked, titles, columns=2, title=caption)


def _notes(config: Config, runs: Any) -> list[str]:
    last_losses, accuracies = (
        ", ".join(f"{run[name][config.epochs]:.4f}" for run in runs.values())
        for name in ("train_loss", "val_accuracy")
    )
    seconds = ", ".join(f"{run['seconds']:.0f}" for run in runs.values())
    return [
        "Mean ± standard deviation over seeds; allowed is the 99 % prediction interval of one more "
        "run, and half of the printed digit.",
        f"Last training losses by seed: {last_losses}; validation accuracies: {accuracies}.",
        f"Seconds of training: {seconds}; the document's clock says 341 for its 100 epochs.",
    ]
