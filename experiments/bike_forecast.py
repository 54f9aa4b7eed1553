"""The next hour's bikes from the day before it: a small net against a straight line.

The inputs are 24 hours of bikes, weather, temperature, and time of day; the target is the
number of bikes in the 25th hour. The last fifth of the two years is held out (a shuffled split
would train on hours after those that are predicted). The baseline is linear least
squares on the same inputs; repeating the last hour is shown beside it.

    python -m experiments bike_forecast

Result (2-core CPU, half a minute): off by 52.0 ± 1.5 bikes an hour over 3 seeds
(root mean square), the line by 59.8, the last hour repeated by 129.6.
"""

import dataclasses
from pathlib import Path

import numpy as np

from experiments.baseline import beats_line, least_squares
from experiments.bike_data import read_bikes
from experiments.harness.files import find
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, Training, from_file
from experiments.harness.tables import mean_and_spread, seeds_in_words, show
from jaxnet import data, losses, nn, optim, plots, train
from jaxnet.random import Generator

DATA = ("bikes",)
CHANNELS = ("temp", "hum", "windspeed", "workingday")


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Settings of bike_forecast."""

    epochs: Count = 20
    """Passes over the training hours."""
    seeds: Count = 3
    """Number of runs, from --seed on."""
    lr: Positive = 1e-3
    """Learning rate of Adam."""
    past: Count = 24
    """Number of hours in the inputs of a forecast."""


def inputs_and_targets(table: data.Table, past: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inputs and targets of all forecasts.

    Args:
        table: The table of `read_bikes`.
        past: The number of hours in the inputs.

    Returns:
        The inputs (N, past * channels), the bikes of the next hour (N,), and the bikes of the
        last hour of the inputs (N,).
    """
    counts = table.column("cnt")
    clock = 2 * np.pi * table.column("hr") / 24
    # Scaled by the training hours only, since the later hours are held out.
    known = counts[: len(counts) * 4 // 5]
    if not known.max() > 0:
        raise ValueError(f"column 'cnt': no bikes in the first {len(known)} hours")
    channels = [counts / known.max(), np.sin(clock), np.cos(clock)]
    channels += [table.column(name) for name in CHANNELS]  # within 0 to 1 in the file
    weather = data.one_hot(table.column("weathersit") - 1, 4)  # (T, 4)
    series = np.hstack([np.stack(channels, axis=1), weather]).astype(np.float32)
    seen, _ = data.windows(series, past, 1)
    before, after = data.windows(counts, past, 1)
    return seen.reshape(len(seen), -1), after[:, 0], before[:, -1]


def train_net(
    training: tuple[np.ndarray, np.ndarray],
    testing: tuple[np.ndarray, np.ndarray],
    seed: int,
    config: Config,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains the net from one seed.

    Args:
        training: The inputs (N, D) and targets (N, 1) to train on.
        testing: The inputs and targets of the held-out hours.
        seed: The seed of the initial weights and the order.
        config: The settings.

    Returns:
        The mean squared error on the held-out hours after each epoch, and their forecast.
    """
    generator = Generator(seed)
    model = nn.Sequential(
        nn.Linear(training[0].shape[1], 64, rngs=generator),
        nn.ReLU(),
        nn.Linear(64, 1, rngs=generator),
    )
    optimizer = optim.Adam(lr=config.lr)
    loss = train.supervised(losses.mse_loss)
    result = train.fit(
        train.create(model, optimizer, seed),
        train.make_train_step(loss, optimizer),
        training,
        epochs=config.epochs,
        batch_size=64,
        generator=generator,
        validation=testing,
        eval_step=train.make_eval_step(loss),
        eval_batch_size=1024,
        quiet=True,
        log=lambda line: None,
    )
    forecast = train.predict(result.state, testing[0], batch_size=1024)
    return np.array([line["val_loss"] for line in result.history]), forecast[:, 0]


def main(config: Config, run: Run) -> None:
    """Trains every seed; the claim is that the net is better than the line."""
    path = find("bikes", config.data_dir)
    table = read_bikes(path)
    if config.past > len(table) // 2:
        raise ValueError(
            f"--past: {config.past}; {path} has {len(table)} hours, half of them can be given"
        )
    with from_file(path):
        x, y, last = inputs_and_targets(table, config.past)
    cut = len(x) * 4 // 5
    counted = y[cut:]
    scale = y[:cut].std()
    training, testing = (
        (x[rows], y[rows, None] / scale) for rows in (slice(cut), slice(cut, None))
    )
    curves, forecast = {}, counted
    for seed in range(config.seed, config.seed + config.seeds):
        errors, forecast = train_net(training, testing, seed, config)
        curves[seed] = np.sqrt(errors) * scale
        forecast = forecast * scale
        print(f"seed {seed}: off by {curves[seed][-1]:.1f} bikes an hour (root mean square)")

    line = least_squares(x[:cut], y[:cut], x[cut:])
    baselines = {"a straight line": rmse(line, counted), "last hour": rmse(last[cut:], counted)}
    final = np.array([curve[-1] for curve in curves.values()])
    net = mean_and_spread(final, 1)
    rows = [("the net", net), *((name, f"{error:.1f}") for name, error in baselines.items())]
    seeds = seeds_in_words(config.seed, config.seeds)
    show(("forecast by", f"root mean square error, bikes an hour, {seeds}"), rows)
    claim = beats_line(final, baselines["a straight line"], config)
    run.result = f"off by {net} bikes an hour, the line by {baselines['a straight line']:.1f}"
    run.metrics |= {
        "claims": [claim],
        "baselines": baselines,
        "net": curves,
        "hours": {"train": cut, "test": len(counted)},
    }
    forecasts = {"counted": counted, "net": forecast, "line": line}
    _plot(run.folder / "forecast.png", curves, baselines["a straight line"], forecasts)


def rmse(forecast: np.ndarray, counted: np.ndarray) -> float:
    """The root mean square error of a forecast.

    Args:
        forecast: The forecast (N,).
        counted: The counted bikes (N,).
    """
    return float(np.sqrt(np.mean((forecast - counted) ** 2)))


def _plot(
    path: Path, curves: dict[int, np.ndarray], line: float, forecasts: dict[str, np.ndarray]
) -> None:
    epochs = range(1, 1 + len(next(iter(curves.values()))))
    errors = [plots.Series(f"net, seed {s}", epochs, curve) for s, curve in curves.items()]
    errors.append(plots.Series("line", epochs, np.full(len(epochs), line), "k--"))
    styles = {"counted": "k-", "net": "C0-", "line": "C1--"}
    week = [
        plots.Series(name, np.arange(len(values[:168])), values[:168], styles[name])
        for name, values in forecasts.items()
    ]
    panels = [
        plots.Panel("The last months", "epoch", "off by, bikes an hour", errors),
        plots.Panel("The first week of them", "hour", "bikes", week),
    ]
    plots.save_panels(path, panels)
