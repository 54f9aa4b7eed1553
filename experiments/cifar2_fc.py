"""Bird or airplane: what fully connected nets make of the pixels of 10,000 images.

The nets are those of the notes on the book "Deep Learning with PyTorch" (docs/pages/book.md),
called the document. A net of 3,072 pixels, 512 tanh units and 2 log-probabilities is trained by
SGD with lr 1e-2, on one image a step in the order of the files, and on 2 and 64 shuffled images
a step; a deeper net has four layers. NLLLoss of LogSoftmax and CrossEntropyLoss of the scores
are the same function: both are computed and compared.

    python -m experiments cifar2_fc                          # five epochs, under a minute
    python -m experiments cifar2_fc --epochs 100 --seeds 5   # the document's; an hour or two

A run that is stopped or killed loses at most five epochs: the same command goes on.

The document prints its losses and its validation accuracy, 0.8235, under a listing with
two images a step, but these figures are those of 64 images a step. Result: the net with 64
images a step ends at 0.8178 ± 0.0024 with a training loss of 0.017 (five seeds; accuracy and
counts hold, the losses of single steps scatter too much to be judged one by one), the net with
two images a step at 0.7775 ± 0.0039 and 0.24. (A test compares its steps with
PyTorch's.) Table: experiments/results/cifar2_fc.md (two CPU cores of an AMD EPYC).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from experiments import birds
from experiments.harness import ledger
from experiments.harness.record import Run
from experiments.harness.settings import Count, ShardedTraining
from experiments.harness.tables import markdown, mean_and_spread, save_ledger
from experiments.harness.unfinished import checksum
from jaxnet import data, losses, metrics, nn, optim, plots, train
from jaxnet.random import Generator

DATA = ("cifar10",)
IMAGE = 99  # an automobile of CIFAR-10: the only image that the document calls `img`
UNTRAINED = 30  # the number of untrained nets whose losses on it are compared with the document's


def fully_connected(*, rngs: nn.init.Rngs) -> nn.Sequential:
    """The document's net: pixels (N, 3072) to log-probabilities (N, 2)."""
    return nn.Sequential(
        nn.Linear(3072, 512, rngs=rngs),
        nn.Tanh(),
        nn.Linear(512, 2, rngs=rngs),
        nn.LogSoftmax(dim=1),
    )


def deeper(*, rngs: nn.init.Rngs) -> nn.Sequential:
    """The document's second net, of four linear layers: (N, 3072) to (N, 2)."""
    return nn.Sequential(
        nn.Linear(3072, 1024, rngs=rngs),
        nn.Tanh(),
        nn.Linear(1024, 512, rngs=rngs),
        nn.Tanh(),
        nn.Linear(512, 128, rngs=rngs),
        nn.Tanh(),
        nn.Linear(128, 2, rngs=rngs),
        nn.LogSoftmax(dim=1),
    )


@dataclasses.dataclass(frozen=True)
class Trial:
    """A net and the settings of its training.

    Attributes:
        words: The name of the trial in tables and pictures.
        build: A function of `rngs` that makes the net.
        batch_size: The number of images in a step.
        shuffle: Whether each epoch has an order of its own.
        most_epochs: The largest number of epochs, whatever --epochs says.
        section: The section of the ledger with the document's figures, or None.
    """

    words: str
    build: Callable[..., nn.Module]
    batch_size: int
    shuffle: bool = True
    most_epochs: int = 100
    section: str | None = None


Name = Literal["sixty_four", "one", "deeper", "two"]
TRIALS: dict[Name, Trial] = {
    "sixty_four": Trial(
        "3072-512-2, batch 64", fully_connected, 64, section="cifar2.fully_connected"
    ),
    # The document shows twelve epochs of this trial, in which the loss does not fall.
    "one": Trial(
        "3072-512-2, batch 1, in order", fully_connected, 1, False, 12, "cifar2.one_by_one"
    ),
    "deeper": Trial("3072-1024-512-128-2, batch 64", deeper, 64, True, 30),
    "two": Trial("3072-512-2, batch 2", fully_connected, 2),
}


@dataclasses.dataclass(frozen=True)
class Config(ShardedTraining):
    """Settings of cifar2_fc."""

    epochs: Count = 5
    """Passes over the 10,000 images; at most 12 of one image a step, 30 of the deeper net."""
    seeds: Count = 1
    """Number of runs of each trial; three or more are compared with the document's."""
    trials: tuple[Name, ...] = ("sixty_four", "one", "deeper", "two")
    """Trials to run; `sixty_four` and `one` have figures in the document."""

    def validate(self) -> None:
        super().validate()
        if not self.trials:
            raise ValueError("--trials: none given; name at least one")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Last(metrics.Metric):
    """A metric that keeps the value of the last step, as PyTorch's loop prints it."""

    value: jax.Array

    def _merged(self, other: "Last") -> "Last":
        return other

    def compute(self) -> jax.Array:
        return self.value


def nll_loss(model: Any, batch: Any) -> Any:
    """The loss of a net that returns log-probabilities: NLLLoss, with the accuracy."""
    images, classes = batch
    outputs = model(images)
    value = losses.nll_loss(outputs, classes)
    measured: dict[str, Any] = {"accuracy": metrics.accuracy(outputs, classes)}
    if model.training:
        measured["last_loss"] = Last(value)
    return value, measured


def both_forms(seed: int, rows: birds.Rows) -> float:
    """The largest difference between NLLLoss(LogSoftmax) and CrossEntropyLoss.

    Args:
        seed: The seed of the initial weights.
        rows: The rows on which the losses and their gradients are compared.
    """
    images, classes = rows
    nets = fully_connected(rngs=Generator(seed)), fully_connected(rngs=Generator(seed))[:-1]
    criteria = nn.NLLLoss(), nn.CrossEntropyLoss()
    found = []
    for net, criterion in zip(nets, criteria, strict=True):
        structure, params, buffers = train.split(net)

        def loss(params: Any, structure: Any = structure, buffers: Any = buffers,
                 criterion: Any = criterion) -> jax.Array:  # fmt: skip
            return criterion(train.merge(structure, params, buffers)(images), classes)

        found.append(jax.value_and_grad(loss)(params))
    gaps = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *found)
    return max(jax.tree.leaves(gaps))


def untrained_losses(config: Config) -> list[float]:
    """The losses of untrained nets of several seeds on one image and its label."""
    everything = data.load("cifar10", split="train", data_dir=config.data_dir)
    image = data.to_tensor(everything.images[IMAGE : IMAGE + 1])
    pixels = data.normalize(image, birds.MEAN, birds.STD).reshape(1, 3072)
    label = jnp.asarray(everything.labels[IMAGE : IMAGE + 1])
    return [
        float(nn.NLLLoss()(fully_connected(rngs=Generator(seed))(pixels), label))
        for seed in range(config.seed, config.seed + UNTRAINED)
    ]


def main(config: Config, run: Run) -> None:
    """Trains the nets from every seed."""
    pictures, rows = {}, {}
    for split in ("train", "test"):
        pictures[split], (images, classes) = birds.two_classes(split, config.data_dir)
        rows[split] = jax.device_put((images.reshape(-1, 3072), classes))
    gap = both_forms(config.seed, jax.tree.map(lambda x: x[:64], rows["train"]))
    print(f"NLLLoss(LogSoftmax) and CrossEntropyLoss: loss and gradient {gap:.1e} apart")

    given = checksum(rows)
    outcomes: dict[str, dict[int, dict[str, Any]]] = {}
    for name in dict.fromkeys(config.trials):
        trial = TRIALS[name]
        trainer = birds.Trainer(
            trial.build, optim.SGD(lr=1e-2), rows["train"], rows["test"], nll_loss
        )
        outcomes[name] = {}
        for seed in range(config.seed, config.seed + config.seeds):
            print(f"{trial.words}, seed {seed}")
            epochs = min(config.epochs, trial.most_epochs)
            result = trainer.run(
                seed,
                epochs,
                trial.batch_size,
                shuffle=trial.shuffle,
                checkpoint=run.unfinished.folder(name, f"{epochs}epochs", f"seed{seed}", given),
                save_every=5,
                keep=1,
                mesh=config.mesh,
            )
            last = {line["epoch"]: line["last_loss"] for line in result.history}
            outcomes[name][seed] = birds.curves(result) | {"last_loss": last}
            if name == "two" and seed == config.seed:
                model = result.state.model()

    found = _judged(config, outcomes)
    run.metrics |= {"forms_apart": gap, "trials": outcomes}
    save_ledger(run, found, _notes(config, outcomes))
    _plot(run.folder / "curves.png", outcomes)
    if "two" in outcomes:
        birds.plot_images(run.folder / "images.png", model, pictures["test"], rows["test"])


def _judged(config: Config, outcomes: dict[str, dict[int, dict[str, Any]]]) -> list[ledger.Row]:
    sizes = [p[...].size for p in fully_connected(rngs=Generator(config.seed)).parameters()]
    found = ledger.compare("cifar2.parameters", {"total": sum(sizes), "each": sizes})
    untrained = {"loss": untrained_losses(config)}
    found += ledger.compare_over_seeds("cifar2.untrained", untrained)
    for name, trial in TRIALS.items():
        if trial.section is None:
            continue
        runs = list(outcomes.get(name, {}).values())
        figures: dict[str, Any] = {}
        if runs:
            # The document counts epochs from 0.
            epochs = range(1, min(config.epochs, trial.most_epochs) + 1)
            figures["last_loss"] = {i - 1: [run["last_loss"][i] for run in runs] for i in epochs}
            if 100 in epochs:
                figures["val_accuracy"] = [run["val_accuracy"][100] for run in runs]
        found += ledger.compare_over_seeds(
            trial.section, figures, config.epochs >= 100 and bool(runs)
        )
    return found


def _plot(path: Any, outcomes: dict[str, dict[int, dict[str, Any]]]) -> None:
    printed, accuracy = [], []
    for k, (name, runs) in enumerate(outcomes.items()):
        trial = TRIALS[name]  # type: ignore[index]
        for i, run in enumerate(runs.values()):
            hidden = "_" if i else ""  # one legend entry for all seeds
            epochs = list(run["val_accuracy"])
            values = list(run["val_accuracy"].values())
            style = f"C{k}-" if len(epochs) > 20 else f"C{k}.-"
            accuracy.append(plots.Series(hidden + trial.words, epochs, values, style))
            if trial.section:
                values = list(run["last_loss"].values())
                printed.append(plots.Series(hidden + trial.words, epochs, values, style))
        if trial.section:
            figures = ledger.documented(trial.section).items()
            points = [(int(k.split(".")[1]) + 1, float(v)) for k, v in figures if "." in k]
            x, y = zip(*[(i, v) for i, v in points if i <= max(epochs)], strict=True)
            marks = "k." if name == "sixty_four" else "kx"
            printed.append(plots.Series(f"document, batch {trial.batch_size}", x, y, marks))
    panels = [plots.Panel("Validation", "epoch", "fraction right", accuracy)]
    if printed:
        panels.append(
            plots.Panel("The last step of each epoch", "epoch", "its loss", printed, log=True)
        )
    plots.save_panels(path, panels)


def _notes(config: Config, outcomes: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    header = ("net", "epochs", "training loss", "training accuracy", "validation accuracy")
    rows = []
    for name, runs in outcomes.items():
        trial = TRIALS[name]  # type: ignore[index]
        epochs = min(config.epochs, trial.most_epochs)
        cells = [
            mean_and_spread([run[curve][epochs] for run in runs.values()], 4)
            for curve in ("train_loss", "train_accuracy", "val_accuracy")
        ]
        rows.append([trial.words, epochs, *cells])
    words = (
        "The document prints the figures `fully_connected` under a listing with 2 images a step; "
        "they are held against 64, whose losses they are."
    )
    return ["", markdown(header, rows), "", words]
