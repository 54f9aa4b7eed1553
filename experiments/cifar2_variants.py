"""Bird or airplane, nine ways: width, penalties, dropout, batch norm, skips, depth.

The document changes its small net one idea at a time and prints no figures. Every
variant trains as `cifar2_net` does (SGD, shuffled batches of 64, cross entropy); one
bar chart compares train and validation accuracy, mean and spread over seeds.

    python -m experiments cifar2_variants --seeds 3
    python -m experiments cifar2_variants --seeds 3 --hours 1 --variants res_deep res_deep_separate
    python -m experiments cifar2_variants --variants net width --epochs 2     # a look

Eight variants take minutes a seed on two CPU cores, the two deep ones hours: `--hours 1`
trains for as many of the 100 epochs as an hour allows, and chart and table say how many.
A run that is stopped or killed loses at most the epoch it was in: the same command goes
on from OUT/cifar2_variants/unfinished, which is taken away when all is done.

The document's `validate` never says `model.eval()`, so dropout still drops and batch norm takes
each batch's own statistics; a second chart and two columns measure as it does.

Result, seeds 0 to 2 on two CPU cores, accuracy after 100 epochs in training and validation:
net 0.942 and 0.889, width 0.966 and 0.888, L2 and weight_decay (one and the same) 0.932 and
0.890, L1 0.886 and 0.867, dropout 0.922 and 0.896, batch norm 0.974 and 0.871, a skip 0.959
and 0.894, with a spread of 0.001 to 0.02; without eval() dropout has 0.874 in validation and
batch norm 0.872: experiments/results/cifar2_variants.md.

The deep ones, 100 blocks, seeds 0 and 1, an hour each on two CPU cores: 38 to 48 epochs; of the
validation images 0.841 ± 0.030 (shared) and 0.849 ± 0.022 (separate) right without eval(), 0.500
and 0.842 ± 0.017 with it. One batch norm that is used 100 times keeps the statistics of its last
uses only, with which the net guesses: experiments/results/cifar2_variants_deep.md.

`res_deep` builds its blocks as the document does, `n_blocks * [block]`: one block,
used n times, with one set of weights and running statistics. `res_deep_separate` has
n blocks, each with its own.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import birds, cifar2_net
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, Training
from experiments.harness.tables import mean_and_spread, save_table, seeds_in_words, show
from experiments.harness.unfinished import Unfinished, checksum
from jaxnet import losses, metrics, nn, optim, plots, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator

DATA = ("cifar10",)
BATCH = 64

Name = Literal["net", "width", "l2", "l1", "weight_decay", "dropout", "batch_norm", "res",
               "res_deep", "res_deep_separate"]  # fmt: skip


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
    optimizer: Callable[[], optim.Optimizer] = lambda: optim.SGD(lr=1e-2)
    penalty: Callable[[nn.Module], jax.Array] | None = None

    def loss(self, model: Any, batch: Any) -> Any:
        images, classes = batch
        outputs = model(images)
        value = losses.cross_entropy(outputs, classes)
        if self.penalty is not None and model.training:
            value = value + self.penalty(model)
        return value, {"accuracy": metrics.accuracy(outputs, classes)}


def variants(n_blocks: int) -> dict[str, Variant]:
    """All of them by name."""

    def slow() -> optim.Optimizer:
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
class Config(Training):
    """Settings of cifar2_variants."""

    epochs: Count = 100
    """Passes over the 10,000 images, for each variant and seed."""
    seeds: Count = 1
    """How many runs of each, from --seed on."""
    variants: tuple[Name, ...] = ("net", "width", "l2", "l1", "weight_decay", "dropout",
                                  "batch_norm", "res")  # fmt: skip
    """Which to run; res_deep and res_deep_separate take hours on a CPU at 100 blocks."""
    n_blocks: Count = 100
    """Blocks of the deep ones; the document's is 100."""
    hours: Positive | None = None
    """Hours after which the training of one variant and seed ends."""

    def validate(self) -> None:
        super().validate()
        if not self.variants:
            raise ValueError("--variants: none given; name at least one")


SPLITS = {"train": "training", "val": "validation"}
WITHOUT_EVAL = "_without_eval"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the seeds of one variant reached: curves by name, then by epoch."""

    parameters: int
    runs: dict[int, dict[str, Any]]

    def last(self, name: str) -> list[float]:
        """The last value of a curve, one a seed."""
        return [run[name][max(run[name])] for run in self.runs.values()]

    @property
    def epochs(self) -> list[int]:
        return [max(run["train_loss"]) for run in self.runs.values()]


def without_eval(loss: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A step that measures as the document's `validate` does, which never says `model.eval()`.

    Channels are dropped, and every batch is normalised by its own statistics.
    """

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        model = state.model()
        model.train()
        with nn.keys(jax.random.fold_in(state.key, state.step)):
            _, measured = loss(model, batch)
        return state.replace(step=state.step + 1), measured

    return step


def run_variant(
    name: str,
    variant: Variant,
    config: Config,
    rows: tuple[birds.Rows, birds.Rows],
    kept: Unfinished,
) -> Outcome:
    """Trains a variant from every seed, or goes on with what a killed command left."""
    trainer = birds.Trainer(variant.build, variant.optimizer(), *rows, variant.loss)
    document_step = without_eval(variant.loss)
    given = checksum(rows)
    runs = {}
    for seed in range(config.seed, config.seed + config.seeds):
        print(f"{name}, seed {seed}")
        result = trainer.run(
            seed,
            config.epochs,
            batch_size=BATCH,
            time_budget=None if config.hours is None else 3600 * config.hours,
            checkpoint=checkpoint_folder(kept, name, seed, config, given),
            keep=1,
        )
        if not result.history:
            raise ValueError(f"--hours: {config.hours}; {name} ends no epoch in that; give more")
        runs[seed] = curves = birds.curves(result)
        last = result.history[-1]["epoch"]
        for split, images in zip(SPLITS, rows, strict=True):
            # Of the net as it ended: its hours may have been over within an epoch.
            curves[f"{split}_accuracy"][last] = trainer.accuracy(result.state, images)
            measured = train.evaluate(
                result.state, document_step, images, batch_size=BATCH, quiet=True
            )
            curves[f"{split}_accuracy{WITHOUT_EVAL}"] = {last: float(measured["accuracy"])}
    outcome = Outcome(variant.build(rngs=Generator(0)).num_parameters, runs)
    both = {split: mean_and_spread(outcome.last(f"{split}_accuracy")) for split in SPLITS}
    print(f"{name}: accuracy train {both['train']}, val {both['val']} (n={config.seeds})")
    return outcome


def checkpoint_folder(kept: Unfinished, name: str, seed: int, config: Config, given: str) -> Path:
    """Another for all settings and data (`given`, their checksum) that make another run."""
    parts = [name, f"{config.epochs}epochs"]
    if name.startswith("res_deep"):
        parts.append(f"{config.n_blocks}blocks")
    if config.hours is not None:
        parts.append(f"{config.hours:g}hours")
    return kept.folder(*parts, f"seed{seed}", given)


def main(config: Config, run: Run) -> None:
    """Trains the variants."""
    training, validation = (
        jax.device_put(birds.two_classes(split, config.data_dir)[1]) for split in ("train", "test")
    )
    chosen = variants(config.n_blocks)
    outcomes: dict[str, Outcome] = {
        name: run_variant(name, chosen[name], config, (training, validation), run.unfinished)
        for name in dict.fromkeys(config.variants)
    }
    run.metrics |= {
        name: {"parameters": outcome.parameters, "runs": outcome.runs}
        for name, outcome in outcomes.items()
    }
    _plot(run.folder, config, outcomes)
    _save_table(run, config, outcomes)
    best = max(outcomes, key=lambda name: float(np.mean(outcomes[name].last("val_accuracy"))))
    run.result = f"best: {best}, {mean_and_spread(outcomes[best].last('val_accuracy'))}"


def _reached(outcome: Outcome) -> str:
    few, many = min(outcome.epochs), max(outcome.epochs)
    return str(few) if few == many else f"{few} to {many}"


def _plot(folder: Path, config: Config, outcomes: dict[str, Outcome]) -> None:
    names = []
    for name, outcome in outcomes.items():
        short = min(outcome.epochs) < config.epochs
        names.append(f"{name}\n({_reached(outcome)}\nepochs)" if short else name)
    seeds = f"mean ± deviation of {config.seeds} seeds" if config.seeds > 1 else "one seed"
    for kind, words in (("", ""), (WITHOUT_EVAL, ",\nwithout model.eval(), as in the document")):
        bars = {
            f"{split_words} images": [
                outcome.last(f"{split}_accuracy{kind}") for outcome in outcomes.values()
            ]
            for split, split_words in SPLITS.items()
        }
        title = f"Birds and airplanes: accuracy after {config.epochs} epochs, {seeds}{words}"
        path = folder / f"accuracy{kind}.png"
        plots.save_bars(path, names, bars, title, "fraction right", 3, from_zero=False)


def _save_table(run: Run, config: Config, outcomes: dict[str, Outcome]) -> None:
    rows = []
    for name, outcome in outcomes.items():
        minutes = [run["seconds"] / 60 for run in outcome.runs.values()]
        accuracies = [
            mean_and_spread(outcome.last(f"{split}_accuracy{kind}"), 4)
            for kind in ("", WITHOUT_EVAL)
            for split in SPLITS
        ]
        loss = mean_and_spread(outcome.last("train_loss"))
        rows.append(
            [name, f"{outcome.parameters:,}", _reached(outcome), loss, *accuracies,
             f"{np.mean(minutes):.1f}"]
        )  # fmt: skip
    notes = [
        "Mean ± standard deviation over seeds, after the last epoch; the training loss is the mean "
        "over the steps of that epoch, penalty included; minutes are of training, one seed.",
        "Without model.eval(), as the document's `validate` measures, in batches of 64: channels "
        "are dropped, and every batch is normalised by its own statistics.",
    ]
    if config.hours is not None:
        notes.append(
            f"A run ends after {config.hours:g} h, within an epoch; the epochs are whole ones."
        )
    if any(name.startswith("res_deep") for name in outcomes):
        notes.append(f"The deep nets have {config.n_blocks} blocks.")
    header = ["variant", "parameters", "epochs", "training loss", "training accuracy",
              "validation accuracy", "training, without eval()", "validation, without eval()",
              "minutes"]  # fmt: skip
    seeds = seeds_in_words(config.seed, config.seeds)
    title = f"cifar2_variants, {config.epochs} epochs, {seeds}"
    show(["variant", *header[2:-1]], [[row[0], *row[2:-1]] for row in rows])
    save_table(run, title, header, rows, notes)
