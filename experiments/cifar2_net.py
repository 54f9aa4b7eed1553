"""Bird or airplane: a small convolutional net on 10,000 images of CIFAR-10.

Two convolutions, two max pools, two linear layers (18,090 parameters); SGD with
lr 1e-2 on shuffled batches of 64, cross entropy. With `--seed S` the run is the
PyTorch program's after torch.manual_seed(S): same initial weights, same batches.

    python -m experiments cifar2_net --seeds 5
    python -m experiments cifar2_net --epochs 2      # a look, in seconds

Result, seeds 0 to 4 on two CPU cores: after 100 epochs training loss 0.156 ± 0.005 (the
document's run: 0.144), accuracy 0.938 ± 0.006 in training (0.95) and 0.891 ± 0.004 in
validation (0.89). The nine shapes that the document prints hold, and its 13 measured figures
lie within the 99 % prediction interval of the five runs: experiments/results/cifar2_net.md.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import ledger
from experiments.result_table import save_ledger
from experiments.settings import Settings
from jaxnet import data, losses, metrics, nn, optim, report, train, weights
from jaxnet.nn import functional as F
from jaxnet.random import Generator

DATA = ("cifar10",)
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
CLASSES = ("airplane", "bird")
EVALUATION_BATCH = 500
FILTERS = {
    "all 1/9": [[1 / 9] * 3] * 3,  # a blur: each pixel the mean of its neighbours
    "-1 0 1": [[-1.0, 0.0, 1.0]] * 3,  # vertical edges: right neighbours less left ones
}

Rows = tuple[Any, Any]  # inputs and classes


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of cifar2_net."""

    epochs: int = 100
    """Passes over the 10,000 images."""
    seeds: int = 1
    """How many runs, from --seed on; three or more are held against the document."""
    lr: float = 1e-2
    """Learning rate of SGD."""
    batch_size: int = 64
    """Images a step."""
    form: Literal["module", "functional"] = "module"
    """How the net is written: layers as modules, or functions where there is no parameter."""

    def validate(self) -> None:
        super().validate()
        if self.lr <= 0:
            raise ValueError(f"--lr: {self.lr}; a positive number is needed")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size: {self.batch_size}; at least 1 is needed")
        if self.seeds < 1:
            raise ValueError(f"--seeds: {self.seeds}; at least 1 is needed")


class Net(nn.Module):
    """The document's net, every layer a module."""

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
    """The same net with functions for what has no parameters."""

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


def two_classes(split: str, config: Config) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The airplanes (0) and birds (1) of a split: as stored, and as the net takes them."""
    everything = data.load("cifar10", split=split, data_dir=config.data_dir)
    wanted = [everything.classes.index(name) for name in CLASSES]
    rows = np.isin(everything.labels, wanted)
    images = everything.images[rows]
    inputs = data.normalize(data.to_tensor(images), MEAN, STD)
    return images, (inputs, (everything.labels[rows] == wanted[1]).astype(np.int32))


class Trainer:
    """A net, an optimizer and a loss on the two classes; compiled once for all seeds.

    Args:
        build: gives the net, from `rngs`.
        optimizer: of `jaxnet.optim`.
        training, validation: inputs and classes.
        loss: of (model, batch), with the metric "accuracy"; cross entropy, if None.
    """

    def __init__(
        self,
        build: Callable[..., nn.Module],
        optimizer: optim.Optimizer,
        training: Rows,
        validation: Rows,
        loss: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        loss = loss or train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})
        self.build, self.optimizer = build, optimizer
        self.training, self.validation = training, validation
        self.step = train.make_train_step(loss, optimizer)
        self.eval_step = train.make_eval_step(loss)
        self._evaluate = train.make_epoch(self.eval_step, EVALUATION_BATCH)

    def run(
        self,
        seed: int,
        epochs: int,
        batch_size: int,
        callbacks: Sequence[Callable[[train.EpochReport], Any]] = (),
        **options: Any,
    ) -> train.Result:
        """One run: the PyTorch program's after torch.manual_seed(seed).

        Every epoch's line of the history has "loss" and "val_accuracy"; those of the first,
        each tenth and the last have "train_accuracy" too, of the net as it is then.

        Args:
            seed: of the initial weights and of every epoch's order.
            epochs: passes over the training rows.
            batch_size: rows a step.
            callbacks: called before the training rows are measured.
            **options: of `train.fit`.

        Raises:
            ValueError: the loss is not finite.
            KeyboardInterrupt: Ctrl-C; what a checkpoint folder holds is whole.
        """

        def measure(report: train.EpochReport) -> Any:
            last = report.epoch == report.epochs or report.reason is not None
            if report.epoch == 1 or report.epoch % 10 == 0 or last:
                order = jnp.arange(len(self.training[1]))
                state, measured = self._evaluate(report.state, self.training, order)
                accuracy = metrics.total(measured["accuracy"]).compute()
                report.log(train_accuracy=accuracy)
                return state
            return None

        generator = Generator(seed)
        try:
            result = train.fit(
                train.create(self.build(rngs=generator), self.optimizer, seed),
                self.step,
                self.training,
                epochs=epochs,
                batch_size=batch_size,
                generator=generator,
                validation=self.validation,
                eval_step=self.eval_step,
                eval_batch_size=EVALUATION_BATCH,
                callbacks=[*callbacks, measure],
                **options,
            )
        except train.NonFiniteError as error:
            raise ValueError(f"seed {seed}: {error}") from error
        if result.reason == "interrupted":
            raise KeyboardInterrupt
        return result


def curves(result: train.Result) -> dict[str, Any]:
    """What a record keeps of a run: by name, then by epoch."""
    names = {"loss": "train_loss", "train_accuracy": "", "val_loss": "", "val_accuracy": ""}
    kept: dict[str, Any] = {
        name or key: {line["epoch"]: line[key] for line in result.history if key in line}
        for key, name in names.items()
    }
    return kept | {"seconds": result.seconds, "compile_seconds": result.compile_seconds}


def main(config: Config) -> int:
    """Trains every seed; returns how many figures are off."""
    config.validate()
    with train.Run(config.out, "cifar2_net", config) as run:
        training = jax.device_put(two_classes("train", config)[1])
        pictures, validation = two_classes("test", config)
        validation = jax.device_put(validation)
        print(f"Training on device {training[0].device}.")
        print(f"{len(training[1])} training and {len(validation[1])} validation images")

        trainer = Trainer(FORMS[config.form], optim.SGD(lr=config.lr), training, validation)
        runs = {}
        for seed in range(config.seed, config.seed + config.seeds):
            print(f"seed {seed}")
            result = trainer.run(seed, config.epochs, config.batch_size)
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
        save_ledger(run, config, rows, _notes(config, runs))
        _plot(run.folder, runs)
        model = result.state.model()
        plot_images(run.folder, model, pictures, validation)
        _plot_filters(run.folder, training[0][:1])
        path = run.folder / "birds_vs_airplanes.pt"
        weights.save(path, weights.state_dict(model))
        same = loaded_gives_the_same(path, config, model, validation[0])
        print(f"a fresh net with the weights of {path.name} gives the same answers: {same}")
        what = "a fresh net that the saved weights are loaded into gives the same answers"
        run.metrics["checks"] = checks = [ledger.check(what, str(same), same)]
    print(f"record, plots, table and the last seed's weights: {run.folder}")
    return ledger.failed(rows, checks)


def shapes(image: jax.Array) -> dict[str, Any]:
    """What the document prints on its way to the net, for one image (1, 3, 32, 32)."""
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
    """The document's first attempt at the net, with what is given before the linear layers."""
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
    """Whether a net that began from another seed answers as this one, once it is loaded."""
    fresh: Any = FORMS[config.form](rngs=Generator((config.seed + config.seeds) % 2**32))
    fresh.eval()
    weights.load_state_dict(fresh, weights.load(path))
    some = inputs[:EVALUATION_BATCH]
    return bool((fresh(some) == model(some)).all())


def filtered(image: jax.Array, kernel: Any) -> jax.Array:
    """A convolution to one channel with a filter set by hand, the same for all channels.

    Args:
        image: (1, 3, H, W).
        kernel: (3, 3).

    Returns:
        (1, 1, H, W).
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
        loss.append(report.Series(f"seed {seed}", epochs, values, f"{color}-"))
        for split, style in (("train", "--"), ("val", "-")):
            points = run[f"{split}_accuracy"]
            name = split if k == 0 else "_"  # one legend entry for all seeds
            accuracy.append(report.Series(name, list(points), list(points.values()), color + style))
    last = max(max(run["train_loss"]) for run in runs.values())
    printed = {
        int(name.split(".")[1]): float(figure)
        for name, figure in ledger.documented("cifar2.net").items()
        if name.startswith("train_loss.") and int(name.split(".")[1]) <= last
    }
    loss.append(report.Series("document", list(printed), list(printed.values()), "ko"))
    panels = [
        report.Panel("Training loss", "epoch", "mean of the batches' cross entropy", loss),
        report.Panel("Accuracy", "epoch", "fraction right", accuracy),
    ]
    report.save_panels(folder / "curves.png", panels)


def _plot_filters(folder: Any, image: jax.Array) -> None:
    """As the document draws them: the output in grey beside the mean of the input's channels."""

    def grey(values: jax.Array) -> np.ndarray:
        low, high = float(values.min()), float(values.max())
        return np.asarray(255 * (values - low) / (high - low)).astype(np.uint8)

    pictures, titles = [], []
    for words, kernel in FILTERS.items():
        pictures += [grey(filtered(image, kernel)[0, 0]), grey(image[0].mean(axis=0))]
        titles += [f"output: {words}", "input"]
    stacked = np.stack(pictures)[..., None].repeat(3, axis=3)  # (N, H, W, 3)
    report.save_images(folder / "filters.png", stacked, titles, columns=2)


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


def plot_images(folder: Any, model: Any, pictures: np.ndarray, validation: Any) -> None:
    """The first images of the validation set, six of each class, with their probabilities."""
    inputs, labels = validation
    labels = np.asarray(labels)
    rows = np.concatenate([np.flatnonzero(labels == c)[:6] for c in (0, 1)])
    bird = np.asarray(jax.nn.softmax(model(inputs[rows]), axis=1))[:, 1]
    titles = []
    for row, p in zip(rows, bird, strict=True):
        guess, sure = ("bird", p) if p > 0.5 else ("airplane", 1 - p)
        mark = "" if CLASSES[labels[row]] == guess else " (wrong)"
        titles.append(f"{guess} {sure:.0%}{mark}")
    report.save_images(folder / "images.png", pictures[rows], titles)
