"""Handwritten digits: the documents' five nets, by modules and by plain tensors.

The documents are the notes and lessons on PyTorch that docs/pages/book.md lists. Each net
trains as its document's program does, with its loss, optimizer, epochs, batches and log
lines. To that come a pass over the 10,000 test images after every epoch, precision and recall
of every digit, digits beside their class probabilities, and the parameters saved (a `.pt` file
that torch opens) and loaded into a fresh net. With `--seed S` the run is the PyTorch
program's after torch.manual_seed(S): same initial weights, same batches. A further net,
`keras`, is that of the documents' Keras program, made, fitted and measured by `train.fit`.

    python -m experiments mnist_mlp
    python -m experiments mnist_mlp --nets classifier --form tensors --optimizer adam
    python -m experiments mnist_mlp --nets mlp leaky --epochs 2      # a look, in seconds
    python -m experiments mnist_mlp --visdom-port 8097               # drawn during training

Result, seeds 0 to 4 on two CPU cores, accuracy on the test images: sigmoid 96.9 ± 0.1 %,
classifier 89.8 ± 0.2 %, stack 97.1 ± 0.1 %, dropout 96.4 ± 0.2 %, mlp and leaky 93.8 ± 0.2 %
(95.5 ± 0.1 % by plain tensors, which start from kaiming_normal_), keras 97.7 ± 0.1 %. An
epoch takes 0.4 to 0.9 s there, one of stack 1.3 s: experiments/results/mnist_mlp.md.

The document of `dropout` measures without `model.eval()`, so its dropout drops then too: 0.951
of the test images are right instead of 0.964, and both are compared with PyTorch's.

The documents print no figures of these nets; the ledger has PyTorch's for seed 0. The losses
of the first epoch's steps agree with PyTorch's to 1e-6 in float64. In float32 they agree to
1e-5 until a unit of a ReLU net rounds to the other side of 0, which moves them by up to 1e-4
(PyTorch on two threads differs from PyTorch on one by as much).
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import mnist_plots
from experiments.harness import ledger, tables
from experiments.harness.record import Run
from experiments.harness.settings import Count, Training
from experiments.mnist_forms import Net, Predict, StepLosses, as_module, as_tensors
from experiments.mnist_judge import checks_of, judge, layer_by_layer, writings_apart
from experiments.mnist_nets import PROGRAMS, Optimizer, Program, keras_net
from jaxnet import data, optim, train, weights
from jaxnet.random import Generator

DATA = ("mnist",)

TEST_BATCH = 1000  # images in a step of the test pass
Name = Literal["sigmoid", "classifier", "stack", "dropout", "mlp", "leaky", "keras"]
Form = Literal["module", "tensors"]
Images = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Settings of mnist_mlp."""

    epochs: Count = 30
    """Upper limit on every net's epochs; the documents' own are 5, 10 and 30."""
    seeds: Count = 1
    """Number of runs of each net, from --seed on; three or more have a spread."""
    nets: tuple[Name, ...] = ("sigmoid", "classifier", "stack", "dropout", "mlp", "leaky", "keras")
    """Nets to train: all of them take a few minutes on two CPU cores."""
    form: Form = "module"
    """Form of the nets: modules, or functions of plain tensors (keras is always a module)."""
    optimizer: Optimizer = "document"
    """Optimizer: each document's own, or one for all nets but keras."""
    visdom_port: int | None = None
    """Draw losses and digits on this machine's Visdom server (python -m visdom.server: 8097)."""

    def validate(self) -> None:
        super().validate()
        if not self.nets:
            raise ValueError("--nets: none given; name at least one")
        if len(set(self.nets)) < len(self.nets):
            raise ValueError(f"--nets: {' '.join(self.nets)}; name each once")


def digits(split: str, config: Config) -> data.Labelled:
    """The images of a split as stored, uint8 (N, 28, 28, 1), with the digits.

    Args:
        split: The split, "train" or "test".
        config: The settings, for the folder of the data.
    """
    return data.load("mnist", split=split, data_dir=config.data_dir)


def inputs(stored: data.Labelled, mean: float, std: float) -> Images:
    """The inputs of a net, float32 (N, 1, 28, 28), normalised, and the digits (N,).

    Args:
        stored: The images as stored.
        mean: The mean that is subtracted from the pixels in 0 to 1.
        std: The deviation that the pixels are divided by.
    """
    x = data.normalize(data.to_tensor(stored.images), (mean,), (std,))
    return jnp.asarray(x), jnp.asarray(stored.labels)


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of one run.

    Attributes:
        untrained: Probabilities (1, 10) of the first test image before the first step.
        outputs: A function from images to the net's outputs (N, 10).
        predict: A function from images to probabilities (N, 10).
        arrays: The parameters by name.
        load: A function of a file that gives `predict` of a fresh net with the file's parameters.
        curves: Figures by name; the figures of epochs are dictionaries by epoch, from 1 on.
    """

    untrained: np.ndarray
    outputs: Predict
    predict: Predict
    arrays: dict[str, Any]
    load: Callable[[Path], Predict]
    curves: dict[str, Any]


def train_one(
    program: Program,
    seed: int,
    config: Config,
    training: Images,
    test: Images,
    log: Callable[[str], None] = print,
    board: train.Visdom | None = None,
) -> Trained:
    """Trains a net as its document does, with the document's log lines.

    Args:
        program: The document's program.
        seed: The seed of the run.
        config: The settings.
        training: The training images and digits.
        test: The test images and digits.
        log: A function that prints a line.
        board: A Visdom server's windows for losses and accuracy, or None.
    """
    generator = Generator(seed)
    optimizer = program.make_optimizer(config.optimizer)
    if config.form == "module":
        net = as_module(program.build, program.gives, optimizer, seed, generator)
        log(str(net.state.model()))
    else:
        net = as_tensors(program, optimizer, seed, generator)
    steps, rows = StepLosses(), len(training[1])

    def show(report: train.EpochReport) -> None:
        step_losses = steps.take()
        mean = program.epoch_loss(step_losses, rows)
        report.log(train_loss=mean, seconds=report.seconds)
        loss, accuracy = report.metrics["val_loss"], report.metrics["val_accuracy"]
        for line in program.lines(report.epoch, mean, step_losses, rows):
            log(line)
        log(f"Test set: Average loss: {loss:.4f}, Accuracy: {100 * accuracy:.2f} %")
        if board is not None:
            first = 1 + (report.epoch - 1) * len(step_losses)
            board.write([{"step": k, "loss": loss} for k, loss in enumerate(step_losses, first)])
            seen = {"val_loss": loss, "accuracy": accuracy}
            board.write([{"epoch": report.epoch, "loss": mean, **seen}])
            two_lines = {"test loss": loss, "acc.": accuracy}
            board.write([{"epoch": report.epoch, **two_lines}], "test loss&acc.")
        # PyTorch's loader of the test images draws a seed at each pass, although it does not
        # shuffle. Without that draw the next epoch would have another order.
        if program.tests_in_loop:
            data.epoch_order(len(test[1]), generator, shuffle=False)

    def test_now(report: train.StepReport) -> None:
        measured = train.evaluate(
            report.state, net.test_step, test, batch_size=TEST_BATCH, quiet=True
        )
        by_step[report.step] = float(measured["accuracy"])

    by_step: dict[int, float] = {}
    callbacks: list[Any] = [show]
    if program.tests_in_loop:  # the document's other answer to "when is a net tested?"
        callbacks.append(train.EverySteps(100, test_now))
    trained = fitted(
        net,
        training,
        test,
        generator,
        epochs=min(program.epochs, config.epochs),
        batch_size=program.batch_size,
        callbacks=callbacks,
        records=steps,
        log=_silent,
    )
    if by_step:
        trained.curves["test_accuracy_by_step"] = by_step
    if program.closing:
        log(program.closing % (100 * list(trained.curves["test_accuracy"].values())[-1]))
    return trained


def three_calls(
    seed: int, config: Config, training: Images, test: Images, log: Callable[[str], None] = print
) -> Trained:
    """The Keras program of document 3: model.compile, model.fit, model.evaluate.

    Args:
        seed: The seed of the run.
        config: The settings.
        training: The training images and digits.
        test: The test images and digits.
        log: A function that prints a line.
    """
    generator = Generator(seed)
    optimizer = optim.Adam(lr=1e-3, eps=1e-7)  # Keras's eps
    net = as_module(keras_net, "logits", optimizer, seed, generator)
    return fitted(
        net,
        training,
        test,
        generator,
        epochs=min(5, config.epochs),
        batch_size=32,
        callbacks=[
            lambda report: report.log(train_loss=report.metrics["loss"], seconds=report.seconds)
        ],
        log=log,
    )


def fitted(
    net: Net, training: Images, test: Images, generator: Generator, **options: Any
) -> Trained:
    """Trains a net by `train.fit`, with a test pass after every epoch.

    Args:
        net: The net.
        training: The training images.
        test: The test images.
        generator: The generator of every epoch's order.
        **options: Further arguments of `train.fit`; a callback logs "train_loss" and "seconds".
    """
    untrained = np.asarray(net.predict(net.state)(test[0][:1]))
    result = train.fit(
        net.state,
        net.step,
        training,
        generator=generator,
        validation=test,
        eval_step=net.test_step,
        eval_batch_size=TEST_BATCH,
        quiet=True,
        **options,
    )
    if result.reason == "interrupted":
        raise KeyboardInterrupt
    names = {"train_loss": "train_loss", "test_loss": "val_loss", "test_accuracy": "val_accuracy",
             "seconds": "seconds"}  # fmt: skip
    curves: dict[str, Any] = {
        name: {line["epoch"]: line[key] for line in result.history} for name, key in names.items()
    }
    for name in ("precision", "recall"):
        curves[name] = np.array(result.history[-1][f"val_{name}"])
    if net.document_step is not None:
        measured = train.evaluate(result.state, net.document_step, test, batch_size=64, quiet=True)
        curves["test_accuracy_without_eval"] = float(measured["accuracy"])
    arrays = net.arrays(result.state)
    outputs, predict = net.outputs(result.state), net.predict(result.state)
    return Trained(untrained, outputs, predict, arrays, net.load, curves)


def main(config: Config, run: Run) -> None:
    """Trains every net."""
    stored = {split: digits(split, config) for split in ("train", "test")}
    print(f"{len(stored['train'])} training and {len(stored['test'])} test images")
    rows: list[ledger.Row] = []
    results: dict[str, dict[int, dict[str, Any]]] = {}
    checks = []
    for name in config.nets:
        program = PROGRAMS.get(name)
        mean, std = (program.mean, program.std) if program else (0.0, 1.0)
        training, test = (inputs(stored[split], mean, std) for split in ("train", "test"))
        results[name] = {}
        if name == "sigmoid":
            gap = run.metrics["writings_apart"] = writings_apart(config.seed, test[0])
            print(f"modules, functions, named sequence: outputs differ by at most {gap:.1g}")
        if name == "mlp":
            lines, found = layer_by_layer(config.seed)
            print("layer by layer, without and with activations:", *lines, sep="\n  ")
            checks += found
        board = None
        if config.visdom_port is not None:
            board = train.Visdom(port=config.visdom_port, env=f"mnist_mlp_{name}")
        for seed in range(config.seed, config.seed + config.seeds):
            print(f"\n{name}, seed {seed}")
            log = print if seed == config.seed else _silent
            if program:
                shown = board if seed == config.seed else None
                trained = train_one(program, seed, config, training, test, log, shown)
            else:
                trained = three_calls(seed, config, training, test, log)
            trained.curves["parameters"] = sum(map(np.size, trained.arrays.values()))
            results[name][seed] = trained.curves
            _summarize(trained.curves)
            if seed == config.seed:
                same = _look(run.folder, name, trained, stored["test"], test[0])
                what = f"{name}: a fresh net with the saved parameters predicts the same"
                checks.append(ledger.check(what, str(same), same))
                outputs, ps = trained.outputs(test[0]), trained.predict(test[0])
                checks += checks_of(name, trained.curves, outputs, ps)
                if board is not None:
                    images = stored["test"].images[:200]
                    mnist_plots.show(board, images, trained.predict(test[0][:200]))
        rows += judge(name, config, results[name])
    run.metrics["runs"] = results
    last = {
        name: [100 * list(c["test_accuracy"].values())[-1] for c in runs.values()]
        for name, runs in results.items()
    }
    best = max(last, key=lambda name: float(np.mean(last[name])))
    run.result = f"best: {best}, {tables.mean_and_spread(last[best], 1)} % of the test images right"
    tables.save_checks(run, checks)
    tables.save_ledger(run, rows)
    mnist_plots.save_results(run.folder, results)


def _silent(line: str) -> None:
    pass


def _summarize(curves: dict[str, Any]) -> None:
    last = max(curves["train_loss"])
    print(
        f"after {tables.count(last, 'epoch')}: training loss {curves['train_loss'][last]:.4f}, "
        f"accuracy on test images {100 * curves['test_accuracy'][last]:.2f} %, "
        f"{min(curves['seconds'].values()):.2f} s per epoch"
    )
    rows = [(name, *(f"{value:.3f}" for value in curves[name])) for name in ("precision", "recall")]
    tables.show(("digit", *map(str, range(10))), rows)


def _look(
    folder: Path, name: str, trained: Trained, stored: data.Labelled, test: jax.Array
) -> bool:
    """Draws digits with the net's answers, and saves the parameters.

    Returns:
        Whether a fresh net with the saved parameters gives the same answers.
    """
    ps = np.asarray(trained.predict(test))
    mnist_plots.save_digits(folder / f"{name}.png", name, stored, trained.untrained, ps)
    file = folder / f"{name}.pt"
    weights.save(file, trained.arrays)
    same = np.array_equal(np.asarray(trained.load(file)(test)), ps)
    verdict = "the same predictions" if same else "OTHER PREDICTIONS"
    count = trained.curves["parameters"]
    print(f"{count} parameters saved to {file.name} and loaded into a fresh net: {verdict}")
    return same
