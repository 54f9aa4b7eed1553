"""What several devices send and take: python -m benchmarks.devices

Three tables. What a training step sends, read from the compiled program and beside what data
parallel and fully sharded training have to send. Steps a second with 1 to 8 devices, which are
shares of the cores of this machine where it has no others, and with 1 to 4 processes. And what
8, 64 and 1,024 cards would make of the same programs, worked out from the first table with the
bandwidths and the speed that are given: nothing of the third is measured.

    python -m benchmarks.devices --out runs/devices
    python -m benchmarks.devices --only GPT --rounds 5 --speed 400 --near 450 --far 50
"""

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.gpu.hlo import bytes_in
from benchmarks.jaxnet_models import GPT, ResNet18
from benchmarks.timing import give, interleave, machine, markdown
from jaxnet import losses, nn, optim, plots, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator

DEVICES = (1, 2, 4, 8)

_COLLECTIVE = re.compile(
    r" = (\(.*?\)|\S+) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)


@dataclasses.dataclass(frozen=True)
class Work:
    """A training step of Adam on random rows.

    Attributes:
        build: makes the model from a generator.
        shape: of a row.
        classes: of the targets, or size of the vocabulary.
        batch: The rows of the step of one device.
        tokens: Whether rows are token numbers, with as many targets.
    """

    build: Callable[[Generator], Any]
    shape: tuple[int, ...]
    classes: int
    batch: int
    tokens: bool = False

    def loss(self, model: Any, batch: Any) -> tuple[Any, dict[str, Any]]:
        x, y = batch
        outputs = model(x)
        if self.tokens:
            outputs, y = outputs.reshape(-1, self.classes), y.reshape(-1)
        return losses.cross_entropy(outputs, y), {}

    def state(self) -> Any:
        return train.create(self.build(Generator(0)), optim.Adam(lr=1e-3))

    def step(self) -> Any:
        return train.make_train_step(self.loss, optim.Adam(lr=1e-3))

    def rows(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        if self.tokens:
            x = rng.integers(0, self.classes, (count, *self.shape), dtype=np.int32)
            return x, np.roll(x, -1, 1)
        x = rng.normal(size=(count, *self.shape)).astype(np.float32)
        return x, rng.integers(0, self.classes, count, dtype=np.int32)


class Perceptron(nn.Module):
    """784-512-512-10."""

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        self.fc1 = nn.Linear(784, 512, rngs=rngs)
        self.fc2 = nn.Linear(512, 512, rngs=rngs)
        self.fc3 = nn.Linear(512, 16, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


WORKS = {
    "MLP": Work(lambda g: Perceptron(rngs=g), (784,), 16, 64),
    "ResNet-18": Work(lambda g: ResNet18(16, 16, rngs=g), (3, 32, 32), 16, 8),
    "GPT": Work(lambda g: GPT(512, 64, 128, 4, 4, rngs=g), (64,), 512, 8, tokens=True),
}


def sent(text: str, devices: int) -> dict[str, int]:
    """The bytes of the results of every kind of collective in a compiled program.

    A loop counts once. Of a reduce-scatter the bytes of what goes in count, as of an all-gather
    those of what comes out.

    Args:
        text: `jax.stages.Compiled.as_text()`.
        devices: The number of devices.
    """
    found: dict[str, int] = {}
    for result, kind, started in _COLLECTIVE.findall(text):
        bytes_ = bytes_in(result)
        if kind == "reduce-scatter":
            bytes_ *= devices
        elif kind == "all-gather" and started:  # whose result has what goes in beside it
            bytes_ = bytes_ * devices // (devices + 1)
        found[kind] = found.get(kind, 0) + bytes_
    return found


@dataclasses.dataclass(frozen=True)
class Sent:
    """What one step sends, in bytes: found in the program, and what there is to send."""

    parameters: int
    found: dict[str, int]
    sharding: str | None

    @property
    def rows(self) -> Iterator[tuple[str, int, int]]:
        """The kind of collective, the bytes found, and those of all parameters."""
        yield "gradients, summed", self.summed, self.parameters
        if self.sharding:
            yield "parameters, gathered", self.found.get("all-gather", 0), self.parameters

    @property
    def summed(self) -> int:
        return self.found.get("all-reduce", 0) + self.found.get("reduce-scatter", 0)

    @property
    def other(self) -> int:
        """The bytes that neither of the two ways needs."""
        return self.found.get("all-to-all", 0) + self.found.get("collective-permute", 0)


def placed(work: Work, devices: int, rows: int, sharding: str | None) -> tuple[Any, Any, Any]:
    """A step on a mesh: the compiled program, its state and its batch."""
    mesh = train.make_mesh(f"data={devices}")
    state = train.shard(work.state(), mesh, sharding)
    batch = jax.device_put(work.rows(rows), NamedSharding(mesh, PartitionSpec("data")))
    lie = jax.tree.map(lambda x: x.sharding, state)
    with jax.set_mesh(mesh):
        step = jax.jit(work.step(), out_shardings=(lie, None))
        compiled = step.lower(state, batch).compile()
    return compiled, state, batch


def bytes_sent(work: Work, devices: int, sharding: str | None) -> Sent:
    """What a step of a number of devices sends, read from its compiled program."""
    compiled, state, _ = placed(work, devices, devices * work.batch, sharding)
    parameters = sum(4 * x.size for x in state.params.values())
    return Sent(parameters, sent(compiled.as_text(), devices), sharding)


def scaling(work: Work, rounds: int) -> dict[tuple[str, int], float]:
    """Milliseconds a step by ("strong" or "weak", devices), all of them in turn."""
    calls = {}
    most = DEVICES[-1] * work.batch
    for devices in [n for n in DEVICES if n <= jax.device_count()]:
        for kind, rows in (("strong", most), ("weak", devices * work.batch)):
            compiled, state, batch = placed(work, devices, rows, None)
            calls[kind, devices] = lambda c=compiled, s=state, b=batch: c(s, b)
    named = {f"{kind} {n}": call for (kind, n), call in calls.items()}
    timings = interleave(named, rounds, sample=0.1)
    return {key: timings[f"{key[0]} {key[1]}"].median * 1e3 for key in calls}


def processes(work_name: str, counts: tuple[int, ...]) -> dict[int, float]:
    """Milliseconds a step of the strong scaling with some processes of one device each."""
    found = {}
    for count in counts:
        command = [sys.executable, "-m", "jaxnet", "launch", "--processes", str(count), "--"]
        command += [sys.executable, "-m", "benchmarks.devices", "--child", work_name]
        done = subprocess.run(
            command,
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        found[count] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _child(name: str) -> None:
    """One of several processes: prints the milliseconds of a step."""
    train.init_processes()
    work = WORKS[name]
    mesh = train.make_mesh(f"data={jax.device_count()}")
    state = train.shard(work.state(), mesh)
    x, y = work.rows(DEVICES[-1] * work.batch)
    rows = NamedSharding(mesh, PartitionSpec("data"))
    batch = tuple(jax.make_array_from_callback(a.shape, rows, a.__getitem__) for a in (x, y))
    lie = jax.tree.map(lambda a: a.sharding, state)
    samples = []
    with jax.set_mesh(mesh):
        compiled = jax.jit(work.step(), out_shardings=(lie, None))
        jax.block_until_ready(compiled(state, batch))
        for _ in range(15):
            began = time.perf_counter()
            jax.block_until_ready(compiled(state, batch))
            samples.append(time.perf_counter() - began)
    if jax.process_index() == 0:
        print(json.dumps(1e3 * float(np.median(samples))))


@dataclasses.dataclass(frozen=True)
class Cards:
    """What a card is taken to do, for the table that is worked out.

    Attributes:
        speed: Floating-point operations a second that it reaches in a training step.
        near: Bytes a second between cards of one machine.
        far: Bytes a second of a card to other machines.
        machine: The number of cards in a machine.
    """

    speed: float
    near: float
    far: float
    machine: int = 8

    def seconds(self, summed: float, gathered: float, devices: int) -> float:
        """Of sending, by rings in which every card sends and receives at once.

        A sum passes each card twice (reduce-scatter, all-gather), what is gathered once. Between
        machines the slowest link counts, which is a card's to another machine.
        """
        width = self.near if devices <= self.machine else self.far
        return (devices - 1) / devices * (2 * summed + gathered) / width


LARGE = {
    "ResNet-18, 256 images a card": Work(lambda g: ResNet18(rngs=g), (3, 32, 32), 10, 256),
    "GPT-2 small, 8 x 1024 tokens a card": Work(
        lambda g: GPT(rngs=g), (1024,), 50304, 8, tokens=True
    ),
}


def worked_out(cards: Cards) -> Iterator[tuple[Any, ...]]:
    """Rows of the table for 8, 64 and 1,024 cards."""
    from benchmarks.gpu.flops import flops

    for name, work in LARGE.items():
        state = jax.eval_shape(work.state)
        traced = jax.jit(work.step()).trace(state, work.rows(work.batch))
        lowered = traced.lower(lowering_platforms=("cuda",))
        operations = flops(lowered.compiler_ir("stablehlo"))
        parameters = sum(4 * p.size for p in state.params.values())
        compute = operations / cards.speed
        for devices in (8, 64, 1024):
            for way, gathered, kept in (("data", 0, 1), ("fsdp", parameters, devices)):
                sending = cards.seconds(parameters, gathered, devices)
                yield (
                    *(name, devices, way, f"{compute * 1e3:.1f}", f"{sending * 1e3:.2f}"),
                    f"{compute / (compute + sending):.0%}",
                    f"{compute / max(compute, sending):.0%}",
                    f"{4 * parameters / kept / 2**20:,.0f}",
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.devices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=WORKS, default=list(WORKS), help="models")
    parser.add_argument("--rounds", type=int, default=9, help="samples of each time (9)")
    parser.add_argument("--speed", type=float, default=400, help="teraFLOP/s of a card (400)")
    parser.add_argument("--near", type=float, default=450, help="GB/s within a machine (450)")
    parser.add_argument("--far", type=float, default=50, help="GB/s of a card to others (50)")
    parser.add_argument("--out", type=Path, help="folder for devices.md and devices.png")
    parser.add_argument("--child", choices=WORKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(options.child)
        return
    if options.rounds < 2:
        parser.error("--rounds: a spread takes at least 2 samples")
    if "JAX_NUM_CPU_DEVICES" not in os.environ:  # of no meaning on a machine with GPUs
        jax.config.update("jax_num_cpu_devices", max(DEVICES))
    began = time.perf_counter()
    table, times, panels = [], [], []
    for name in options.only:
        for devices in DEVICES[1:]:
            for sharding in (None, "fsdp"):
                found = bytes_sent(WORKS[name], devices, sharding)
                for what, size, wanted in found.rows:
                    table.append(
                        (name, devices, sharding or "data", what, f"{size:,}", f"{wanted:,}",
                         f"{size / wanted:.3f}", f"{found.other:,}")
                    )  # fmt: skip
        print(f"[{time.perf_counter() - began:.0f} s] {name}: what is sent", flush=True)
        several = scaling(WORKS[name], options.rounds)
        alone = processes(name, (1, 2, 4))
        devices = sorted({n for _, n in several})
        for n in devices:
            times.append(
                (name, n, f"{several['strong', n]:.1f}", f"{several['weak', n]:.1f}",
                 f"{n * several['weak', 1] / several['weak', n]:.2f}",
                 f"{alone[n]:.1f}" if n in alone else "-")
            )  # fmt: skip
        series = [
            plots.Series(kind, devices, [several[kind, n] for n in devices], "o-")
            for kind in ("strong", "weak")
        ]
        series.append(plots.Series("strong, processes", list(alone), list(alone.values()), "s--"))
        panels.append(plots.Panel(name, "devices", "ms a step", series, log=True, log_x=True))
        print(f"[{time.perf_counter() - began:.0f} s] {name}: times", flush=True)
    cards = Cards(options.speed * 1e12, options.near * 1e9, options.far * 1e9)
    sent_heads = ["model", "devices", "way", "what", "bytes a step", "bytes of all parameters"]
    sent_heads += ["ratio", "other bytes"]
    time_heads = [
        "model",
        "devices",
        "strong, ms a step",
        "weak, ms a step",
        "weak, rows a second (one: 1)",
    ]
    time_heads += ["strong in processes, ms a step"]
    card_heads = ["model", "cards", "way", "computing, ms", "sending, ms", "of the ideal, in turn"]
    card_heads += ["at once", "MiB of state a card"]
    text = (
        f"{machine()}\n\n## What a step sends\n\n{markdown(sent_heads, table)}\n\n"
        f"## Times on this machine\n\nMedians of {options.rounds} interleaved samples (processes: "
        "of 15 steps, one number of processes after the other).\n\n"
        f"{markdown(time_heads, times)}\n\n## Worked out for cards, not measured\n\n"
        f"A card of {options.speed:g} TFLOP/s in training, {options.near:g} GB/s to others of its "
        f"machine of {cards.machine}, {options.far:g} GB/s "
        f"to other machines.\n\n{markdown(card_heads, list(worked_out(cards)))}\n"
    )
    give(text, options.out, "devices.md")
    if options.out:
        plots.save_panels(options.out / "devices.png", panels)


if __name__ == "__main__":
    main()
