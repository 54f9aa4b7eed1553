"""The MNIST nets of the documents ready for training: as modules, and as plain tensors."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.mnist_nets import OUTPUTS, Params, Program
from experiments.without_eval import without_eval
from jaxnet import metrics, nn, train, weights
from jaxnet.random import Generator

Predict = Callable[[jax.Array], jax.Array]

TESTED: dict[str, Callable[[Any, Any], Any]] = {
    "accuracy": metrics.accuracy,
    "precision": functools.partial(metrics.precision, average=None),  # of each digit
    "recall": functools.partial(metrics.recall, average=None),
}


class StepLosses:
    """A recorder for `train.fit` that collects the losses of the steps of an epoch."""

    def __init__(self) -> None:
        self._losses: list[float] = []

    def take(self) -> np.ndarray:
        """The losses since the last call."""
        losses, self._losses = self._losses, []
        return np.array(losses, np.float64)

    def steps(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self._losses += [line["loss"] for line in lines]

    def open(self, epoch: int, step: int, resume: bool) -> None: ...

    def epoch(self, line: Mapping[str, Any]) -> None: ...

    def log(self, lines: Sequence[Mapping[str, Any]]) -> None: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Net:
    """A net in one of the two forms, before training.

    Attributes:
        state: The state that training starts from.
        step: One training step.
        test_step: One step of the test pass.
        document_step: One step of a test pass without `model.eval()`, as one document has it;
            None for plain tensors, which have no mode.
        outputs: A function of a state that gives a function from images to outputs (N, 10).
        predict: A function of a state that gives a function from images to probabilities (N, 10).
        arrays: A function of a state that gives the parameters by name.
        load: A function of a file that gives `predict` of a fresh net with the file's parameters.
    """

    state: Any
    step: Any
    test_step: Any
    document_step: Any
    outputs: Callable[[Any], Predict]
    predict: Callable[[Any], Predict]
    arrays: Callable[[Any], dict[str, Any]]
    load: Callable[[Path], Predict]


def as_module(
    build: Callable[..., nn.Module], gives: str, optimizer: Any, seed: int, generator: Generator
) -> Net:
    """A net that is a module, with its steps.

    Args:
        build: A function of `rngs` that makes the module.
        gives: The kind of output, a key of `OUTPUTS`.
        optimizer: The optimizer.
        seed: The seed of the run.
        generator: The generator of the initial weights.
    """
    criterion, to_probabilities = OUTPUTS[gives]
    model = build(rngs=generator)

    def predict(net: Any) -> Predict:
        return lambda x: to_probabilities(net(x))

    def load(path: Path) -> Predict:
        # From another seed, so that an array that is not loaded would show.
        fresh: Any = build(rngs=Generator((seed + 1) % 2**32))
        weights.load_state_dict(fresh, weights.load(path))
        fresh.eval()
        return predict(fresh)

    tested = train.supervised(criterion, TESTED)
    return Net(
        train.create(model, optimizer, seed),
        train.make_train_step(train.supervised(criterion), optimizer),
        train.make_eval_step(tested),
        without_eval(tested),
        lambda state: state.model(),
        lambda state: predict(state.model()),
        lambda state: weights.state_dict(state.model()),
        load,
    )


def as_tensors(program: Program, optimizer: Any, seed: int, generator: Generator) -> Net:
    """A program's net as a function of plain tensors, with its steps.

    Args:
        program: The program.
        optimizer: The optimizer.
        seed: The seed of the run.
        generator: The generator of the initial tensors.
    """
    criterion, to_probabilities = OUTPUTS[program.gives]
    loss, test_loss = train.supervised(criterion), train.supervised(criterion, TESTED)

    def predict(state: Any) -> Predict:
        return lambda x: to_probabilities(program.forward(state["params"], x))

    return Net(
        tensor_state(program, optimizer, seed, generator),
        *make_tensor_steps(program, loss, test_loss, optimizer),
        None,
        lambda state: functools.partial(program.forward, state["params"]),
        predict,
        lambda state: state["params"],
        lambda path: predict({"params": jax.tree.map(jnp.asarray, weights.load(path))}),
    )


def tensor_state(
    program: Program, optimizer: optax.GradientTransformation, seed: int, generator: Generator
) -> dict[str, Any]:
    """The training state of the plain form, a dictionary.

    Args:
        program: The program.
        optimizer: The optimizer.
        seed: The seed of the key for dropout.
        generator: The generator of the initial tensors.
    """
    params = program.start(generator)
    return {
        "params": params,
        "opt_state": optimizer.init(params),
        "key": jax.random.key(seed),
        "step": jnp.zeros((), jnp.int32),
    }


def make_tensor_steps(
    program: Program,
    loss: Callable[..., Any],
    test_loss: Callable[..., Any],
    optimizer: optax.GradientTransformation,
) -> tuple[Any, Any]:
    """The training step and the test step of the plain form, without any module.

    Args:
        program: The program.
        loss: The training loss, a function of a net and a batch.
        test_loss: The test loss, a function of a net and a batch.
        optimizer: The optimizer.
    """

    def objective(params: Params, batch: Any) -> Any:
        return loss(functools.partial(program.forward, params, training=True), batch)

    def train_step(state: dict[str, Any], batch: Any) -> Any:
        with nn.keys(jax.random.fold_in(state["key"], state["step"])):
            (value, metrics), grads = jax.value_and_grad(objective, has_aux=True)(
                state["params"], batch
            )
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        state = {**state, "params": params, "opt_state": opt_state, "step": state["step"] + 1}
        return state, {"loss": value, **metrics}

    def test_step(state: dict[str, Any], batch: Any) -> Any:
        value, metrics = test_loss(functools.partial(program.forward, state["params"]), batch)
        return state, {"loss": value, **metrics}

    return train_step, test_step
