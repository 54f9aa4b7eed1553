"""The verdicts on the MNIST nets: PyTorch's figures, and what the documents say in words."""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.harness import ledger
from experiments.mnist_nets import MLP, PROGRAMS, FunctionalNetwork, Network, named_network
from jaxnet.nn import functional as F
from jaxnet.random import Generator


def judge(name: str, config: Any, runs: dict[int, dict[str, Any]]) -> list[ledger.Row]:
    """Compares a net's runs with PyTorch's runs of the same program.

    A net without dropout has to give the figures of torch.manual_seed(0) with seed 0. Torch's
    dropout masks cannot be reproduced, so the figures of a net with dropout have to lie within
    the spread of our seeds.

    Args:
        name: The name of the net.
        config: The settings, a `Config` of mnist_mlp.
        runs: The figures of each run by seed.

    Returns:
        The rows of the ledger.
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
            if config.form == "module":
                figures["test_accuracy_without_eval"] = [
                    c["test_accuracy_without_eval"] for c in runs.values()
                ]
        return ledger.compare_over_seeds(section, figures, complete)
    if 0 not in runs:
        return []
    figures = {name: runs[0][name] for name in ("parameters", "train_loss")}
    if complete:
        figures["test_accuracy"] = runs[0]["test_accuracy"][program.epochs]
    return ledger.compare(section, figures, complete)


def checks_of(name: str, curves: dict[str, Any], outputs: jax.Array, ps: jax.Array) -> list[Any]:
    """The checks of one trained net that are no figures of a document.

    Args:
        name: The name of the net.
        curves: The figures of the run.
        outputs: The outputs for all test images (N, 10).
        ps: The probabilities for them (N, 10).
    """
    checks = [answers_alike(name, outputs, ps)]
    right = curves["test_accuracy"]
    if by_step := curves.get("test_accuracy_by_step"):
        steps = max(by_step) // max(right)  # of an epoch
        pairs = [(by_step[steps * epoch], right[epoch]) for epoch in right]
        what = f"{name}: a test after every 100 batches is the epoch's own where they fall together"
        apart = max(abs(one - other) for one, other in pairs)
        checks.append(ledger.check(what, f"{apart:.1e} apart", apart < 1e-6))
    plain = curves.get("test_accuracy_without_eval")
    if plain is not None and "dropout" in name:
        after = right[max(right)]
        what = f"{name}: more test images are right with eval() than without"
        checks.append(ledger.check(what, f"{after:.4f} and {plain:.4f}", after > plain))
    return checks


def writings_apart(seed: int, x: jax.Array) -> float:
    """The largest difference between the outputs of the same net written in three ways.

    Args:
        seed: The seed of the initial weights.
        x: The images (N, 1, 28, 28).
    """
    builds: tuple[Any, ...] = (Network, FunctionalNetwork, named_network)
    first, *others = (build(rngs=Generator(seed))(x) for build in builds)
    return max(float(jnp.abs(other - first).max()) for other in others)


def layer_by_layer(seed: int) -> tuple[list[str], list[dict[str, str]]]:
    """Three layers, called one after the other on a random row, without and with activations.

    Args:
        seed: The seed of the row and the initial weights.

    Returns:
        For each layer its text and the shape of its output; and the checks.
    """
    generator = Generator(seed)
    x = jnp.asarray(generator.randn(1, 784))
    layers = list(MLP(rngs=generator).model)
    linear, lines = layers[::2], []
    plain = activated = x
    for layer in linear:
        plain = layer(plain)
        lines.append(f"{layer}: {plain.shape}")
    shapes = []
    for layer in layers:
        activated = layer(activated)
        shapes.append(activated.shape)
        lines.append(f"{layer}: {activated.shape}")
    weight, bias = jnp.eye(784), jnp.zeros(784)
    for layer in linear:  # W3 (W2 (W1 x + b1) + b2) + b3 as one W x + b
        weight, bias = layer.weight @ weight, layer.weight @ bias + layer.bias
    gaps = [float(jnp.abs(out - F.linear(x, weight, bias)).max()) for out in (plain, activated)]
    wanted = [(1, 200)] * 4 + [(1, 10)]
    return lines, [
        ledger.check("layers of a row of 784 give 200, 200, 10 numbers", str(shapes),
                     shapes == wanted),
        ledger.check("three linear layers without activations are one linear layer",
                     f"{gaps[0]:.1e} apart", gaps[0] < 1e-5),
        ledger.check("with activations between them they are not", f"{gaps[1]:.1e} apart",
                     gaps[1] > 1e-2),
    ]  # fmt: skip


def answers_alike(name: str, outputs: jax.Array, probabilities: jax.Array) -> dict[str, str]:
    """The check that the largest output needs no softmax, and that max and argmax are one pair.

    Args:
        name: The name of the net.
        outputs: The outputs of a net (N, 10).
        probabilities: The probabilities that a softmax makes of them (N, 10).
    """
    values, indices = jax.lax.top_k(outputs, 1)  # the pair of torch.max(outputs, dim=1)
    same = int((indices[:, 0] == probabilities.argmax(axis=1)).sum())
    paired = bool((values[:, 0] == outputs.max(axis=1)).all())
    what = f"{name}: argmax of the outputs is that of the probabilities: it needs no softmax"
    return ledger.check(what, f"{same} of {len(outputs)}", paired and same == len(outputs))
