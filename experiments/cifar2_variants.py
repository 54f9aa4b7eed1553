"""Bird or airplane, nine ways: width, penalties, dropout, batch norm, skips, depth.

The notes on the book "Deep Learning with PyTorch" (docs/pages/book.md), called the document,
change their small net one idea at a time and print no figures. Every
variant trains as `cifar2_net` does (SGD, shuffled batches of 64, cross entropy); one
bar chart compares train and validation accuracy, mean and spread over seeds.

    python -m experiments cifar2_variants --seeds 3
    python -m experiments cifar2_variants --seeds 3 --hours 1 --variants res_deep res_deep_separate
    python -m experiments cifar2_variants --variants net width --epochs 2     # a look

Eight variants take minutes a seed on two CPU cores, the two deep ones hours: `--hours 1`
trains for as many of the 100 epochs as an hour allows, and chart and table say how many.
A run that is stopped or killed loses at most the epoch it was in: the same command goes
on from OUT/cifar2_variants/unfinished, which is removed when all runs are done.

The document's `validate` does not call `model.eval()`, so dropout still drops channels and batch
norm uses the statistics of each batch; a second chart and two columns measure in the same way.

Result, seeds 0 to 2 on two CPU cores, accuracy after 100 epochs in training and validation:
net 0.942 and 0.889, width 0.966 and 0.888, L2 and weight_decay (one and the same) 0.932 and
0.890, L1 0.886 and 0.867, dropout 0.922 and 0.896, batch norm 0.974 and 0.871, a skip 0.959
and 0.894, with a spread of 0.001 to 0.02; without eval() dropout has 0.874 in validation and
batch norm 0.872: experiments/results/cifar2_variants.md.

Result of the deep nets with 100 blocks, seeds 0 and 1, an hour each on two CPU cores: 38 to 48
epochs; of the validation images 0.841 ± 0.030 (shared) and 0.849 ± 0.022 (separate) are right
without eval(), 0.500 and 0.842 ± 0.017 with eval(). A batch norm that is called 100 times in each
step has the running statistics of its last calls only, which are wrong for all earlier calls, so
the net is right by chance only: experiments/results/cifar2_variants_deep.md.

`res_deep` builds its blocks as the document does, `n_blocks * [block]`: one block,
used n times, with one set of weights and running statistics. `res_deep_separate` has
n different blocks.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from experiments import birds, cifar2_net
from experiments.cifar2_nets import NetBatchNorm, NetDropout, NetRes, NetResDeep, NetWidth
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, ShardedTraining
from experiments.harness.tables import count, mean_and_spread, save_table, seeds_in_words, show
from experiments.harness.unfinished import Unfinished, checksum
from experiments.without_eval import without_eval
from jaxnet import losses, metrics, nn, optim, plots, train
from jaxnet.random import Generator

DATA = ("cifar10",)
BATCH = 64

Name = Literal["net", "width", "l2", "l1", "weight_decay", "dropout", "batch_norm", "res",
               "res_deep", "res_deep_separate"]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Variant:
    """One idea of the document.

    Attributes:
        build: A function of `rngs` that makes the model.
        optimizer: A function that makes the optimizer.
        penalty: A function of the model whose value is added to the loss, or None.
    """

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
    """All variants by name.

    Args:
        n_blocks: The number of blocks of the deep nets.
    """

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
class Config(ShardedTraining):
    """Settings of cifar2_variants."""

    epochs: Count = 100
    """Passes over the 10,000 images, for each variant and seed."""
    seeds: Count = 1
    """Number of runs of each variant, from --seed on."""
    variants: tuple[Name, ...] = ("net", "width", "l2", "l1", "weight_decay", "dropout",
                                  "batch_norm", "res")  # fmt: skip
    """Variants to run; res_deep and res_deep_separate take hours on a CPU at 100 blocks."""
    n_blocks: Count = 100
    """Number of blocks of the deep nets; the document's is 100."""
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
    """The results of one variant.

    Attributes:
        parameters: The number of parameters.
        runs: For each seed the figures by name, and the figures of epochs by epoch.
    """

    parameters: int
    runs: dict[int, dict[str, Any]]

    def last(self, name: str) -> list[float]:
        """The last value of a figure, for each seed.

        Args:
            name: The name of the figure.
        """
        return [run[name][max(run[name])] for run in self.runs.values()]

    @property
    def epochs(self) -> list[int]:
        return [max(run["train_loss"]) for run in self.runs.values()]


def run_variant(
    name: str,
    variant: Variant,
    config: Config,
    rows: tuple[birds.Rows, birds.Rows],
    kept: Unfinished,
) -> Outcome:
    """Trains a variant from every seed, or resumes the runs of a command that was killed.

    Args:
        name: The name of the variant.
        variant: The variant.
        config: The settings.
        rows: The training rows and the validation rows.
        kept: The checkpoint folders.
    """
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
            mesh=config.mesh,
        )
        if not result.history:
            raise ValueError(f"--hours: {config.hours}; {name} ends no epoch in that; give more")
        runs[seed] = curves = birds.curves(result)
        last = result.history[-1]["epoch"]
        for split, images in zip(SPLITS, rows, strict=True):
            # Measured for the final net, since --hours may have ended within an epoch.
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
    """The checkpoint folder of a run; its name has every setting that changes the run.

    Args:
        kept: The checkpoint folders of the command.
        name: The name of the variant.
        seed: The seed of the run.
        config: The settings.
        given: The checksum of the data.
    """
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
        epochs = count(config.epochs, "epoch")
        title = f"Birds and airplanes: accuracy after {epochs}, {seeds}{words}"
        path = folder / f"accuracy{kind}.png"
        plots.save_bars(path, names, bars, title, "fraction right", 3, from_zero=False, top=1.0)


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
    title = f"cifar2_variants, {count(config.epochs, 'epoch')}, {seeds}"
    show(["variant", *header[2:-1]], [[row[0], *row[2:-1]] for row in rows])
    save_table(run, title, header, rows, notes)
