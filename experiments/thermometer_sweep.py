"""Where training diverges: the thermometer's line, with many learning rates in one call.

Gradient descent on a squared error, which is a parabola, converges exactly if the learning rate
is below 2 / L, with L the largest eigenvalue of its second derivatives. The two sweeps, with the
readings as they are and with a tenth of them, find that limit by training.
"""

import math

import numpy as np

from experiments.harness import ledger
from experiments.harness.record import Run
from experiments.harness.tables import save_checks, show
from jaxnet import losses, nn, optim, plots, train

_FORM = "accepted is lr=LOW:HIGH:NUMBER, such as lr=1e-5:1e-1:200"


def learning_rates(text: str) -> np.ndarray:
    """The learning rates of "lr=1e-5:1e-1:200": 200 of them, each the same factor apart.

    Args:
        text: The text.

    Raises:
        ValueError: It has another form, or numbers out of range.
    """
    name, _, numbers = text.partition("=")
    try:
        low, high, count = numbers.split(":")
        ends, steps = (float(low), float(high)), int(count)
    except ValueError as error:
        raise ValueError(f"--sweep: {text!r}; {_FORM}") from error
    if name != "lr" or not 0 < ends[0] < ends[1] < math.inf or not 3 <= steps <= 10_000:
        raise ValueError(
            f"--sweep: {text!r}; {_FORM}, with 0 < LOW < HIGH and 3 to 10,000 learning rates"
        )
    return np.geomspace(*ends, steps)


def limit(readings: np.ndarray) -> float:
    """The learning rate from which on gradient descent diverges, for the line by mean squares.

    Args:
        readings: The inputs of the line, (N,).
    """
    columns = np.stack([readings, np.ones_like(readings)], 1).astype(np.float64)
    return 2 / float(np.linalg.eigvalsh(2 * columns.T @ columns / len(readings)).max())


def run_sweep(
    text: str, epochs: int, seed: int, readings: np.ndarray, degrees: np.ndarray, run: Run
) -> None:
    """Trains the line once for each learning rate, on the readings and on a tenth of them.

    Args:
        text: The learning rates, as "lr=1e-5:1e-1:200".
        epochs: The steps of each run.
        seed: The seed of the line's first weight and bias.
        readings: The thermometer's units, (N,).
        degrees: The degrees Celsius, (N,).
        run: The run, whose folder gets the plot and whose metrics the figures.
    """
    rates = learning_rates(text)
    optimizer = optim.SGD(lr=float(rates[0]))
    step = train.make_train_step(train.supervised(losses.mse_loss), optimizer)
    panels, checks, rows = [], [], []
    for name, inputs in {"t_u": readings, "0.1 t_u": np.float32(0.1) * readings}.items():
        found = train.sweep(
            lambda g: train.create(nn.Linear(1, 1, rngs=g), optimizer),
            step,
            (inputs[:, None], degrees[:, None]),
            epochs=epochs,
            batch_size=len(inputs),
            shuffle=False,
            seeds=[seed],
            settings={"lr": [float(rate) for rate in rates]},
        )
        loss = found.history["loss"][:, 0]  # (learning rates, epochs)
        diverges = ~(loss[:, -1] <= loss[:, 0])  # nan too
        predicted = limit(inputs)
        below, above = rates[~diverges].max(initial=0.0), rates[diverges].min(initial=math.inf)
        rows.append((name, f"{below:.4g}", f"{above:.4g}", f"{predicted:.4g}",
                     f"{diverges.sum()} of {len(rates)}"))  # fmt: skip
        # Close to the limit a loss grows too slowly to be seen in these epochs, by rounding too.
        right = below < above and below <= predicted * 1.01 and above >= predicted * 0.99
        what = f"with {name} training diverges above 2 / L, and below it does not"
        checks.append(ledger.check(what, f"{below:.4g} to {above:.4g}", bool(right)))
        run.metrics[name] = {"lr": rates, "last_loss": loss[:, -1], "limit": predicted}
        shown = np.where(diverges, np.nan, loss[:, -1])
        worst = float(np.nanmax(shown)) if (~diverges).any() else 1.0
        series = [
            plots.Series("loss after the last epoch", rates, shown, ".-"),
            plots.Series("diverges", rates[diverges], np.full(diverges.sum(), worst), "C3x"),
            plots.Series(f"2 / L = {predicted:.3g}", [predicted] * 2,
                         [float(np.nanmin(shown)) if (~diverges).any() else 0.5, worst], "k--"),
        ]  # fmt: skip
        panels.append(
            plots.Panel(name, "learning rate", "mean squared error", series, log=True, log_x=True)
        )
    header = ("readings", "largest that converges", "smallest that diverges", "2 / L", "diverge")
    show(header, rows, title=f"{len(rates)} learning rates, {epochs} epochs each")
    save_checks(run, checks)
    plots.save_panels(run.folder / "sweep.png", panels)
