"""The next hour's bikes from the day before it: two small nets against a straight line.

The inputs are 24 hours of bikes, weather, temperature, and time of day; the target is the
number of bikes in the 25th hour. One net is fully connected; the other is of `Conv1d`, along the
hours, and takes the series as the document shapes it: (N, channels, hours). The last fifth of the
two years is held out (a shuffled split would train on hours after those that are predicted). The
baseline is linear least squares on the same inputs; repeating the last hour is shown beside it.
The overview of the parts of a program (document 5 in docs/pages/book.md) says that labels need no
standardising, and otherwise have to be scaled back: here they are, by `data.Statistics`.

    python -m experiments bike_forecast

Result (2-core CPU, half a minute): off by 52.2 ± 2.0 bikes an hour over 3 seeds (root mean
square), with Conv1d by 52.1 ± 1.7, the line by 59.8, the last hour repeated by 129.6. A twelfth of
the labels loses its last digit on the way back.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.baseline import beats_line, least_squares
from experiments.bike_data import read_bikes
from experiments.harness import ledger
from experiments.harness.files import find
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, Training, from_file
from experiments.harness.tables import mean_and_spread, save_checks, seeds_in_words, show
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

    def validate(self) -> None:
        super().validate()
        if self.past < 2:
            raise ValueError(f"--past: {self.past}; at least 2 is needed, which a pool makes 1")


def inputs_and_targets(table: data.Table, past: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The inputs and targets of all forecasts.

    Args:
        table: The table of `read_bikes`.
        past: The number of hours in the inputs.

    Returns:
        The inputs (N, channels, past), the bikes of the next hour (N,), and the bikes of the
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
    return seen.transpose(0, 2, 1), after[:, 0], before[:, -1]


def fully_connected(channels: int, past: int, rngs: nn.init.Rngs) -> nn.Sequential:
    """A net that sees all hours of all channels at once.

    Args:
        channels, past: The shape of an input.
        rngs: The generator of the initial weights.
    """
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * past, 64, rngs=rngs), nn.ReLU(),
        nn.Linear(64, 1, rngs=rngs),
    )  # fmt: skip


def convolutional(channels: int, past: int, rngs: nn.init.Rngs) -> nn.Sequential:
    """A net that sees three hours at once, then 12 pairs of hours.

    Args:
        channels, past: The shape of an input.
        rngs: The generator of the initial weights.
    """
    return nn.Sequential(
        nn.Conv1d(channels, 32, 3, padding=1, rngs=rngs), nn.ReLU(), nn.MaxPool1d(2),
        nn.Flatten(), nn.Linear(32 * (past // 2), 1, rngs=rngs),
    )  # fmt: skip


NETS: dict[str, Callable[[int, int, nn.init.Rngs], nn.Sequential]] = {
    "fully connected": fully_connected,
    "Conv1d": convolutional,
}


def train_net(
    name: str,
    training: tuple[np.ndarray, np.ndarray],
    testing: tuple[np.ndarray, np.ndarray],
    seed: int,
    config: Config,
) -> tuple[np.ndarray, np.ndarray]:
    """Trains a net from one seed.

    Args:
        name: The name of the net in `NETS`.
        training: The inputs (N, channels, past) and bikes (N,) to train on.
        testing: The inputs and bikes of the held-out hours.
        seed: The seed of the initial weights and the order.
        config: The settings.

    Returns:
        The root mean square error on the held-out hours after each epoch, and their forecast
        (N,), both in bikes.
    """
    generator = Generator(seed)
    labels = data.Statistics.of(training[1][:, None])
    given, held_out = ((x, labels.apply(y[:, None])) for x, y in (training, testing))
    model = NETS[name](training[0].shape[1], training[0].shape[2], generator)
    optimizer = optim.Adam(lr=config.lr)
    loss = train.supervised(losses.mse_loss)
    result = train.fit(
        train.create(model, optimizer, seed),
        train.make_train_step(loss, optimizer),
        given,
        epochs=config.epochs,
        batch_size=64,
        generator=generator,
        validation=held_out,
        eval_step=train.make_eval_step(loss),
        eval_batch_size=1024,
        quiet=True,
        log=lambda line: None,
    )
    forecast = labels.invert(train.predict(result.state, testing[0], batch_size=1024))
    errors = np.sqrt([line["val_loss"] for line in result.history]) * float(labels.std[0])
    return errors, forecast[:, 0]


def label_checks(counted: np.ndarray, forecast: np.ndarray, error: float) -> list[dict[str, str]]:
    """Whether standardised labels come back, and the forecast is in bikes.

    Args:
        counted: The bikes (N,).
        forecast: A forecast of them (N,), in bikes.
        error: The root mean square error of the forecast that the training measured.
    """
    labels = data.Statistics.of(counted[:, None])
    back = labels.invert(labels.apply(counted[:, None]))[:, 0]
    gap = float(np.abs(back - counted).max() / counted.max())
    again = rmse(forecast, counted)
    return [
        ledger.check(
            "labels come back from standardising, to 1e-6 of the largest",
            f"{gap:.0e} off, {np.mean(back != counted):.0%} of them in the last digits",
            gap <= 1e-6,
        ),
        ledger.check(
            "the error of the forecast in bikes is the training's, scaled back, to 0.1 %",
            f"{again:.2f} and {error:.2f}",
            abs(again - error) <= 1e-3 * error,
        ),
    ]


def main(config: Config, run: Run) -> None:
    """Trains every seed; the claim is that the nets are better than the line."""
    path = find("bikes", config.data_dir)
    table = read_bikes(path)
    if config.past > len(table) // 2:
        raise ValueError(
            f"--past: {config.past}; {path} has {len(table)} hours, half of them can be given"
        )
    with from_file(path):
        x, y, last = inputs_and_targets(table, config.past)
    cut = len(x) * 4 // 5
    training, testing = (x[:cut], y[:cut]), (x[cut:], y[cut:])
    counted = y[cut:]
    curves: dict[str, dict[int, np.ndarray]] = {name: {} for name in NETS}
    forecasts = {"counted": counted}
    for name in NETS:
        for seed in range(config.seed, config.seed + config.seeds):
            curves[name][seed], forecasts[name] = train_net(name, training, testing, seed, config)
            error = curves[name][seed][-1]
            print(f"{name}, seed {seed}: off by {error:.1f} bikes an hour (root mean square)")

    flat = x.reshape(len(x), -1)
    line = least_squares(flat[:cut], y[:cut], flat[cut:])
    baselines = {"a straight line": rmse(line, counted), "last hour": rmse(last[cut:], counted)}
    final = {name: np.array([c[-1] for c in runs.values()]) for name, runs in curves.items()}
    rows = [(name, mean_and_spread(errors, 1)) for name, errors in final.items()]
    rows += [(name, f"{error:.1f}") for name, error in baselines.items()]
    seeds = seeds_in_words(config.seed, config.seeds)
    show(("forecast by", f"root mean square error, bikes an hour, {seeds}"), rows)
    claims = [
        beats_line(name, errors, baselines["a straight line"], config)
        for name, errors in final.items()
    ]
    save_checks(run, label_checks(counted, forecasts["Conv1d"], final["Conv1d"][-1]))
    run.result = f"off by {rows[0][1]} bikes an hour, with Conv1d {rows[1][1]}, "
    run.result += f"the line by {baselines['a straight line']:.1f}"
    run.metrics |= {
        "claims": claims,
        "baselines": baselines,
        "net": curves,
        "hours": {"train": cut, "test": len(counted)},
    }
    _plot(run.folder / "forecast.png", curves, baselines["a straight line"], forecasts)


def rmse(forecast: np.ndarray, counted: np.ndarray) -> float:
    """The root mean square error of a forecast.

    Args:
        forecast: The forecast (N,).
        counted: The counted bikes (N,).
    """
    return float(np.sqrt(np.mean((forecast - counted) ** 2)))


def _plot(
    path: Path,
    curves: dict[str, dict[int, np.ndarray]],
    line: float,
    forecasts: dict[str, np.ndarray],
) -> None:
    epochs = range(1, 1 + len(next(iter(next(iter(curves.values())).values()))))
    errors = []
    for k, (name, runs) in enumerate(curves.items()):
        each = np.array([*runs.values()])
        band = each.min(axis=0), each.max(axis=0)
        errors.append(plots.Series(name, epochs, each.mean(axis=0), f"C{k}-", band))
    errors.append(plots.Series("straight line", epochs, np.full(len(epochs), line), "k--"))
    styles = dict(zip(forecasts, ("k-", "C0-", "C1-"), strict=True))
    week = [
        plots.Series(name, np.arange(len(values[:168])), values[:168], styles[name])
        for name, values in forecasts.items()
    ]
    panels = [
        plots.Panel("The last months (mean, shade: seeds)", "epoch", "bikes an hour off", errors),
        plots.Panel("The first week of them", "hour", "bikes", week),
    ]
    plots.save_panels(path, panels)
