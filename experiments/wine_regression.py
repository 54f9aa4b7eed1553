"""Predicting a wine's quality: a small net against a straight line.

Eleven standardised measurements, quality as a number, a fifth of the wines held
out. The baseline is linear least squares in closed form on the same rows; the net
is 11-32-1 with tanh, trained by Adam on the mean squared error. The overview of the parts of a
program (document 5 in docs/pages/book.md) says that labels need no standardising: the net is
trained with both kinds, from the same weights and on the same batches.

    python -m experiments wine_regression

Result (2-core CPU, half a minute): mean squared error 0.511 ± 0.026 over 5 seeds with the labels
as they are, 0.501 ± 0.014 with standardised ones, the line's 0.554 ± 0.022 on the same splits;
predicting the mean has 0.760. The table repeats many wines (3,961 of its 4,898 rows differ), so
some of the wines that are held out are also trained on, for the line and the net alike.
"""

import dataclasses
from typing import Any

import numpy as np

from experiments.baseline import beats_line, least_squares
from experiments.harness.files import find
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, Training, from_file
from experiments.harness.tables import mean_and_spread, seeds_in_words, show
from jaxnet import data, losses, nn, optim, plots, train
from jaxnet.random import Generator

DATA = ("wine",)
FEWEST = 20
LABELS = ("plain", "standardised")


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Settings of wine_regression."""

    epochs: Count = 100
    """Passes over the training wines."""
    seeds: Count = 5
    """Number of runs, from --seed on; each has its own split of the wines."""
    lr: Positive = 3e-3
    """Learning rate of Adam."""
    hidden: Count = 32
    """Units of the hidden layer."""


def one_run(table: data.Table, seed: int, config: Config) -> dict[str, Any]:
    """Splits the wines, trains the net with both kinds of labels, and measures it and the line.

    Args:
        table: The table of wines.
        seed: The seed of the split, the initial weights and the order.
        config: The settings.

    Returns:
        The mean squared errors in quality points on the held-out wines: of the "line" and the
        "mean", and by epoch of the net with labels that are "plain" and "standardised".
    """
    wines, quality = table.split("quality")
    generator = Generator(seed)
    rows = data.random_split(range(len(table)), [0.8, 0.2], generator)
    known, unknown = (np.array(part.indices) for part in rows)
    scale = data.Statistics.of(wines.values[known])
    x, x_new = (scale.apply(wines.values[part]) for part in (known, unknown))
    y, y_new = (quality[part] for part in (known, unknown))
    found: dict[str, Any] = {
        "line": float(np.mean((least_squares(x, y, x_new) - y_new) ** 2)),
        "mean": float(np.var(y_new)),
    }
    plain = data.Statistics(np.zeros(1, np.float32), np.ones(1, np.float32))
    state = generator.get_state()
    for name, labels in zip(LABELS, (plain, data.Statistics.of(y[:, None])), strict=True):
        generator.set_state(state)  # the same initial weights and order for both
        given, held_out = (labels.apply(part[:, None]) for part in (y, y_new))
        losses_of = train_net((x, given), (x_new, held_out), generator, config)
        # The loss is that of the labels as they were given; this one is in quality points.
        found[name] = [float(loss * labels.std[0] ** 2) for loss in losses_of]
    return found


def train_net(
    training: tuple[np.ndarray, np.ndarray],
    testing: tuple[np.ndarray, np.ndarray],
    generator: Generator,
    config: Config,
) -> list[float]:
    """Trains the net; returns its loss on the held-out wines after each epoch.

    Args:
        training: The wines (N, 11) and labels (N, 1) to train on.
        testing: Those that are held out.
        generator: The generator of the initial weights and the order.
        config: The settings.
    """
    model = nn.Sequential(
        nn.Linear(training[0].shape[1], config.hidden, rngs=generator),
        nn.Tanh(),
        nn.Linear(config.hidden, 1, rngs=generator),
    )
    optimizer = optim.Adam(lr=config.lr)
    loss = train.supervised(losses.mse_loss)
    result = train.fit(
        train.create(model, optimizer, config.seed),
        train.make_train_step(loss, optimizer),
        training,
        epochs=config.epochs,
        batch_size=64,
        generator=generator,
        validation=testing,
        eval_step=train.make_eval_step(loss),
        eval_batch_size=len(testing[0]),
        quiet=True,
        log=lambda line: None,
    )
    return [line["val_loss"] for line in result.history]


def main(config: Config, run: Run) -> None:
    """Trains every seed; the claim is that the net is better than the line."""
    path = find("wine", config.data_dir)
    table = data.read_table(path, delimiter=";")
    if len(table) < FEWEST:
        raise ValueError(f"{path}: {len(table)} wines; a fifth is held out: give {FEWEST}")
    seeds = range(config.seed, config.seed + config.seeds)
    with from_file(path):
        runs = {seed: one_run(table, seed, config) for seed in seeds}
    line, mean = (np.array([r[name] for r in runs.values()]) for name in ("line", "mean"))
    curves = {name: np.array([r[name] for r in runs.values()]) for name in LABELS}
    nets = {f"the net, {name} labels": curve[:, -1] for name, curve in curves.items()}
    show(
        ("predicted by", f"mean squared error, {seeds_in_words(config.seed, config.seeds)}"),
        [
            *((name, mean_and_spread(errors, 4)) for name, errors in nets.items()),
            ("a straight line", mean_and_spread(line, 4)),
            ("always the mean", mean_and_spread(mean, 4)),
        ],
    )
    claims = [beats_line(name, errors, float(line.mean()), config) for name, errors in nets.items()]
    run.result = f"error {mean_and_spread(nets['the net, standardised labels'])}, "
    run.result += f"the line {mean_and_spread(line)}"
    run.metrics |= {"claims": claims, "runs": runs}
    first = min(5, config.epochs)  # the plain labels' error is far above before
    epochs = range(first, config.epochs + 1)
    curves = {name: each[:, first - 1 :] for name, each in curves.items()}
    series = [
        plots.Series(name, epochs, each.mean(axis=0), f"C{k}-", (each.min(0), each.max(0)))
        for k, (name, each) in enumerate(zip(nets, curves.values(), strict=True))
    ]
    series.append(plots.Series("line", epochs, np.full(len(epochs), line.mean()), "k--"))
    title = "Wines not seen in training (mean, shade: seeds)"
    panel = plots.Panel(title, "epoch", "mean squared error", series)
    plots.save_panels(run.folder / "curves.png", [panel])
