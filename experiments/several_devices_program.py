"""What several_devices starts in processes of its own: a net, its rows, and their training.

A CPU counts as several devices only where that is said before JAX starts, and a process joins
others only before JAX computes.

    python -m experiments.several_devices_program devices FOLDER SEED EPOCHS
    jaxnet launch --processes 2 -- python -m experiments.several_devices_program processes ...

Each process writes its losses and weights of every step into a file in FOLDER.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnet import data, losses, nn, optim, train
from jaxnet.nn import functional as F
from jaxnet.random import Generator

IMAGE = (3, 16, 16)
ROWS, BATCH = 320, 32
STEPS = ROWS // BATCH  # of an epoch

RULES: dict[str, Callable[[], optim.Optimizer]] = {
    "SGD": lambda: optim.SGD(lr=0.1, momentum=0.9),
    "Adam": lambda: optim.Adam(lr=3e-3),
}
COUNTS = (1, 2, 4, 8)  # of devices, as far as there are so many


class Net(nn.Module):
    """Images (N, 3, 16, 16) to the scores (N, 2) of two classes."""

    def __init__(self, *, rngs: nn.init.Rngs) -> None:
        # No bias before the norm, which takes it away again: its gradient is nothing but
        # rounding, of which Adam makes steps of full length.
        self.conv1 = nn.Conv2d(3, 16, kernel_size=3, padding=1, bias=False, rngs=rngs)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, kernel_size=3, padding=1, rngs=rngs)
        self.fc1 = nn.Linear(16 * 4 * 4, 128, rngs=rngs)
        self.dropout = nn.Dropout(0.3)
        self.fc2 = nn.Linear(128, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        out = F.max_pool2d(F.relu(self.conv2(out)), 2)
        out = F.relu(self.fc1(out.reshape(-1, 16 * 4 * 4)))
        return self.fc2(self.dropout(out))


def make_rows(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise (320, 3, 16, 16) with faint waves from left to right, or from top to bottom.

    Args:
        seed: The seed of the noise and of each wave's phase.
    """
    g = Generator(seed)
    images = np.array(g.randn(ROWS, *IMAGE))
    phases = 2 * np.pi * np.asarray(g.rand(ROWS, 1))
    waves = 0.5 * np.sin(0.8 * np.arange(16) + phases).astype(np.float32)  # (320, 16)
    classes = (np.arange(ROWS) % 2).astype(np.int32)
    images[classes == 0] += waves[classes == 0][:, None, None, :]
    images[classes == 1] += waves[classes == 1][:, None, :, None]
    return images, classes


def make_state(rule: str, seed: int, epochs: int) -> tuple[Any, Any]:
    """A state and a step with clipping and a schedule.

    Args:
        rule: The name of the optimizer in `RULES`.
        seed: The seed of the initial weights and of dropout.
        epochs: The passes over the rows.
    """
    plain = RULES[rule]()
    schedule = optim.StepLR(plain, step_size=20, gamma=0.5)
    steps = epochs * STEPS
    optimizer = optim.chain(optim.clip_by_norm(1.0), optim.scheduled(plain, schedule, steps=steps))
    state = train.create(Net(rngs=Generator(seed)), optimizer, seed=seed)
    return state, train.make_train_step(train.supervised(losses.cross_entropy), optimizer)


def of_half(step: Any, half: int) -> Any:
    """The step of a process that trains for itself on its half of each batch, the wrong way.

    Args:
        step: The step on a batch.
        half: 0 or 1.
    """

    def on_half(state: Any, batch: Any) -> Any:
        first = half * BATCH // 2
        return step(state, jax.tree.map(lambda x: x[first : first + BATCH // 2], batch))

    return on_half


def train_once(
    rule: str, seed: int, epochs: int, half: int | None = None, **where: Any
) -> tuple[Any, dict[str, np.ndarray]]:
    """Trains the net, with one seed always on the same batches.

    Args:
        rule: The name of the optimizer in `RULES`.
        seed: The seed of the rows, their order, the initial weights and dropout.
        epochs: The passes over the rows.
        half: The half of each batch that is trained on; None for all of it.
        **where: The arguments `mesh` and `sharding` of `train.fit`.

    Returns:
        The state, and after each step "loss" (steps,) and "weights" (steps + 1, parameters),
        the initial ones first; and "placed", as `_placed` gives it after the first step.
    """
    state, step = make_state(rule, seed, epochs)
    step = step if half is None else of_half(step, half)
    loss: list[float] = []
    found: dict[str, np.ndarray] = {}
    weights = [_flat(state.params)]

    def keep(report: train.StepReport) -> None:
        loss.append(float(report.metrics["loss"]))
        weights.append(_flat(report.state.params))
        if report.step == 1:
            found["placed"] = _placed()

    rows = data.TensorDataset(*make_rows(seed))
    loader = data.DataLoader(rows, BATCH, shuffle=True, rngs=Generator(seed))
    result = train.fit(
        state, step, loader, epochs=epochs, callbacks=[train.EverySteps(1, keep)], quiet=True,
        log=lambda line: None, **where,
    )  # fmt: skip
    return result.state, found | {"loss": np.array(loss), "weights": np.stack(weights)}


def _flat(params: Any) -> np.ndarray:
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(params)])


def _placed() -> np.ndarray:
    """What of the first epoch's batches is now on devices of this process.

    Returns:
        The number of rows of each batch that are here, and then the first pixel of each row.
    """
    batches = [x for x in jax.live_arrays() if x.ndim == 5 and x.shape[2:] == IMAGE]
    shards = [shard.data for x in batches for shard in x.addressable_shards]
    pixels = np.unique(np.concatenate([np.asarray(x)[:, :, 0, 0, 0].ravel() for x in shards]))
    each = sum(shard.data.shape[1] for shard in batches[0].addressable_shards)
    return np.array([each, *pixels[pixels != 0]])  # zeros fill up the last call's batches


def bytes_on_a_device(state: Any) -> tuple[int, int]:
    """The bytes of the parameters and of the optimizer's state on the first device.

    Args:
        state: A state of training.
    """

    def size(tree: Any) -> int:
        return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))

    return size(state.params), size(state.opt_state)


def on_devices(seed: int, epochs: int) -> dict[str, np.ndarray]:
    """One process with several devices, its states cut and whole, and the wrong way.

    Args:
        seed, epochs: Those of `train_once`.

    Returns:
        Arrays by names such as "Adam.4.loss" (of four devices). "bytes.4" has the bytes of the
        parameters and of Adam's state on one of four devices, "bytes.trained" those after
        training on the most devices, whose losses begin with "cut". "alone.0" and "alone.1" are
        the two that train for themselves.
    """
    found: dict[str, np.ndarray] = {}
    counts = [n for n in COUNTS if n <= jax.device_count()]

    def add(name: str, arrays: dict[str, np.ndarray]) -> None:
        found.update({f"{name}.{key}": array for key, array in arrays.items()})

    for rule in RULES:
        for n in counts:
            mesh = None if n == 1 else f"data={n}"
            add(f"{rule}.{n}", train_once(rule, seed, epochs, mesh=mesh)[1])
    state, _ = make_state("Adam", seed, epochs)
    for n in counts:
        found[f"bytes.{n}"] = np.array(bytes_on_a_device(train.shard(state, f"data={n}", "fsdp")))
    mesh = f"data={counts[-1]}"
    state, arrays = train_once("Adam", seed, epochs, mesh=mesh, sharding="fsdp")
    add("cut", arrays)
    found["bytes.trained"] = np.array(bytes_on_a_device(state))
    for half in (0, 1):
        add(f"alone.{half}", train_once("SGD", seed, epochs, half)[1])
    return found


def in_processes(seed: int, epochs: int) -> dict[str, np.ndarray]:
    """This process of several, which train together.

    Args:
        seed, epochs: Those of `train_once`.

    Returns:
        Arrays by names such as "Adam.loss".
    """
    found: dict[str, np.ndarray] = {}
    for rule in RULES:
        _, arrays = train_once(rule, seed, epochs, mesh=f"data={jax.device_count()}")
        found |= {f"{rule}.{key}": array for key, array in arrays.items()}
    return found


def main(what: str, folder: str, seed: str, epochs: str) -> None:
    """Trains, and writes what was found into the folder."""
    if what == "processes":
        train.init_processes()
    run = in_processes if what == "processes" else on_devices
    found: dict[str, Any] = run(int(seed), int(epochs))
    found["device"] = jax.devices()[0].device_kind
    np.savez(Path(folder) / f"{what}_{jax.process_index()}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
