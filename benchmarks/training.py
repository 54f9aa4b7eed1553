"""Training steps, jaxnet beside PyTorch and plain Flax: python -m benchmarks.training

Every workload trains on the same random rows in the same batches, which each program gathers
itself: PyTorch eager, channels_last (images) and torch.compile; the usual Flax loop of
`nnx.jit` and `nnx.Optimizer`; and jaxnet's epoch, compiled as one scan. They run in
one process, in turn, after warm-up. The ratio is the time of the fastest PyTorch over jaxnet's.
A second table has the start-up and the memory of new processes (benchmarks.startup).

    python -m benchmarks.training --only Net MLP --rounds 9
"""

import argparse
import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import startup
from benchmarks.timing import give, interleave, machine, markdown
from experiments import cifar2_net, cifar2_variants
from experiments.thermometer import T_C, T_UN
from jaxnet import losses, nn, optim, plots, train
from jaxnet.random import Generator


class Recurrent(nn.Module):
    """A two-layer LSTM and a linear layer on its last output."""

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        self.lstm = nn.LSTM(32, 64, 2, batch_first=True, rngs=rngs)
        self.fc = nn.Linear(64, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc(self.lstm(x)[0][:, -1])


def mlp(*sizes: int, activation: type[nn.Module]) -> Callable[..., nn.Module]:
    """A function of `rngs` that makes linear layers with an activation between them.

    Args:
        *sizes: The sizes of the layers, the input first.
        activation: The class of the activation.
    """

    def build(*, rngs: nn.init.Rngs) -> nn.Module:
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(sizes):
            layers += [nn.Linear(i, o, rngs=rngs), activation()]
        return nn.Sequential(*layers[:-1])

    return build


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model in both libraries, and the rows that it trains on.

    Attributes:
        ours: A function of `rngs` that makes jaxnet's model.
        theirs: A function of the module `benchmarks.torch_models` that makes PyTorch's model.
        shape: The shape of an input.
        target: The ratio of PyTorch's time to jaxnet's that was aimed for.
        batch: The number of rows in a step.
        steps: The number of steps in a sample.
        classes: The number of classes.
        rows: The number of rows of the data; by default the number that the steps take.
    """

    ours: Callable[..., nn.Module]
    theirs: Callable[[Any], Any]
    shape: tuple[int, ...]
    target: float
    batch: int = 64
    steps: int = 20
    classes: int = 2
    rows: int | None = None


IMAGE = (3, 32, 32)
WORKLOADS = {
    "Net": Workload(cifar2_net.FunctionalNet, lambda t: t.Net(16, 8), IMAGE, 2.0),
    "MLP 784-128-64-10": Workload(
        mlp(784, 128, 64, 10, activation=nn.ReLU),
        lambda t: t.mlp(784, 128, 64, 10, activation=t.nn.ReLU),
        (784,),
        2.1,
        steps=100,
        classes=10,
    ),
    "3072-512-2": Workload(
        mlp(3072, 512, 2, activation=nn.Tanh),
        lambda t: t.mlp(3072, 512, 2, activation=t.nn.Tanh),
        (3072,),
        1.7,
    ),
    "3072-512-2, batch 2": Workload(
        mlp(3072, 512, 2, activation=nn.Tanh),
        lambda t: t.mlp(3072, 512, 2, activation=t.nn.Tanh),
        (3072,),
        5.0,
        batch=2,
        steps=100,
    ),
    "NetBatchNorm": Workload(
        cifar2_variants.NetBatchNorm, lambda t: t.Net(32, 16, norm=True), IMAGE, 1.5
    ),
    "NetDropout": Workload(
        cifar2_variants.NetDropout, lambda t: t.Net(32, 16, drop=0.4), IMAGE, 1.5
    ),
    "NetRes": Workload(cifar2_variants.NetRes, lambda t: t.NetRes(), IMAGE, 1.5),
    "NetResDeep, 10 blocks": Workload(
        lambda *, rngs: cifar2_variants.NetResDeep(32, 10, rngs=rngs),
        lambda t: t.NetResDeep(10),
        IMAGE,
        1.0,
        steps=4,
    ),
    "NetResDeep, 100 blocks": Workload(
        lambda *, rngs: cifar2_variants.NetResDeep(32, 100, rngs=rngs),
        lambda t: t.NetResDeep(100),
        IMAGE,
        1.0,
        steps=1,
    ),
    "LSTM, 2 layers": Workload(Recurrent, lambda t: t.Recurrent(), (50, 32), 1.5),
}


def rows(work: Workload) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random inputs (N, *shape), classes (N,), and the row numbers of each batch (steps, batch).

    Args:
        work: The workload.
    """
    rng = np.random.RandomState(0)
    taken = work.batch * work.steps
    n = work.rows or max(taken, 256)
    x = rng.standard_normal((n, *work.shape)).astype(np.float32)
    y = rng.randint(0, work.classes, n).astype(np.int32)
    order = np.concatenate([rng.permutation(n) for _ in range(-(-taken // n))])
    return x, y, order[:taken].reshape(work.steps, work.batch)


def jaxnet_trainer(work: Workload) -> Callable[[], Any]:
    """A function without arguments that runs jaxnet's epoch in one compiled call.

    Args:
        work: The workload.
    """
    x, y, batches = rows(work)
    optimizer = optim.SGD(lr=1e-3)
    loss = train.supervised(losses.cross_entropy)
    epoch = train.make_epoch(train.make_train_step(loss, optimizer), work.batch)
    data, order = (jnp.asarray(x), jnp.asarray(y)), jnp.asarray(batches.ravel())
    state = train.create(work.ours(rngs=Generator(0)), optimizer)

    def run() -> Any:
        nonlocal state
        state, metrics = epoch(state, data, order)
        return metrics["loss"]

    return run


def flax_trainer(work: Workload) -> Callable[[], Any]:
    """A function without arguments that runs the usual Flax loop on the same model.

    Args:
        work: The workload.
    """

    x, y, batches = rows(work)
    inputs, targets = jnp.asarray(x), jnp.asarray(y)
    model = work.ours(rngs=Generator(0))
    model.train()
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, inputs, targets):
        def loss_of(model):
            with nn.keys(jax.random.key(0)):
                return losses.cross_entropy(model(inputs), targets)

        loss, grads = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, grads)
        return loss

    def run() -> Any:
        for picked in batches:
            loss = step(model, optimizer, inputs[picked], targets[picked])
        return loss

    return run


def torch_trainers(work: Workload, forms: list[str]) -> dict[str, Callable[[], Any]]:
    """Functions without arguments that run the same training in PyTorch, by name.

    Args:
        work: The workload.
        forms: The ways PyTorch runs: "eager", "channels_last" and "compile".
    """
    from benchmarks import torch_models

    if len(work.shape) != 3:
        forms = [form for form in forms if form != "channels_last"]
    arrays = rows(work)
    return {
        f"torch {form}": torch_models.trainer(work.theirs(torch_models), *arrays, form)
        for form in forms
    }


def thermometer(rounds: int) -> dict[str, Any]:
    """The timings of whole runs of 5,000 steps that fit a line to eleven points.

    Args:
        rounds: The number of samples.
    """
    from jax import lax

    from benchmarks import torch_models

    steps = 5000
    x, y, optimizer = jnp.asarray(T_UN), jnp.asarray(T_C), optim.SGD(lr=1e-2)

    @jax.jit
    def run(start):
        def step(carry, _):
            params, state = carry

            def loss_of(params):
                return losses.mse_loss(params[0] * x + params[1], y)

            loss, grad = jax.value_and_grad(loss_of)(params)
            updates, state = optimizer.update(grad, state, params)
            return (optax.apply_updates(params, updates), state), loss

        return lax.scan(step, (start, optimizer.init(start)), length=steps)[1][-1]

    start = jnp.array([1.0, 0.0])
    eager = torch_models.thermometer(T_UN, T_C, steps)
    timings = interleave({"jaxnet": lambda: run(start), "torch eager": eager}, rounds)
    return {"timings": timings, "steps": steps, "target": 1000.0}


def measure(name: str, rounds: int, forms: list[str], flax: bool) -> dict[str, Any]:
    """The timings of one workload, by candidate.

    Args:
        name: The name of the workload.
        rounds: The number of samples.
        forms: The ways PyTorch runs.
        flax: Whether the usual Flax loop is a candidate.
    """
    work = WORKLOADS[name]
    candidates: dict[str, Callable[[], Any]] = {"jaxnet": jaxnet_trainer(work)}
    candidates |= torch_trainers(work, forms)
    if flax:
        candidates["flax"] = flax_trainer(work)
    timings = interleave(candidates, rounds)
    return {"timings": timings, "steps": work.steps, "target": work.target}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    names = ["thermometer", *WORKLOADS, "start-up"]
    parser.add_argument("--only", nargs="*", default=names, help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=9, help="samples of each candidate")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-flax", action="store_true", help="leave the plain Flax loop out")
    parser.add_argument("--out", type=Path, help="folder for table.md and speed.png")
    options = parser.parse_args()
    forms = ["eager", "channels_last"] + ([] if options.no_compile else ["compile"])
    table, ratios, processes = [], {}, ""
    began = time.perf_counter()
    for name in names:
        if not any(name.startswith(asked) for asked in options.only):
            continue
        if name == "start-up":
            processes = f"\n{startup.table(list(startup.MODELS), options.rounds)}"
            continue
        if name == "thermometer":
            result = thermometer(options.rounds)
        else:
            result = measure(name, options.rounds, forms, not options.no_flax)
        timings, steps = result["timings"], result["steps"]
        ms = {who: t.median / steps * 1e3 for who, t in timings.items()}
        ours = timings["jaxnet"]
        best = min(value for who, value in ms.items() if who.startswith("torch"))
        ratios[name] = best / ms["jaxnet"]
        cells = [
            f"{ms[who]:.4g}" if who in ms else "-"
            for who in ("torch eager", "torch channels_last", "torch compile", "flax", "jaxnet")
        ]
        spread = f"{(ours.high - ours.low) / ours.median:.0%}"
        table.append(
            [name, *cells, f"{ratios[name]:.2f}", f"{result['target']:g}", spread,
             f"{ours.first:.1f}"]
        )  # fmt: skip
        print(f"[{time.perf_counter() - began:.0f} s] " + " | ".join(table[-1]), flush=True)
    heads = ["workload", "torch eager", "channels_last", "torch.compile", "flax loop", "jaxnet"]
    heads += ["best torch / jaxnet", "target", "quartiles apart", "first call s"]
    text = (
        f"Milliseconds a step, medians of {options.rounds} interleaved samples.\n"
        f"{machine()}\n\n{markdown(heads, table)}\n{processes}"
    )
    give(text, options.out, "table.md")
    if options.out:
        shown = {name: ratio for name, ratio in ratios.items() if name != "thermometer"}
        if not shown:
            return
        bars = {"best torch / jaxnet": [[ratio] for ratio in shown.values()]}
        labels = [name.replace(", ", "\n").replace(" ", "\n") for name in shown]
        plots.save_bars(
            options.out / "speed.png", labels, bars, "Training step, higher is faster", "ratio"
        )


if __name__ == "__main__":
    main()
