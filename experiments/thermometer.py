"""A thermometer in unknown units: eight ways to fit it, each against the printed figures.

Eleven readings of a thermometer (t_u) beside degrees Celsius (t_c). The runs are those of
the notes on the book "Deep Learning with PyTorch" (docs/pages/book.md), called the document:
a gradient written by hand that diverges, then descends slowly; SGD and Adam; a
train/validation split; `nn.Linear(1, 1)`; a tanh net of 8 units. Every run is one
compiled call, however many epochs it has. Where figures are compared to the last printed
digit, every operation is rounded on its own, as PyTorch rounds it
(`jaxnet.precision.unfused_jit`), on the CPU.

    python -m experiments thermometer
    python -m experiments thermometer --sweep lr=1e-5:1e-1:200

Result: every figure that can be judged holds in float32. The seed of the document's net of 8
units is unknown; its losses and outputs lie within the spread of 20 seeds. The gradient that it
prints of the first layer says nothing, since ours are a hundred times as large where training
ends in an oscillation; so the gradient is compared with finite differences at the same weights.
"""

import dataclasses
from collections import OrderedDict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments.harness import ledger
from experiments.harness.record import Run
from experiments.harness.settings import Count, Spread, Training
from experiments.harness.tables import save_checks, save_ledger, show
from experiments.thermometer_plots import save_fits, save_losses
from experiments.thermometer_sweep import learning_rates, run_sweep
from jaxnet import losses, nn, optim, train, weights
from jaxnet.precision import unfused_jit
from jaxnet.random import Generator

DATA = ()

T_C = np.array([0.5, 14.0, 15.0, 28.0, 11.0, 8.0, 3.0, -4.0, 6.0, 13.0, 21.0], np.float32)
T_U = np.array([35.7, 55.9, 58.2, 81.9, 56.3, 48.9, 33.9, 21.8, 48.4, 60.4, 68.4], np.float32)
T_UN = np.float32(0.1) * T_U

# The document shuffles without a seed. Of the 55 possible splits only one gives the line's
# figures, and the nets' held-out targets (-4 and 21) determine the other.
SPLIT = [2, 10]
NET_SPLIT = [7, 10]
START = np.array([1.0, 0.0], np.float32)


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Settings of thermometer."""

    epochs: Count = 5000
    """Upper limit on every run's epochs; the document's own are 100 to 5,000."""
    seeds: Spread = 20
    """Number of nets that are trained side by side for the figures of unknown seed."""
    sweep: str | None = None
    """Learning rates in place of all else, as lr=1e-5:1e-1:200: draws where training diverges."""

    def validate(self) -> None:
        super().validate()
        if self.sweep is not None:
            learning_rates(self.sweep)


def line(params: Any, t_u: Any) -> Any:
    """The line w * t_u + b.

    Args:
        params: The parameters (w, b).
        t_u: The readings.
    """
    return params[0] * t_u + params[1]


def by_hand(t_u: np.ndarray, lr: float, epochs: int) -> dict[str, np.ndarray]:
    """Gradient descent with derivatives that are written by hand.

    Args:
        t_u: The readings.
        lr: The learning rate.
        epochs: The number of steps.

    Returns:
        The "loss", "params" and "grad" of every epoch.
    """

    def step(params, _):
        error = line(params, t_u) - T_C
        loss = (error**2).sum() / error.size
        d_error = 2 * error / error.size
        grad = jnp.stack([(d_error * t_u).sum(), d_error.sum()])
        params = params - lr * grad
        return params, {"loss": loss, "params": params, "grad": grad}

    return jax.device_get(unfused_jit(lambda: lax.scan(step, START, length=epochs)[1])())


def by_autograd(
    optimizer: optax.GradientTransformation,
    t_u: np.ndarray,
    epochs: int,
    held_out: list[int] | None = None,
) -> dict[str, np.ndarray]:
    """The same line with `jax.grad` and an optimizer.

    Args:
        optimizer: The optimizer.
        t_u: The readings.
        epochs: The number of steps.
        held_out: The numbers of the readings for validation.

    Returns:
        The "train_loss", "params" and, with held-out readings, "val_loss" of every epoch.
    """
    val = np.isin(np.arange(len(t_u)), held_out or [])

    def loss_of(params, rows):
        return losses.mse_loss(line(params, t_u[rows]), jnp.asarray(T_C[rows]))

    def step(carry, _):
        params, state = carry
        loss, grad = jax.value_and_grad(loss_of)(params, ~val)
        measured = {"train_loss": loss}
        if val.any():
            measured["val_loss"] = loss_of(params, val)
        updates, state = optimizer.update(grad, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), {**measured, "params": params}

    def run():
        start = jnp.asarray(START)
        return lax.scan(step, (start, optimizer.init(start)), length=epochs)[1]

    return jax.device_get(unfused_jit(run)())


def net(hidden: int, rngs: nn.init.Rngs) -> nn.Sequential:
    """The layers Linear, Tanh, Linear, with the document's names.

    Args:
        hidden: The number of hidden units.
        rngs: The generator of the initial weights.
    """
    return nn.Sequential(
        OrderedDict(
            hidden_linear=nn.Linear(1, hidden, rngs=rngs),
            hidden_activation=nn.Tanh(),
            output_linear=nn.Linear(hidden, 1, rngs=rngs),
        )
    )


def net_rows() -> list[tuple[jax.Array, ...]]:
    """The rows of training and of validation: inputs and targets, (rows, 1) each."""
    column = T_UN[:, None], T_C[:, None]  # (11, 1)
    val = np.isin(np.arange(len(T_UN)), NET_SPLIT)
    return [tuple(jnp.asarray(c[rows]) for c in column) for rows in (~val, val)]


def by_module(build, lr: float, epochs: int, seeds: range) -> tuple[Any, dict[str, Any]]:
    """Trains a model for each seed, all at once by `jax.vmap`.

    Args:
        build: A function of a generator that makes the model.
        lr: The learning rate of SGD.
        epochs: The number of steps.
        seeds: The seeds.

    Returns:
        The trained states and the losses, with an axis of seeds in front.
    """
    optimizer = optim.SGD(lr=lr)
    batch = net_rows()

    def loss(model, batch):
        (x, y), (x_val, y_val) = batch
        return losses.mse_loss(model(x), y), {"val_loss": losses.mse_loss(model(x_val), y_val)}

    repeat = train.make_repeat(train.make_train_step(loss, optimizer), epochs)
    states = [train.create(build(Generator(seed)), optimizer) for seed in seeds]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return jax.vmap(repeat, in_axes=(0, None))(together, batch)


def hidden_grad(states: Any) -> np.ndarray:
    """The document's `seq_model.hidden_linear.weight.grad` for each seed: (seeds, units).

    The gradient is taken at the trained weights, a step after the document's. It is large for
    a seed whose training ends in an oscillation, as for most seeds, in PyTorch too: a learning
    rate of 1e-3 is at the limit of stability.

    Args:
        states: The trained states, with an axis of seeds in front.
    """
    x, y = net_rows()[0]

    def of_one(state):
        def loss(params):
            return losses.mse_loss(state.replace(params=params).model()(x), y)

        return jax.grad(loss)(state.params)["hidden_linear.weight"][:, 0]

    return np.asarray(jax.vmap(of_one)(states))


def gradient_check(states: Any, grads: np.ndarray) -> dict[str, str]:
    """Whether gradients are those of finite differences at the same weights, in float64.

    Args:
        states: The trained states, with an axis of seeds in front.
        grads: The gradients of `hidden_grad`, (seeds, units).
    """
    x, y = (np.asarray(part, np.float64) for part in net_rows()[0])  # (9, 1)
    names = ("hidden_linear.weight", "hidden_linear.bias", "output_linear.weight",
             "output_linear.bias")  # fmt: skip
    w1, b1, w2, b2 = (np.asarray(states.params[name], np.float64) for name in names)

    def loss(w1: np.ndarray) -> np.ndarray:
        hidden = np.tanh(x @ w1.transpose(0, 2, 1) + b1[:, None])  # (seeds, 9, units)
        predicted = hidden @ w2.transpose(0, 2, 1) + b2[:, None]
        return ((predicted - y) ** 2).mean(axis=(1, 2))

    step = 1e-5
    differences = np.empty(grads.shape)
    for unit in range(grads.shape[1]):
        moved = np.zeros_like(w1)
        moved[:, unit] = step
        differences[:, unit] = (loss(w1 + moved) - loss(w1 - moved)) / (2 * step)
    # The gap of a seed is a part of its largest gradient, or of 1 where all nearly vanish, since
    # the terms whose sum vanishes are rounded too.
    gap = (np.abs(grads - differences).max(axis=1) / (np.abs(differences).max(axis=1) + 1)).max()
    what = "the hidden layer's gradient is that of finite differences, to 1e-4"
    return ledger.check(what, f"off by {gap:.0e}, of {grads.size} numbers", bool(gap <= 1e-4))


def main(config: Config, run: Run) -> None:
    """Runs all variants, or a sweep over learning rates."""
    if config.sweep is not None:
        run_sweep(config.sweep, config.epochs, config.seed, T_U, T_C, run)
        return
    with jax.default_device(jax.devices("cpu")[0]):
        rows, curves = descend_by_hand(config, run)
        params, more, lines = fit_lines(config, run)
        fits, nets, of_nets = fit_nets(config, run)
        curves |= lines | of_nets
        text = " ".join(repr(net(8, Generator(config.seed))).split())
        printed = {"net": text, "column": jnp.expand_dims(T_U, 1).shape}
        rows += more + nets + ledger.compare("thermometer.printed", printed)
        print()
        save_ledger(run, rows)
        grid = np.arange(20.0, 90.0, dtype=np.float32)
        drawn = {"line": np.asarray(line(params, 0.1 * grid)),
                 "net": _predict(fits["mlp"], 0.1 * grid),
                 "at readings": _predict(fits["mlp"], T_UN)}  # fmt: skip
        save_fits(run.folder / "fit.png", (T_U, T_C), grid, drawn)
        save_losses(run.folder / "losses.png", curves)


def descend_by_hand(config: Config, run: Run) -> tuple[list[ledger.Row], dict[str, np.ndarray]]:
    """The document's first two runs: one that diverges, and one that descends slowly.

    Args:
        config: The settings.
        run: The run, whose metrics are extended.

    Returns:
        The rows of the ledger, and the losses by epoch by name of the run.
    """
    rows, curves = [], {}
    for name, lr in [("manual_diverging", 1e-2), ("manual_small_lr", 1e-4)]:
        result = by_hand(T_U, lr, min(100, config.epochs))
        figures: dict[str, Any] = {key: _by_epoch(series) for key, series in result.items()}
        infinite = np.flatnonzero(np.isinf(result["loss"]))
        if infinite.size:
            figures["first_infinite_epoch"] = int(infinite[0]) + 1
            print(
                f"{name}: the loss is infinite from epoch {infinite[0] + 1}, "
                f"and {result['loss'][-1]} at epoch {len(result['loss'])}"
            )
        rows += ledger.compare(f"thermometer.{name}", figures, complete=config.epochs >= 100)
        curves[name] = result["loss"]
        run.metrics[name] = {"loss": result["loss"], "params": result["params"][-1]}
    return rows, curves


def fit_lines(
    config: Config, run: Run
) -> tuple[np.ndarray, list[ledger.Row], dict[str, np.ndarray]]:
    """The line by autograd: SGD, Adam, and SGD with two readings held out.

    Args:
        config: The settings.
        run: The run, whose metrics are extended.

    Returns:
        The w and b of SGD, the rows of the ledger, and the losses by epoch by name.
    """
    sgd = by_autograd(optim.SGD(lr=1e-2), T_UN, min(5000, config.epochs))
    adam = by_autograd(optim.Adam(lr=1e-1), T_U, min(2000, config.epochs))
    split = by_autograd(optim.SGD(lr=1e-2), T_UN, min(3000, config.epochs), held_out=SPLIT)
    rows = _compare("autograd_sgd", sgd, 5000, loss=_by_epoch(sgd["train_loss"]))
    rows += _compare("adam", adam, 2000, loss=_by_epoch(adam["train_loss"]))
    rows += _compare("least_squares", adam, 2000)
    rows += _compare("split", split, 3000)
    for name, result in [("autograd_sgd", sgd), ("adam", adam), ("split", split)]:
        last = {"train_loss": result["train_loss"][-1], "params": result["params"][-1]}
        run.metrics[name] = last
    curves = {"sgd": sgd["train_loss"], "adam": adam["train_loss"]}
    return sgd["params"][-1], rows, curves


def fit_nets(
    config: Config, run: Run
) -> tuple[dict[str, Any], list[ledger.Row], dict[str, np.ndarray]]:
    """The runs of modules, for many seeds at once.

    Args:
        config: The settings.
        run: The run, whose metrics are extended.

    Returns:
        The trained states by name of the module, the rows of the ledger, and the losses of the
        net by epoch, (epochs, seeds) each.
    """
    seeds = range(config.seed, config.seed + config.seeds)
    builders = {
        "linear": (lambda rngs: nn.Linear(1, 1, rngs=rngs), 1e-2, 3000),
        "mlp": (lambda rngs: net(8, rngs), 1e-3, 5000),
    }
    fits, rows, of_net = {}, [], {}
    for name, (build, lr, epochs) in builders.items():
        states, metrics = by_module(build, lr, min(epochs, config.epochs), seeds)
        fits[name] = states
        print(f"\n{name}: {build(Generator(config.seed))}")
        metrics = jax.device_get(metrics)  # (seeds, epochs) each
        curves = {"train_loss": metrics["loss"].T, "val_loss": metrics["val_loss"].T}
        _log(curves, len(seeds))
        final: dict[str, Any] = {key: curve[-1] for key, curve in curves.items()}
        final["output"] = dict(enumerate(_predict(states, T_UN[NET_SPLIT]).T))
        if name == "linear":
            final |= _line_by_module(states, config.seed)
        if name == "mlp":
            grads = hidden_grad(states)
            save_checks(run, [gradient_check(states, grads), thirteen_check(net(13, Generator(0)))])
            final["hidden_grad"] = dict(enumerate(grads.T))
            of_net = {f"net_{key}": curve for key, curve in curves.items()}
            complete = config.epochs >= epochs
            figures = {key: _by_epoch(curve) for key, curve in curves.items()}
            rows = ledger.compare_over_seeds(
                "thermometer.mlp", (final if complete else {}) | figures, complete
            )
        run.metrics[name] = {"seeds": list(seeds), **final}
    return fits, rows, of_net


def thirteen_check(model: nn.Sequential) -> dict[str, str]:
    """Whether a net is the document's first one, 1-13-1, for which it prints nothing.

    Args:
        model: The net.
    """
    shapes = [array.shape for array in weights.state_dict(model).values()]
    right = shapes == [(13, 1), (13,), (1, 13), (1,)]
    what = "Sequential(Linear(1, 13), Tanh, Linear(13, 1)) has 13 x 1, 13, 1 x 13 and 1 numbers"
    return ledger.check(what, str(shapes), right)


def _log(curves: dict[str, Any], seeds: int) -> None:
    """Prints the document's log lines, epoch 1 and every thousandth, as means over seeds."""
    rows = []
    for i in range(len(curves["train_loss"])):
        if i == 0 or (i + 1) % 1000 == 0:
            rows.append((i + 1, *(f"{np.mean(curve[i]):.4f}" for curve in curves.values())))
    show(("epoch", "training loss", "validation loss"), rows, title=f"means of {seeds} seeds")


def _line_by_module(states: Any, seed: int) -> dict[str, Any]:
    """Prints the line of nn.Linear(1, 1) before and after training; returns its w and b."""
    untrained = nn.Linear(1, 1, rngs=Generator(seed))
    before = np.asarray(untrained(jnp.asarray(T_UN[NET_SPLIT])[:, None]))[:, 0]
    print(f"untrained, seed {seed}: {before} for {T_C[NET_SPLIT]}")
    weight, bias = (states.params[name] for name in ("weight", "bias"))
    print(f"trained, seed {seed}: weight {weight[0]}, bias {bias[0]}")
    return {"weight": weight[:, 0, 0], "bias": bias[:, 0]}


def _by_epoch(series: np.ndarray) -> dict[int, Any]:
    return dict(enumerate(series.tolist(), start=1))


def _compare(
    name: str, result: dict[str, np.ndarray], epochs: int, **figures: Any
) -> list[ledger.Row]:
    complete = len(result["params"]) >= epochs
    for key in ("train_loss", "val_loss"):
        if key in result:
            figures[key] = _by_epoch(result[key])
    if complete:
        figures["params"] = result["params"][-1]
    return ledger.compare(f"thermometer.{name}", figures, complete)


def _predict(states: Any, t_un: np.ndarray) -> np.ndarray:
    """The predictions in degrees Celsius, (seeds, readings)."""
    x = jnp.asarray(t_un, jnp.float32)[:, None]
    return np.asarray(jax.vmap(lambda state: state.model()(x)[:, 0])(states))
