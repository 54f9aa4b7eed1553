"""What a worker thread of a DataLoader knows about itself, and its random numbers."""

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class WorkerInfo:
    """What `get_worker_info` says.

    Attributes:
        id: The number of the worker, from 0.
        num_workers: The number of workers that read the data set.
        seed: The seed of the worker as in torch, the seed of the pass plus the worker's number;
            None if the loader has no generator.
        dataset: The data set, which all workers share.
    """

    id: int
    num_workers: int
    seed: int | None
    dataset: Any


_own = threading.local()


def get_worker_info() -> WorkerInfo | None:
    """The worker of a DataLoader that runs the code: torch.utils.data.get_worker_info.

    Workers are threads here. An iterable data set is read by one of them whatever `num_workers`
    says, so that one that divides its rows among the workers gives all of them.

    Returns:
        The worker, or None outside of a worker.
    """
    return getattr(_own, "info", None)


def introduce(
    number: int,
    num_workers: int,
    seed: int | None,
    dataset: Any,
    worker_init_fn: Callable[[int], None] | None,
) -> None:
    """Begins a worker: its thread knows what it is, and calls worker_init_fn."""
    own_seed = None if seed is None else seed + number
    _own.info = WorkerInfo(number, num_workers, own_seed, dataset)
    if worker_init_fn is not None:
        worker_init_fn(number)


class Streams:
    """The random numbers of each worker: those that torch's worker processes have.

    Args:
        seed: The seed of the pass.
        workers: The number of workers.
    """

    def __init__(self, seed: int, workers: int) -> None:
        self._states = [_seeded(seed, number) for number in range(workers)]

    @contextmanager
    def of(self, number: int) -> Iterator[None]:
        """Puts a worker's generators in place of the global ones; nothing else may draw inside."""
        outside = global_states()
        _set_global(self._states[number])
        try:
            yield
        finally:
            self._states[number] = global_states()
            _set_global(outside)


def _seeded(seed: int, number: int) -> dict[str, Any]:
    """The states of the generators in torch's worker with this number."""
    # Torch has this algorithm of numpy's once more in torch/utils/data/_utils/worker.py.
    words = np.random.SeedSequence([number, seed & 0xFFFFFFFF, seed >> 32, 0]).generate_state(4)
    states = {
        "Python": random.Random(seed + number).getstate(),
        "NumPy": _plain(np.random.RandomState(words).get_state()),
    }
    if "torch" in sys.modules:
        generator = sys.modules["torch"].Generator().manual_seed(seed + number)
        states["torch"] = generator.get_state().numpy().tobytes()
    return states


def global_states() -> dict[str, Any]:
    """The states of the global generators of Python, NumPy and, if it is loaded, torch."""
    states = {"Python": random.getstate(), "NumPy": _plain(np.random.get_state())}
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].default_generator.get_state().numpy().tobytes()
    return states


def _plain(state: Any) -> tuple[Any, ...]:
    """A state of numpy's as a tuple that can be compared."""
    kind, words, *rest = state
    return (kind, words.tobytes(), *rest)


def _set_global(states: dict[str, Any]) -> None:
    random.setstate(states["Python"])
    kind, words, *rest = states["NumPy"]
    np.random.set_state((kind, np.frombuffer(words, np.uint32), *rest))
    if "torch" in states:
        torch = sys.modules["torch"]
        torch.set_rng_state(torch.frombuffer(bytearray(states["torch"]), dtype=torch.uint8))
