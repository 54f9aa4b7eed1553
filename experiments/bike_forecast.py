"""The next hour's bikes from the day before it: a small net against a straight line.

For every hour, 24 hours of bikes, weather, temperature, and the clock are given; the
bikes of the 25th hour are asked for. The last fifth of the two years is held out
(no shuffled split: tomorrow is not known today). The baseline is linear least
squares on the same inputs; repeating the last hour is shown beside it.

    python -m experiments bike_forecast

Result (2-core CPU, half a minute): off by 52.0 ± 1.5 bikes an hour over 3 seeds
(root mean square), the line by 59.8, the last hour repeated by 129.6.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.result_table import mean_and_spread
from experiments.settings import Settings, from_file
from experiments.wine_regression import beats_line, least_squares
from jaxnet import data, losses, nn, optim, report, train
from jaxnet.random import Generator

DATA = ("bikes",)
CHANNELS = ("temp", "hum", "windspeed", "workingday")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of bike_forecast."""

    epochs: int = 20
    """Passes over the training hours."""
    seeds: int = 3
    """How many runs, from --seed on."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    past: int = 24
    """Hours that a forecast is made from."""

    def validate(self) -> None:
        super().validate()
        for name in ("seeds", "past"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name}: {getattr(self, name)}; at least 1 is needed")
        if self.lr <= 0:
            raise ValueError(f"--lr: {self.lr}; a positive number is needed")


def inputs_and_targets(table: data.Table, past: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows (N, past * channels), the following hour's count (N,), and the last one seen."""
    counts = table.column("cnt")
    clock = 2 * np.pi * table.column("hr") / 24
    known = counts[: len(counts) * 4 // 5]  # the scale too is what is known by then
    if not known.max() > 0:
        raise ValueError(f"column 'cnt': no bikes in the first {len(known)} hours")
    channels = [counts / known.max(), np.sin(clock), np.cos(clock)]
    channels += [table.column(name) for name in CHANNELS]  # within 0 to 1 in the file
    weather = data.one_hot(table.column("weathersit") - 1, 4)  # (T, 4)
    series = np.hstack([np.stack(channels, axis=1), weather]).astype(np.float32)
    seen, _ = data.windows(series, past, 1)
    before, after = data.windows(counts, past, 1)
    return seen.reshape(len(seen), -1), after[:, 0], before[:, -1]


def main(config: Config) -> int:
    """Trains every seed; returns 1 if the claim is off: a net no better than the line."""
    config.validate()
    with train.Run(config.out, "bike_forecast", config) as run:
        path = data.find("bikes", config.data_dir)
        table = data.read_bikes(path)
        if config.past > len(table) // 2:
            raise ValueError(
                f"--past: {config.past}; {path} has {len(table)} hours, half of them can be given"
            )
        with from_file(path):
            x, y, last = inputs_and_targets(table, config.past)
        cut = len(x) * 4 // 5
        scale = y[:cut].std()
        line = least_squares(x[:cut], y[:cut], x[cut:])
        rmse = {
            "line": float(np.sqrt(np.mean((line - y[cut:]) ** 2))),
            "last hour again": float(np.sqrt(np.mean((last[cut:] - y[cut:]) ** 2))),
        }
        training = jnp.asarray(x[:cut]), jnp.asarray(y[:cut] / scale)[:, None]
        known = jnp.asarray(x[cut:])
        results: dict[int, Any] = {}
        forecast = np.zeros(0)
        for seed in range(config.seed, config.seed + config.seeds):
            generator = Generator(seed)
            model = nn.Sequential(
                nn.Linear(x.shape[1], 64, rngs=generator),
                nn.ReLU(),
                nn.Linear(64, 1, rngs=generator),
            )
            optimizer = optim.Adam(lr=config.lr)
            state = train.create(model, optimizer, seed)
            step = train.make_train_step(train.supervised(losses.mse_loss), optimizer)
            epoch = train.make_epoch(step, 64)
            predict = jax.jit(lambda state: state.model()(known)[:, 0])
            curve = []
            for _ in range(config.epochs):
                order = jnp.asarray(data.epoch_order(cut, generator))
                state, _ = epoch(state, training, order)
                forecast = np.asarray(predict(state)) * scale
                curve.append(float(np.sqrt(np.mean((forecast - y[cut:]) ** 2))))
            if not np.isfinite(curve).all():
                raise ValueError(f"--lr: at {config.lr} the loss is not finite; lower it")
            results[seed] = curve
            print(f"seed {seed}: off by {curve[-1]:.1f} bikes an hour (root mean square)")
        final = np.array([curve[-1] for curve in results.values()])
        print(f"net: {mean_and_spread(final, 1)} over {len(final)} seed(s)")
        for name, value in rmse.items():
            print(f"{name}: {value:.1f}")
        claim = beats_line(final, rmse["line"], config, Config())
        run.metrics |= {
            "claims": [claim],
            "baselines": rmse,
            "net": results,
            "hours": {"train": cut, "test": len(known)},
        }
        epochs = range(1, config.epochs + 1)
        curves = [report.Series(f"net, seed {s}", epochs, curve) for s, curve in results.items()]
        flat = report.Series("line", epochs, np.full(config.epochs, rmse["line"]), "k--")
        week = np.arange(min(168, len(known)))
        panels = [
            report.Panel("The last months", "epoch", "off by, bikes an hour", [*curves, flat]),
            report.Panel(
                "The first week of them",
                "hour",
                "bikes",
                [
                    report.Series("counted", week, y[cut:][week], "k-"),
                    report.Series("net", week, forecast[week], "C0-"),
                    report.Series("line", week, line[week], "C1--"),
                ],
            ),
        ]
        report.save_panels(run.folder / "forecast.png", panels)
    print(f"record and plot: {run.folder}")
    return int(claim["verdict"] == "OFF")
