"""Start-up and memory of a training process, jaxnet beside PyTorch: python -m benchmarks.startup

Every figure is measured on new processes, one at a time and in turn. The time is that from the
start of the interpreter until the first step is done (imports, data, model, compilation, a
batch), the memory is the peak resident memory of the process, after an epoch. jaxnet finds its
programs in the compilation cache, except in the first process, which is shown as "empty
cache". PyTorch runs eagerly.

    python -m benchmarks.startup --only Net --rounds 9
"""

# Imports here count as start-up time, so there are none but the standard library's.
import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 64
STEPS = 4  # the number of steps in an epoch
TARGET = 2.0  # the target for the seconds until the first step is done


def mlp(nn: Any, **rngs: Any) -> Any:
    """A net 784-128-64-10 of the modules of either library.

    Args:
        nn: The module `nn` of jaxnet or torch.
        **rngs: jaxnet's argument `rngs`.
    """
    return nn.Sequential(
        nn.Linear(784, 128, **rngs),
        nn.ReLU(),
        nn.Linear(128, 64, **rngs),
        nn.ReLU(),
        nn.Linear(64, 10, **rngs),
    )


def net(nn: Any, **rngs: Any) -> Any:
    """The convolutional net of `experiments.cifar2_net`.

    Args:
        nn: The module `nn` of jaxnet or torch.
        **rngs: jaxnet's argument `rngs`.
    """
    return nn.Sequential(
        *[nn.Conv2d(3, 16, kernel_size=3, padding=1, **rngs), nn.Tanh(), nn.MaxPool2d(2)],
        *[nn.Conv2d(16, 8, kernel_size=3, padding=1, **rngs), nn.Tanh(), nn.MaxPool2d(2)],
        nn.Flatten(),
        *[nn.Linear(8 * 8 * 8, 32, **rngs), nn.Tanh(), nn.Linear(32, 2, **rngs)],
    )


def vgg(nn: Any, **rngs: Any) -> Any:
    """Eight convolutions with batch norm, with many parameters of different shapes.

    Args:
        nn: The module `nn` of jaxnet or torch.
        **rngs: jaxnet's argument `rngs`.
    """
    layers, before = [], 3
    for i, channels in enumerate((16, 24, 32, 40, 48, 56, 64, 72)):
        layers += [nn.Conv2d(before, channels, kernel_size=3, padding=1, **rngs)]
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if i % 2 else []
        before = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * before, 10, **rngs))


MODELS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "MLP 784-128-64-10": (mlp, (784,)),
    "Net": (net, (3, 32, 32)),
    "VGG, 8 convolutions": (vgg, (3, 32, 32)),
}


def rows(shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Random inputs (N, *shape) and classes (N,).

    Args:
        shape: The shape of one input.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.random((BATCH * STEPS, *shape), np.float32)
    return x, rng.integers(0, 2, len(x), np.int32)


def jaxnet_process(name: str) -> None:
    """Trains a model by jaxnet, and prints a line of JSON when the first step is done.

    Args:
        name: The name of the model, a key of `MODELS`.
    """
    began = time.perf_counter()
    import jax
    import jax.numpy as jnp

    from jaxnet import losses, nn, optim, train
    from jaxnet.random import Generator

    imported = time.perf_counter()
    build, shape = MODELS[name]
    train.use_compilation_cache()
    data = jax.tree.map(jnp.asarray, rows(shape))
    optimizer = optim.SGD(lr=1e-3)
    state = train.create(build(nn, rngs=Generator(0)), optimizer)
    step = train.make_train_step(train.supervised(losses.cross_entropy), optimizer)
    epoch = train.make_epoch(step, BATCH)
    built = time.perf_counter()
    state, metrics = epoch(state, data, jnp.arange(BATCH))
    metrics["loss"].block_until_ready()
    report(began, imported, built)
    state, metrics = epoch(state, data, jnp.arange(BATCH * STEPS))
    metrics["loss"].block_until_ready()


def torch_process(name: str) -> None:
    """Trains a model by PyTorch, and prints a line of JSON when the first step is done.

    Args:
        name: The name of the model, a key of `MODELS`.
    """
    began = time.perf_counter()
    import torch
    from torch.nn import functional as F

    imported = time.perf_counter()
    build, shape = MODELS[name]
    x, y = map(torch.from_numpy, rows(shape))
    y = y.long()
    torch.manual_seed(0)
    model = build(torch.nn)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step(order: torch.Tensor) -> float:
        loss = F.cross_entropy(model(x[order]), y[order])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    built = time.perf_counter()
    step(torch.arange(BATCH))
    report(began, imported, built)
    for order in torch.arange(BATCH * STEPS).split(BATCH):
        step(order)


def report(began: float, imported: float, built: float) -> None:
    """Tells the benchmark that the first step is done, with the seconds of each phase.

    Args:
        began: The time at which the process began.
        imported: The time at which the imports were done.
        built: The time at which the model was built.
    """
    phases = {
        "imports": imported - began,
        "build": built - imported,
        "step": time.perf_counter() - built,
    }
    print(json.dumps(phases), flush=True)


PROCESSES = {"jaxnet": jaxnet_process, "torch": torch_process}


@dataclasses.dataclass(frozen=True)
class Process:
    """The measurements of one training process.

    Attributes:
        seconds: The seconds from its start until the first step was done.
        phases: The seconds of each phase, by the clock of the process itself.
        memory: The peak memory in MiB; nan on a system that does not report it.
    """

    seconds: float
    phases: dict[str, float]
    memory: float


def launch(library: str, name: str, cache: Path) -> Process:
    """Runs one training process to its end.

    Args:
        library: The library, "jaxnet" or "torch".
        name: The name of the model.
        cache: Path of the folder for jaxnet's compilation cache.
    """
    words = [sys.executable, "-m", "benchmarks.startup", "--process", library, name]
    environment = os.environ | {"JAXNET_CACHE": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    began = time.perf_counter()
    with subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
        cwd=Path(__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        phases = process.stdout.readline()
        seconds = time.perf_counter() - began
        memory = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with code {process.returncode}")
    return Process(seconds, json.loads(phases), float(memory))


def peak_memory() -> float:
    """The peak memory of this process in MiB; nan on a system that does not report it."""
    # Not resource.getrusage, whose peak includes that of the process before exec.
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return float("nan")


def measure(name: str, rounds: int) -> dict[str, list[Process]]:
    """Runs processes of both libraries in turn; "empty cache" is the first of jaxnet.

    Args:
        name: The name of the model.
        rounds: The number of processes of each library.
    """
    with tempfile.TemporaryDirectory() as cache:
        found = {"empty cache": [launch("jaxnet", name, Path(cache))]}
        launch("torch", name, Path(cache))  # so that PyTorch's files too have been read once
        found |= {library: [] for library in PROCESSES}
        for _ in range(rounds):
            for library in PROCESSES:
                found[library].append(launch(library, name, Path(cache)))
    return found


HEADS = [
    *["workload", "torch eager s", "jaxnet s", "imports", "build", "first step", "empty cache s"],
    *["target s", "quartiles apart", "torch MiB", "jaxnet MiB"],
]


def row(name: str, rounds: int) -> list[str]:
    """A line of the table, for one model.

    Args:
        name: The name of the model.
        rounds: The number of processes of each library.
    """
    found = measure(name, rounds)
    ours, theirs = found["jaxnet"], found["torch"]
    seconds = [process.seconds for process in ours]
    low, middle, high = statistics.quantiles(seconds, n=4)
    phases = [
        statistics.median(process.phases[phase] for process in ours)
        for phase in ("imports", "build", "step")
    ]
    memory = [statistics.median(process.memory for process in each) for each in (theirs, ours)]
    return [
        name,
        f"{statistics.median(process.seconds for process in theirs):.2f}",
        f"{middle:.2f}",
        *(f"{phase:.2f}" for phase in phases),
        f"{found['empty cache'][0].seconds:.2f}",
        f"{TARGET:g}",
        f"{(high - low) / middle:.0%}",
        *(f"{mib:.0f}" for mib in memory),
    ]


def table(names: list[str], rounds: int) -> str:
    """The table of some models in Markdown; its lines are printed as they are measured.

    Args:
        names: The names of the models.
        rounds: The number of processes of each library.
    """
    from benchmarks.timing import markdown

    lines = []
    for name in names:
        lines.append(row(name, rounds))
        print(" | ".join(lines[-1]), flush=True)
    return (
        "Seconds from the start of a process until its first training step is done, and the "
        f"most memory it ever held: medians of {rounds} fresh processes, in turn.\n\n"
        f"{markdown(HEADS, lines)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--only", nargs="*", default=[], help=f"of {', '.join(MODELS)}")
    parser.add_argument("--rounds", type=int, default=7, help="processes of each library")
    parser.add_argument("--process", nargs=2, metavar=("LIBRARY", "NAME"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        library, name = options.process
        PROCESSES[library](name)
        print(peak_memory())
        return
    from benchmarks.timing import machine

    names = [n for n in MODELS if not options.only or n.startswith(tuple(options.only))]
    if not names or options.rounds < 2:
        parser.error(f"--only takes of {', '.join(MODELS)}; --rounds at least 2")
    print(f"\n{table(names, options.rounds)}\n{machine()}")


if __name__ == "__main__":
    main()
