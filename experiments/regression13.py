"""Thirteen features, one number: the smallest net, a net within a net, parameters in files.

The document here is the overview of the parts of a training program (5 in docs/pages/book.md).
Its `DLModel` is a single `nn.Linear(13, 1)`, written plainly and with a module of
its own inside. The figures that it prints are initial weights of an unknown seed: they have to
lie within the spread of many seeds. The document trains nothing. Here its four parts (data,
model, loss, optimizer) are put together: the net whose parameters the document prints
computes the targets of 1,000 random inputs, and a fresh net learns from these targets by SGD
with lr 0.005, the document's example, until it has the printed parameters to the last digit.
The data are a `Dataset` of the document's kind, in batches from a `DataLoader`; plain arrays give
the same batches and the same parameters.
The parameters are saved and loaded as a whole, one by one, and into the nested net.

    python -m experiments regression13

Result (2-core CPU, seconds): every figure that can be judged holds; the net finds the 14 printed
parameters to 1e-6 in 60 epochs. The drawn figures have no power one by one, since a weight may be
anything within ±0.277; their size as a whole has.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness import ledger
from experiments.harness.record import Run
from experiments.harness.settings import Count, Positive, Spread, Training
from experiments.harness.tables import save_checks, save_ledger
from jaxnet import data, losses, nn, optim, plots, train, weights
from jaxnet.random import Generator

DATA = ()

FEATURES = 13


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Settings of regression13."""

    epochs: Count = 60
    """Passes over the 1,000 inputs."""
    seeds: Spread = 200
    """Number of nets whose initial weights are compared with the figures of unknown seed."""
    lr: Positive = 0.005
    """Learning rate of SGD."""
    batch_size: Count = 32
    """Inputs in a step."""


class DLModel(nn.Module):
    """One linear layer."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nn.init.Rngs) -> None:
        self.linear = nn.Linear(in_features=in_features, out_features=out_features, rngs=rngs)

    def __call__(self, X: jax.Array) -> jax.Array:
        return self.linear(X)


class NestedModel(nn.Module):
    """The same function, with the module `DLModel` instead of the layer."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nn.init.Rngs) -> None:
        self.linear = DLModel(in_features=in_features, out_features=out_features, rngs=rngs)

    def __call__(self, X: jax.Array) -> jax.Array:
        return self.linear(X)


class AddOne:
    """The document's example of an object with `__call__`, which is not a net."""

    def __call__(self, x: int) -> int:
        return x + 1


class Rows(data.Dataset):
    """A data set of the document's kind: a length, and rows by number.

    Args:
        X: The inputs, (rows, features).
        y: The targets, (rows, 1).
    """

    def __init__(self, X: np.ndarray, y: np.ndarray) -> None:
        self.X, self.y = X, y

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.X[index], self.y[index]


def printed() -> dict[str, np.ndarray]:
    """The parameters that the document prints, by the model's names."""
    drawn = ledger.documented("regression13.drawn")
    weight = [[float(drawn[f"weight.{i}"]) for i in range(FEATURES)]]
    return {
        "linear.weight": np.array(weight, np.float32),
        "linear.bias": np.array([float(drawn["bias"])], np.float32),
    }


def first_draws(seeds: range) -> dict[str, Any]:
    """The figures that the document's two programs print, for each of the seeds.

    Args:
        seeds: The seeds.

    Returns:
        Arrays with an entry for each seed, nested like the section of the ledger.
    """
    draws: dict[str, list[np.ndarray]] = {"weight": [], "bias": [], "output": []}
    for seed in seeds:
        arrays = weights.state_dict(DLModel(FEATURES, 1, rngs=Generator(seed)))
        draws["weight"].append(arrays["linear.weight"][0])
        draws["bias"].append(arrays["linear.bias"][0])
        generator = Generator(seed)
        X = jnp.asarray(generator.randn(3, FEATURES))
        draws["output"].append(np.asarray(NestedModel(FEATURES, 2, rngs=generator)(X)))
    weight, output = np.array(draws["weight"]), np.array(draws["output"])
    return {
        "weight": dict(enumerate(weight.T)),
        "bias": draws["bias"],
        "output": {i: dict(enumerate(output[:, i].T)) for i in range(3)},
    }


def learn(config: Config, by_loader: bool = True) -> tuple[Any, list[float]]:
    """Trains a fresh net on the outputs of the net with the printed parameters.

    Args:
        config: The settings.
        by_loader: Whether the batches come from a `DataLoader`; otherwise from arrays.

    Returns:
        The trained net, and its losses by epoch.
    """
    generator = Generator(config.seed)
    teacher = DLModel(FEATURES, 1, rngs=generator)
    weights.load_state_dict(teacher, printed())
    X = generator.randn(1000, FEATURES)
    rows = X, np.asarray(teacher(jnp.asarray(X)))
    optimizer = optim.SGD(lr=config.lr)
    state = train.create(DLModel(FEATURES, 1, rngs=generator), optimizer, config.seed)
    step = train.make_train_step(train.supervised(losses.mse_loss), optimizer)
    batches: dict[str, Any] = {"data": rows, "batch_size": config.batch_size}
    if by_loader:
        loader = data.DataLoader(
            Rows(*rows), batch_size=config.batch_size, shuffle=True, rngs=generator
        )
        batches = {"data": loader}
    else:
        batches["generator"] = generator
    try:
        result = train.fit(
            state, step, epochs=config.epochs, quiet=True, log=lambda line: None, **batches
        )
    except train.NonFiniteError as error:
        raise ValueError(f"--lr: at {config.lr:g} the loss is not finite; lower it") from error
    return result.state.model(), [line["loss"] for line in result.history]


def loader_check(config: Config) -> dict[str, str]:
    """Whether a loader and plain arrays give the same net, bit for bit, in two epochs.

    Args:
        config: The settings.
    """
    short = dataclasses.replace(config, epochs=2)
    nets = [weights.state_dict(learn(short, by_loader)[0]) for by_loader in (True, False)]
    same = all((nets[0][name] == array).all() for name, array in nets[1].items())
    what = "a DataLoader of a Dataset and plain arrays give the same parameters, bit for bit"
    return ledger.check(what, str(same), same)


def saved_and_loaded(model: DLModel, folder: Path, seed: int) -> dict[str, bool]:
    """Saves a model's parameters and loads them in three ways, each into a fresh net.

    Args:
        model: The model.
        folder: Path of the folder for the file.
        seed: The seed of the inputs that are compared.

    Returns:
        For each way, whether the fresh net gives the model's outputs.
    """
    X = jnp.asarray(Generator(seed).randn(5, FEATURES))
    file = folder / "m1_param.pkl"
    weights.save(file, weights.state_dict(model))
    model_dict_params = weights.load(file)

    whole = DLModel(FEATURES, 1, rngs=Generator(seed + 1))
    said = weights.load_state_dict(whole, model_dict_params)
    print(f"as a whole: {said}")

    by_name = DLModel(FEATURES, 1, rngs=Generator(seed + 1))
    for name, array in model_dict_params.items():
        left = weights.load_state_dict(by_name, {name: array}, strict=False)
        print(f"by name: {name} {array.shape}, not given: {', '.join(left.missing_keys)}")

    nested = NestedModel(FEATURES, 1, rngs=Generator(seed + 1))
    renamed = {f"linear.{name}": array for name, array in model_dict_params.items()}
    weights.load_state_dict(nested, renamed)
    print(f"into the nested net: {', '.join(renamed)}")

    fresh = {"whole": whole, "by_name": by_name, "nested": nested}
    return {name: bool((net(X) == model(X)).all()) for name, net in fresh.items()}


def main(config: Config, run: Run) -> None:
    """Compares the printed figures, trains, saves and loads."""
    cpu = jax.devices("cpu")[0]
    with jax.default_device(cpu):
        model = DLModel(FEATURES, 1, rngs=Generator(config.seed))
        print(f"{model}\n\n{NestedModel(FEATURES, 2, rngs=Generator(config.seed))}\n")
        for param in model.parameters():  # torch prints "Parameter containing: tensor(...)"
            print(f"{type(param).__name__} {param[...].shape}: {np.asarray(param[...])}")
        a = jnp.array([[1, 1, 2], [1, 2, 3]])
        figures = {
            "model": " ".join(repr(model).split()),
            "ndim": a.ndim,
            "shape": a.shape,
            "call": AddOne()(x=3),
            "parameters": [param[...].shape for param in model.parameters()],
        }
        rows = ledger.compare("regression13.printed", figures)
        seeds = range(config.seed, config.seed + config.seeds)
        draws = first_draws(seeds)
        rows += ledger.compare_over_seeds("regression13.drawn", draws)
        target = np.append(*(array.ravel() for array in printed().values()))
        checks = within_the_bound(draws, target)

        model, curve = learn(config)
        found = np.append(*(array.ravel() for array in weights.state_dict(model).values()))
        gap = float(np.abs(found - target).max())
        print(f"\nepoch {config.epochs}: loss {curve[-1]:.2e}, parameters {gap:.1e} off")
        document = config.epochs >= Config.epochs and config.lr == Config.lr
        if document and config.batch_size == Config.batch_size:
            what = "the net finds the printed parameters, to half of their last digit"
            checks.append(ledger.check(what, f"{gap:.1e} off", gap <= 5e-5))

        same = saved_and_loaded(model, run.folder, config.seed)
        print(f"the same answers after loading: {same}\n")
        checks.append(loader_check(config))
        checks += [
            ledger.check(f"the same answers from a fresh net, loaded {name}", str(answer), answer)
            for name, answer in same.items()
        ]
        save_checks(run, checks)
        save_ledger(run, rows)
        run.metrics |= {
            "loss": curve,
            "parameters": found,
            "largest_difference": gap,
        }
        run.result = f"parameters within {gap:.1e} of the printed ones"
        _plot(run.folder / "fit.png", curve, target, found)


def within_the_bound(draws: dict[str, Any], target: np.ndarray) -> list[dict[str, str]]:
    """Whether the initial weights, ours and the document's, follow nn.Linear's distribution.

    The prediction intervals of the ledger are as wide as the spread of our weights, so that
    spread has to be checked too.

    Args:
        draws: The figures of `first_draws`.
        target: The parameters that the document prints.

    Returns:
        A row for each check.
    """
    bound = FEATURES**-0.5
    drawn = np.append(np.ravel([*draws["weight"].values()]), np.ravel(draws["bias"]))  # by number
    largest, spread = np.abs(drawn).max(), drawn.std(ddof=1)
    expected = bound / 3**0.5
    # The relative error of a uniform sample's deviation is about 1 / sqrt(5 n); five times that.
    allowed = 5 * expected / (5 * drawn.size) ** 0.5
    words = f"±{bound:.4f}"
    checks = [
        ledger.check(
            f"what the document prints lies within {words}, nn.Linear's range",
            f"at most {np.abs(target).max():.4f}",
            bool((np.abs(target) <= bound).all()),
        ),
        ledger.check(f"our draws lie within {words}", f"at most {largest:.4f}", largest <= bound),
        ledger.check(
            f"their deviation is {expected:.4f}, a uniform distribution's",
            f"{spread:.4f} of {drawn.size}",
            bool(abs(spread - expected) <= allowed),
        ),
    ]
    sizes = np.sqrt(np.mean(drawn.reshape(FEATURES + 1, -1) ** 2, axis=0))  # of each seed
    low, high = np.quantile(sizes, [0.005, 0.995])
    size = float(np.sqrt(np.mean(target**2)))
    what = f"the size of what it prints lies within {low:.3f} to {high:.3f}, 99 % of our seeds"
    checks.append(ledger.check(what, f"root mean square {size:.4f}", low <= size <= high))
    return checks


def _plot(path: Path, curve: list[float], target: np.ndarray, found: np.ndarray) -> None:
    numbers = np.arange(len(target))
    panels = [
        plots.Panel(
            "Learning from answers",
            "epoch",
            "mean squared error",
            [plots.Series("training loss", range(1, len(curve) + 1), curve, "C0.-")],
            log=True,
        ),
        plots.Panel(
            "Parameters: 13 weights and the bias",
            "0 to 12: weight of the feature, 13: bias",
            "value",
            [
                plots.Series("printed", numbers, target, "ko"),
                plots.Series("found", numbers, found, "C1x"),
            ],
        ),
    ]
    plots.save_panels(path, panels)
