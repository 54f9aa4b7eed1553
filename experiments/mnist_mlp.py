"""Handwritten digits: the documents' five nets, by modules and by plain tensors.

Each net trains as its document's program does: its loss, optimizer, epochs, batches and log
lines, then a pass over the 10,000 test images after every epoch, precision and recall of
every digit, digits beside their class probabilities, and the parameters saved (a `.pt` file
that torch opens) and loaded into a fresh net. With `--seed S` the run is the PyTorch
program's after torch.manual_seed(S): same initial weights, same batches. One net, `keras`,
is made, fitted and measured by three calls of `train.fit`'s kind.

    python -m experiments mnist_mlp
    python -m experiments mnist_mlp --nets classifier --form tensors --optimizer adam
    python -m experiments mnist_mlp --nets mlp leaky --epochs 2      # a look, in seconds
    python -m experiments mnist_mlp --visdom-port 8097               # and drawn while it runs

Result, seeds 0 to 4 on two CPU cores, accuracy on the test images: sigmoid 96.9 ± 0.1 %,
classifier 89.8 ± 0.2 %, stack 97.1 ± 0.1 %, dropout 96.4 ± 0.2 %, mlp and leaky 93.8 ± 0.2 %
(95.5 ± 0.1 % by plain tensors, which start from kaiming_normal_), keras 97.7 ± 0.1 %. An
epoch takes 0.4 to 0.9 s there, one of stack 1.3 s: experiments/results/mnist_mlp.md.

The documents print no figures of these nets; the ledger holds PyTorch's for seed 0. Losses of
the first epoch's steps are PyTorch's: to 1e-6 in float64, and in float32 to 1e-5 until a unit
of a ReLU net rounds to the other side of 0, which moves them by up to 1e-4 (PyTorch on two
threads differs from itself on one by as much).
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import ledger, mnist_plots
from experiments.mnist_nets import (
    OUTPUTS,
    PROGRAMS,
    Optimizer,
    Program,
    keras_net,
    layer_by_layer,
    make_tensor_steps,
    tensor_state,
    writings_apart,
)
from experiments.harness.tables import save_ledger
from experiments.harness.record import Run
from experiments.harness.settings import Settings
from jaxnet import data, losses, metrics, nn, optim, train, weights
from jaxnet.random import Generator

DATA = ("mnist",)

Name = Literal["sigmoid", "classifier", "stack", "dropout", "mlp", "leaky", "keras"]
Form = Literal["module", "tensors"]
Images = tuple[jax.Array, jax.Array]
Predict = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of mnist_mlp."""

    epochs: int = 30
    """Upper limit on every net's epochs; the documents' own are 5, 10 and 30."""
    seeds: int = 1
    """How many runs of each net, from --seed on; three or more have a spread."""
    nets: tuple[Name, ...] = ("sigmoid", "classifier", "stack", "dropout", "mlp", "leaky", "keras")
    """Which to train: all of them take a few minutes on two CPU cores."""
    form: Form = "module"
    """How the nets are written: modules, or functions of plain tensors (keras is a module)."""
    optimizer: Optimizer = "document"
    """The document's own, or one for all nets but keras."""
    visdom_port: int | None = None
    """Draw losses and digits on this machine's Visdom server (python -m visdom.server: 8097)."""

    def validate(self) -> None:
        super().validate()
        if self.seeds < 1:
            raise ValueError(f"--seeds: {self.seeds}; at least 1 is needed")
        if not self.nets:
            raise ValueError("--nets: none given; name at least one")
        if len(set(self.nets)) < len(self.nets):
            raise ValueError(f"--nets: {' '.join(self.nets)}; name each once")


def digits(split: str, config: Config) -> data.Labelled:
    """The images of a split as stored, uint8 (N, 28, 28, 1)."""
    return data.load("mnist", split=split, data_dir=config.data_dir)


def inputs(stored: data.Labelled, mean: float, std: float) -> Images:
    """What a net takes: (N, 1, 28, 28) normalised, and the digits (N,)."""
    x = data.normalize(data.to_tensor(stored.images), (mean,), (std,))
    return jnp.asarray(x), jnp.asarray(stored.labels)


@dataclasses.dataclass
class Trained:
    """One run.

    Attributes:
        untrained: probabilities (1, 10) of the first test image before the first step.
        predict: images to probabilities (N, 10).
        arrays: the parameters by name.
        reload: a fresh net's `predict`, after the parameters of a file were loaded into it.
        curves: figures by name; those of epochs are dictionaries from 1 on.
    """

    untrained: np.ndarray
    predict: Predict
    arrays: dict[str, Any]
    reload: Callable[[Path], Predict]
    curves: dict[str, Any]


@jax.jit
def measured(test_metrics: dict[str, Any]) -> dict[str, jax.Array]:
    """Figures of a test pass from what its steps gave."""
    counts = metrics.total(test_metrics["confusion"]).counts()
    return {
        "test_loss": test_metrics["loss"].mean(),
        "test_accuracy": counts.recall("micro"),
        "precision": counts.precision(None),
        "recall": counts.recall(None),
    }


def train_one(
    program: Program,
    seed: int,
    config: Config,
    training: Images,
    test: Images,
    log: Callable[[str], None] = print,
    board: train.Visdom | None = None,
) -> Trained:
    """Trains a net as its document does, each epoch and each test pass one compiled call."""
    generator = Generator(seed)
    optimizer = program.make_optimizer(config.optimizer)
    criterion, to_probabilities = OUTPUTS[program.gives]
    loss = train.supervised(criterion)
    test_loss = train.supervised(criterion, {"confusion": metrics.confusion})
    state: Any
    if config.form == "module":
        model = program.build(rngs=generator)
        log(str(model))
        state = train.create(model, optimizer, seed)
        step, test_step = train.make_train_step(loss, optimizer), train.make_eval_step(test_loss)
    else:
        state = tensor_state(program, optimizer, seed, generator)
        step, test_step = make_tensor_steps(program, loss, test_loss, optimizer)

    def predict_with(state: Any) -> Predict:
        if config.form == "module":
            net = state.model()
            return lambda x: to_probabilities(net(x))
        return lambda x: to_probabilities(program.forward(state["params"], x))

    untrained = np.asarray(predict_with(state)(test[0][:1]))
    epoch = train.make_epoch(step, program.batch_size)
    measure = train.make_epoch(test_step, batch_size=1000)

    rows = len(training[1])
    in_order = jnp.arange(len(test[1]))
    curves: dict[str, Any] = {
        name: {} for name in ("train_loss", "test_loss", "test_accuracy", "seconds")
    }
    figures: dict[str, np.ndarray] = {}
    for i in range(1, min(program.epochs, config.epochs) + 1):
        began = time.perf_counter()
        order = jnp.asarray(data.epoch_order(rows, generator))
        state, done = epoch(state, training, order)
        step_losses = np.asarray(done["loss"], np.float64)
        curves["seconds"][i] = time.perf_counter() - began
        if program.tests_in_loop:
            data.epoch_order(len(test[1]), generator, shuffle=False)
        state, done = measure(state, test, in_order)
        figures = jax.device_get(measured(done))
        mean_loss = program.epoch_loss(step_losses, rows)
        for line in program.lines(i, mean_loss, step_losses, rows):
            log(line)
        log(
            f"Test set: Average loss: {figures['test_loss']:.4f}, "
            f"Accuracy: {100 * figures['test_accuracy']:.2f} %"
        )
        curves["train_loss"][i] = mean_loss
        for name in ("test_loss", "test_accuracy"):
            curves[name][i] = float(figures[name])
        if board is not None:
            first = 1 + (i - 1) * len(step_losses)
            board.write([{"step": k, "loss": loss} for k, loss in enumerate(step_losses, first)])
            seen = {"val_loss": curves["test_loss"][i], "accuracy": curves["test_accuracy"][i]}
            board.write([{"epoch": i, "loss": mean_loss, **seen}])
    if program.closing:
        log(program.closing % (100 * figures["test_accuracy"]))
    curves |= {name: figures[name] for name in ("precision", "recall")}

    if config.form == "module":
        return of_module(program.build, state, to_probabilities, untrained, seed, curves)
    return Trained(
        untrained,
        predict_with(state),
        state["params"],
        lambda path: predict_with({"params": jax.tree.map(jnp.asarray, weights.load(path))}),
        curves,
    )


def of_module(
    build: Callable[..., nn.Module],
    state: train.TrainState[Any],
    to_probabilities: Predict,
    untrained: np.ndarray,
    seed: int,
    curves: dict[str, Any],
) -> Trained:
    """A run whose net is a module; `reload` starts from other weights, from the next seed."""

    def reload(path: Path) -> Predict:
        fresh: Any = build(rngs=Generator((seed + 1) % 2**32))
        weights.load_state_dict(fresh, weights.load(path))
        fresh.eval()
        return lambda x: to_probabilities(fresh(x))

    model = state.model()
    arrays = weights.state_dict(model)
    return Trained(untrained, lambda x: to_probabilities(model(x)), arrays, reload, curves)


def three_calls(
    seed: int, config: Config, training: Images, test: Images, log: Callable[[str], None] = print
) -> Trained:
    """Document 002's Keras program: model.compile, model.fit, model.evaluate."""
    # model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    optimizer = optim.Adam(lr=1e-3, eps=1e-7)  # Keras's eps
    loss = train.supervised(losses.cross_entropy, {"accuracy": metrics.accuracy})
    generator = Generator(seed)
    state = train.create(keras_net(rngs=generator), optimizer, seed)
    untrained = np.asarray(jax.nn.softmax(state.model()(test[0][:1])))

    # model.fit(x_train, y_train, epochs=5)
    result = train.fit(
        state,
        train.make_train_step(loss, optimizer),
        training,
        epochs=min(5, config.epochs),
        batch_size=32,
        generator=generator,
        validation=test,
        eval_step=train.make_eval_step(loss),
        eval_batch_size=1000,
        quiet=True,
        log=log,
    )

    # model.evaluate(x_test, y_test)
    detailed = train.supervised(losses.cross_entropy, {"confusion": metrics.confusion})
    evaluate = train.make_epoch(train.make_eval_step(detailed), batch_size=1000)
    state, done = evaluate(result.state, test, jnp.arange(len(test[1])))
    figures = jax.device_get(measured(done))

    def curve(name: str) -> dict[int, float]:
        return {line["epoch"]: line[name] for line in result.history}

    curves = {
        "train_loss": curve("loss"),
        "test_loss": curve("val_loss"),
        "test_accuracy": curve("val_accuracy"),
        "seconds": {i: result.seconds / len(result.history) for i in curve("loss")},
        "precision": figures["precision"],
        "recall": figures["recall"],
    }
    return of_module(keras_net, state, jax.nn.softmax, untrained, seed, curves)


def main(config: Config, run: Run) -> None:
    """Trains every net; returns how many figures are off."""
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
            print("layer by layer:", *layer_by_layer(config.seed), sep="\n  ")
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
            print(_summary(trained.curves))
            if seed == config.seed:
                same = _look(run.folder, name, trained, stored["test"], test[0])
                what = f"{name}: a fresh net with the saved parameters predicts the same"
                checks.append(ledger.check(what, str(same), same))
                if board is not None:
                    images = stored["test"].images[:200]
                    mnist_plots.show(board, images, trained.predict(test[0][:200]))
        rows += judge(name, config, results[name])
    run.metrics |= {"runs": results, "checks": checks}
    print()
    save_ledger(run, rows)
    mnist_plots.save_results(run.folder, results)


def judge(name: str, config: Config, runs: dict[int, dict[str, Any]]) -> list[ledger.Row]:
    """Holds a net's runs against those of PyTorch on the same program.

    A net without dropout has to give the figures of torch.manual_seed(0) with seed 0. Torch's
    dropout masks are its own: there its figures have to lie among those of our seeds.
    """
    program = PROGRAMS.get(name)
    if program is None or config.optimizer != "document":
        return []
    complete = config.epochs >= program.epochs
    section = f"mnist.{name}"
    if config.form == "tensors" and program.kaiming:
        section += "_tensors"
    if program.dropout:
        figures: dict[str, Any] = {
            "parameters": [curves["parameters"] for curves in runs.values()],
            "train_loss": {
                i: [curves["train_loss"][i] for curves in runs.values()]
                for i in runs[config.seed]["train_loss"]
            },
        }
        if complete:
            figures["test_accuracy"] = [c["test_accuracy"][program.epochs] for c in runs.values()]
        return ledger.compare_over_seeds(section, figures, complete)
    if 0 not in runs:
        return []
    figures = {name: runs[0][name] for name in ("parameters", "train_loss")}
    if complete:
        figures["test_accuracy"] = runs[0]["test_accuracy"][program.epochs]
    return ledger.compare(section, figures, complete)


def _silent(line: str) -> None:
    pass


def _summary(curves: dict[str, Any]) -> str:
    last = max(curves["train_loss"])
    lines = [
        f"after {last} epochs: training loss {curves['train_loss'][last]:.4f}, "
        f"accuracy on test images {100 * curves['test_accuracy'][last]:.2f} %, "
        f"{min(curves['seconds'].values()):.2f} s per epoch",
        "digit      " + "".join(f"{digit:6d}" for digit in range(10)),
    ]
    for name in ("precision", "recall"):
        lines.append(f"{name:11}" + "".join(f"{value:6.3f}" for value in curves[name]))
    return "\n".join(lines)


def _look(
    folder: Path, name: str, trained: Trained, stored: data.Labelled, test: jax.Array
) -> bool:
    """Draws digits and what the net says; saves the parameters, loads them and compares."""
    ps = np.asarray(trained.predict(test))
    mnist_plots.save_digits(folder / f"{name}.png", name, stored, trained.untrained, ps)
    file = folder / f"{name}.pt"
    weights.save(file, trained.arrays)
    same = np.array_equal(np.asarray(trained.reload(file)(test)), ps)
    verdict = "the same predictions" if same else "OTHER PREDICTIONS"
    count = trained.curves["parameters"]
    print(f"{count} parameters saved to {file.name} and loaded into a fresh net: {verdict}")
    return same
