"""Several cards, several processes: they train to the losses of one device, and what parts them.

The short introduction to PyTorch (3 in docs/pages/book.md) says in one sentence that PyTorch also
trains on several cards, in threads (DataParallel) or in processes (DistributedDataParallel). It
shows no program and prints no figure. Here a convolutional net with batch norm, dropout, clipping
and a schedule tells two kinds of waves apart, with SGD and with Adam, and each sentence is judged:

1. Any number of devices gives the losses of one: `train.fit(..., mesh="data=4")` cuts the rows
   of each batch along four devices and averages the gradients. DataParallel does so.
2. So does any number of processes, each with its own rows: a program that begins with
   `train.init_processes()`, run as `jaxnet launch --processes 2 -- python main.py`, is torch's
   DistributedDataParallel. Batch norm has the whole batch's statistics here (SyncBatchNorm).
3. `sharding="fsdp"` leaves each of n devices 1/n of the parameters and of the optimizer's state.
4. Without the average of the gradients it is no training of one net: two processes that train for
   themselves, each on its half of the rows, part from each other.

    python -m experiments several_devices
    python -m experiments several_devices --processes 4

A CPU counts as eight devices, which makes nothing faster and is good for trying out a program:
JAX_NUM_CPU_DEVICES=8, set before JAX starts, so that the runs are in processes of their own. Of
several GPUs all are used, up to eight.

Result (two CPU cores, a minute): in 50 steps the losses of two, four and eight devices, of eight
with cut parameters and of two processes lie at most 2e-7 from those of one device, and the two
processes have the same weights in every bit. With eight devices, each has an eighth of the
parameters and of Adam's state, and 0.7 % more. Of two processes without the average one learns,
the other stays at a loss of 0.7, and their weights are further apart than training together
moves them: experiments/results/several_devices.md.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

from experiments.harness import ledger, tables
from experiments.harness.record import Run
from experiments.harness.settings import Bound, Count, Seed, Settings
from experiments.several_devices_program import BATCH, COUNTS, RULES
from jaxnet import plots

DATA = ()
CLOSE = 1e-5  # losses around 0.7 that differ by the order of sums alone
ROOT = Path(__file__).parents[1]
_WEIGHTS = [f"{rule}.weights" for rule in RULES]

Arrays = Mapping[str, np.ndarray]

_SHARES = Bound(
    lambda n: n > 1 and BATCH % n == 0, f"accepted is what divides a batch of {BATCH}: 2, 4, 8, ..."
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of several_devices."""

    seed: Seed = 0
    """Seed of the rows, their order, the initial weights and dropout."""
    epochs: Count = 5
    """Passes over the 320 rows, of ten steps each."""
    processes: Annotated[int, _SHARES] = 2
    """Number of processes that train together."""

    def validate(self) -> None:
        super().validate()
        if self.device is not None and ":" in self.device:
            kind = self.device.partition(":")[0]
            raise ValueError(f"--device: {self.device}; all of a kind are used: accepted is {kind}")


def environment(config: Config, counted: int) -> dict[str, str]:
    """The variables of a process in which a CPU counts as some devices.

    Args:
        config: The settings.
        counted: The number of devices that a CPU counts as.
    """
    # A machine with fewer GPUs than processes has nothing to show; its CPU has.
    kind = config.device or jax.default_backend()
    found = dict(os.environ)
    # JAX takes the number of devices from one place only.
    flags = found.pop("XLA_FLAGS", "").split()
    flags = [flag for flag in flags if "host_platform_device_count" not in flag]
    found["XLA_FLAGS"] = " ".join(flags)
    found["JAX_NUM_CPU_DEVICES"] = str(counted)
    if kind == "cpu" or jax.device_count(kind) < config.processes:
        found["JAX_PLATFORMS"] = "cpu"
    found.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several share a GPU's memory
    return found


def start(config: Config, what: str, folder: Path) -> list[Arrays]:
    """Runs the program, and gives what each of its processes has found.

    Args:
        config: The settings.
        what: "devices", in one process, or "processes".
        folder: Path of a folder for its files.

    Raises:
        RuntimeError: The program failed.
    """
    words = [sys.executable, "-m", "experiments.several_devices_program"]
    words += [what, str(folder.resolve()), str(config.seed), str(config.epochs)]
    count, counted = 1, max(COUNTS)
    if what == "processes":
        count, counted = config.processes, 1
        words = [sys.executable, "-m", "jaxnet", "launch", "--processes", str(count), "--", *words]
    with subprocess.Popen(
        words,
        cwd=ROOT,
        env=environment(config, counted),
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as running:
        try:
            said, _ = running.communicate()
        except BaseException:
            running.terminate()  # and not kill: `jaxnet launch` then ends its processes too
            raise
    if running.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {running.returncode}:\n{said[-3000:]}")
    found: list[Arrays] = []
    for i in range(count):
        with np.load(folder / f"{what}_{i}.npz") as arrays:
            found.append(dict(arrays))
    return found


def figures_of(alone: Arrays, processes: Sequence[Arrays]) -> dict[str, Any]:
    """What is judged, plotted and recorded.

    Args:
        alone: What the process with several devices found.
        processes: What each of several processes found.
    """
    counts = [n for n in COUNTS if f"bytes.{n}" in alone]
    losses = {
        rule: {tables.count(n, "device"): alone[f"{rule}.{n}.loss"] for n in counts}
        | {f"{len(processes)} processes": processes[0][f"{rule}.loss"]}
        for rule in RULES
    }
    losses["Adam"][f"{counts[-1]} devices, fsdp"] = alone["cut.loss"]
    apart = _distance(alone["alone.0.weights"], alone["alone.1.weights"])
    pairs = [(p[key], processes[0][key]) for p in processes for key in _WEIGHTS]
    together = np.max([_distance(*pair) for pair in pairs], axis=0)
    rows = [process["SGD.placed"][1:] for process in processes]
    trained = alone["SGD.1.weights"]
    return {
        "device": str(alone["device"]),
        "losses": losses,
        "bytes": {n: alone[f"bytes.{n}"] for n in counts},
        "bytes_trained": alone["bytes.trained"],
        "rows_of_a_batch": [int(process["SGD.placed"][0]) for process in processes],
        "rows_of_two_processes": sum(map(len, rows)) - len(np.unique(np.concatenate(rows))),
        "losses_alone": [alone[f"alone.{half}.loss"] for half in (0, 1)],
        "distance": {"each for itself": apart, "together": together},
        "way": float(_distance(trained[-1:], trained[:1])[0]),
    }


def _distance(weights: np.ndarray, others: np.ndarray) -> np.ndarray:
    return np.linalg.norm(weights - others, axis=1)


def judge(figures: dict[str, Any]) -> list[dict[str, str]]:
    """The checks of a run.

    Args:
        figures: What `figures_of` gives.
    """
    checks = []
    for rule, losses in figures["losses"].items():
        one = losses["1 device"]
        moves = np.ptp(one) > 100 * CLOSE  # else all would be the same whatever they did
        for name, loss in losses.items():
            if name != "1 device":
                most = np.abs(loss - one).max()
                checks.append(
                    ledger.check(
                        f"{name}: the losses of {rule} are those of one device",
                        f"at most {most:.0e} apart in {len(one)} steps",
                        bool(moves and most <= CLOSE),
                    )
                )
    rows, of_two = figures["rows_of_a_batch"], figures["rows_of_two_processes"]
    apart, together = figures["distance"].values()
    sizes = figures["bytes"]
    most = max(sizes)
    parts = np.array([n * sizes[n] / sizes[1] for n in sizes])  # 1 where it is the nth part
    trained = figures["bytes_trained"]
    return [
        *checks,
        ledger.check(
            "each process places its own rows of a batch on its device, and no others",
            f"{' and '.join(map(str, rows))} of {BATCH} rows; {of_two} are in two processes",
            of_two == 0 and all(n * len(rows) == BATCH for n in rows),
        ),
        ledger.check(
            "processes that train together have the same weights after every step",
            "in every bit" if together.max() == 0 else f"{together.max():.1e} apart",
            bool(together.max() == 0),
        ),
        ledger.check(
            "with fsdp, parameters and optimizer state on a device fall as 1/n",
            f"with {most} devices from {sizes[1].sum():,} bytes to {sizes[most].sum():,}; "
            f"at most {parts.max() - 1:.1%} above 1/n",
            bool(np.abs(parts - 1).max() < 0.01 and np.array_equal(trained, sizes[most])),
        ),
        ledger.check(
            "two processes that train for themselves part: their weights are other ones",
            f"{apart[-1]:.2g} apart, where training together goes a way of {figures['way']:.2g}",
            bool(apart[0] == 0 and apart[-1] > 0.1 * figures["way"] > 0),
        ),
    ]


def main(config: Config, run: Run) -> None:
    """Trains on devices, in processes and for themselves, and compares."""
    with tempfile.TemporaryDirectory() as temporary:
        print(f"one process with up to {max(COUNTS)} devices")
        (alone,) = start(config, "devices", Path(temporary))
        print(f"{config.processes} processes")
        processes = start(config, "processes", Path(temporary))
    figures = figures_of(alone, processes)
    checks = judge(figures)
    run.metrics |= figures
    tables.save_checks(run, checks)
    title = f"several_devices, {tables.count(config.epochs, 'epoch')}, seed {config.seed}"
    header = ("sentence", "measured", "verdict")
    tables.save_table(run, title, header, [list(check.values()) for check in checks])
    worst = max(
        float(np.abs(loss - losses["1 device"]).max())
        for losses in figures["losses"].values()
        for loss in losses.values()
    )
    run.result = f"losses of devices and processes at most {worst:.0e} from those of one"
    _plot(run.folder, figures)


def _plot(folder: Path, figures: dict[str, Any]) -> None:
    for rule, losses in figures["losses"].items():
        one = losses["1 device"]
        steps = np.arange(1, len(one) + 1)
        curves = [plots.Series("1 device", steps, one, "k-")]
        limit = plots.Series(f"allowed: {CLOSE:g}", steps, np.full(len(steps), CLOSE), "k:")
        differences = [limit]
        others = {name: loss for name, loss in losses.items() if name != "1 device"}
        for k, (name, loss) in enumerate(others.items()):
            # Each has marks at steps of its own, since all of them lie upon one another.
            at, style = slice(k, None, len(others)), f"C{k}{'os^DvP'[k]}"
            far = np.maximum.accumulate(np.abs(loss - one))
            far = np.where(far > 0, far, np.nan)  # no difference has no place on the axis
            curves.append(plots.Series(name, steps[at], loss[at], style))
            differences.append(plots.Series(name, steps[at], far[at], style))
        title = f"{rule}: largest difference from one device so far"
        panels = [
            plots.Panel(f"{rule}: the losses", "step", "cross entropy", curves),
            plots.Panel(title, "step", "difference of the losses", differences, log=True),
        ]
        plots.save_panels(folder / f"losses_{rule.lower()}.png", panels)

    sizes = figures["bytes"]
    kib = np.array(list(sizes.values())).T / 1024  # (2, counts)
    every = np.linspace(1, max(sizes), 100)
    lines = [
        plots.Series("parameters", list(sizes), kib[0], "C0o"),
        plots.Series("Adam's state", list(sizes), kib[1], "C1s"),
        plots.Series("1/n of one device's", every, kib[0, 0] / every, "k:"),
        plots.Series("_", every, kib[1, 0] / every, "k:"),
    ]
    panel = plots.Panel("fsdp: memory of each device", "devices", "KiB", lines)
    plots.save_panels(folder / "memory.png", [panel])

    steps = np.arange(1, len(figures["losses_alone"][0]) + 1)
    lines = [
        plots.Series("first process for itself", steps, figures["losses_alone"][0], "C3-"),
        plots.Series("second process for itself", steps, figures["losses_alone"][1], "C1-"),
        plots.Series("together", steps, figures["losses"]["SGD"]["1 device"], "k-"),
    ]
    distances = [
        plots.Series(name, np.arange(len(y)), y, style)
        for (name, y), style in zip(figures["distance"].items(), ("C3-", "k-"), strict=True)
    ]
    panels = [
        plots.Panel("SGD without an average of gradients", "step", "cross entropy", lines),
        plots.Panel("Two processes' weights", "step", "distance", distances),
    ]
    plots.save_panels(folder / "parted.png", panels)
