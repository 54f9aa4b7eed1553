"""Birds and airplanes of CIFAR-10: the data and the training that the cifar2 experiments share."""

import dataclasses
import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet import data, losses, metrics, nn, optim, plots, train
from jaxnet.random import Generator

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
CLASSES = ("airplane", "bird")
EVALUATION_BATCH = 500

Rows = tuple[Any, Any]
"""Inputs (N, ...) and classes (N,)."""


def two_classes(
    split: str, data_dir: Path | None = None
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The airplanes (0) and birds (1) of a split.

    Args:
        split: The split, "train" or "test".
        data_dir: Path of a folder that is searched for CIFAR-10 first.

    Returns:
        The images as stored, uint8 (N, 32, 32, 3); and the rows for a net: inputs, float32
        (N, 3, 32, 32), normalised, and classes, int32 (N,).
    """
    everything = data.load("cifar10", split=split, data_dir=data_dir)
    wanted = [everything.classes.index(name) for name in CLASSES]
    rows = np.isin(everything.labels, wanted)
    images = everything.images[rows]
    inputs = data.normalize(data.to_tensor(images), MEAN, STD)
    return images, (inputs, (everything.labels[rows] == wanted[1]).astype(np.int32))


class Trainer:
    """A net, an optimizer and a loss on the two classes; compiled once for all seeds.

    Args:
        build: A function of `rngs` that makes the net.
        optimizer: An optimizer of `jaxnet.optim`.
        training: The rows to train on.
        validation: The rows on which the net is measured after every epoch.
        loss: A function of (model, batch) with the metric "accuracy"; cross entropy if None.
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

    def accuracy(self, state: Any, rows: Rows) -> float:
        """The fraction of rows that a state classifies correctly, in evaluation mode.

        Args:
            state: The training state.
            rows: The rows.
        """
        measured = train.evaluate(
            state, self.eval_step, rows, batch_size=EVALUATION_BATCH, quiet=True
        )
        return float(measured["accuracy"])

    def run(
        self,
        seed: int,
        epochs: int,
        batch_size: int,
        callbacks: Sequence[Callable[[train.EpochReport], Any]] = (),
        **options: Any,
    ) -> train.Result:
        """One run: the PyTorch program's after torch.manual_seed(seed).

        After the first and each tenth epoch a line is printed as in the document, with the time
        of day. The history has "loss", "val_accuracy" and "seconds" for every epoch, and for the
        first, each tenth and the last epoch also "train_accuracy", of the net after the epoch.

        Args:
            seed: The seed of the initial weights and of every epoch's order.
            epochs: The number of passes over the training rows.
            batch_size: The number of rows in a step.
            callbacks: Functions that are called before the training rows are measured.
            **options: Further arguments of `train.fit`.

        Raises:
            ValueError: The loss is not finite.
            KeyboardInterrupt: The user pressed Ctrl-C; checkpoints are complete.
        """

        def measure(report: train.EpochReport) -> None:
            report.log(seconds=report.seconds)
            shown = report.epoch == 1 or report.epoch % 10 == 0
            if shown:
                now, loss = datetime.datetime.now(), report.metrics["loss"]
                print(f"{now} Epoch {report.epoch}, Training loss {loss}")
            if shown or report.epoch == report.epochs or report.reason is not None:
                report.log(train_accuracy=self.accuracy(report.state, self.training))

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
                log=lambda line: None,  # fit's own line of each epoch
                **options,
            )
        except train.NonFiniteError as error:
            raise ValueError(f"seed {seed}: {error}") from error
        if result.reason == "interrupted":
            raise KeyboardInterrupt
        return dataclasses.replace(result, state=train.gather(result.state))


def curves(result: train.Result) -> dict[str, Any]:
    """The figures of a run for the record: "train_loss" and others by epoch, and the seconds.

    Args:
        result: The result of the run.
    """
    names = {"train_loss": "loss", "train_accuracy": "train_accuracy", "val_loss": "val_loss",
             "val_accuracy": "val_accuracy"}  # fmt: skip
    kept: dict[str, Any] = {
        name: {line["epoch"]: line[key] for line in result.history if key in line}
        for name, key in names.items()
    }
    seconds = sum(line["seconds"] for line in result.history)
    return kept | {"seconds": seconds, "compile_seconds": result.compile_seconds}


def plot_images(path: Path, model: Any, pictures: np.ndarray, validation: Rows) -> None:
    """Draws the first validation images, six of each class, with the net's answers.

    Args:
        path: Path of the PNG file.
        model: The net.
        pictures: The validation images as stored, uint8 (N, 32, 32, 3).
        validation: The inputs and classes of these images.
    """
    inputs, labels = validation
    labels = np.asarray(labels)
    rows = np.concatenate([np.flatnonzero(labels == c)[:6] for c in (0, 1)])
    bird = np.asarray(jax.nn.softmax(model(inputs[rows]), axis=1))[:, 1]
    titles = []
    for row, p in zip(rows, bird, strict=True):
        guess, sure = ("bird", p) if p > 0.5 else ("airplane", 1 - p)
        mark = "" if CLASSES[labels[row]] == guess else " (wrong)"
        titles.append(f"{guess} {sure:.0%}{mark}")
    caption = "The first validation images, and what the net says with which probability"
    plots.save_images(path, pictures[rows], titles, title=caption)
