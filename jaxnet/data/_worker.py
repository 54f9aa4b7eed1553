"""What a worker thread of a DataLoader knows about itself."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


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
