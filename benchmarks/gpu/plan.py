"""Which task comes next and how long it may take. A card is there for minutes: the best first."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

__all__ = ["FAST_FORMS", "HOW_TO_PACK", "PARTS", "PRECISIONS", "TARGETS", "CommandLineError",
           "Precision", "Target", "chosen", "following", "limit"]  # fmt: skip

PARTS = ("right", "peaks", "fast", "loops", "document", "lowered")
"""Modules of this package that have `tasks(tiny)`."""

Precision = Literal["float32", "tf32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

HOW_TO_PACK = (
    "pack them where CIFAR-10 is: JAXNET_DATA=FOLDER python -m benchmarks.gpu.document "
    "--pack FILE, and give --data FILE"
)
"""For part document, whose images travel in a file."""


class CommandLineError(ValueError):
    """The command line asks for what is not there; the text says what is."""


@dataclasses.dataclass(frozen=True)
class Target:
    """What was aimed for, of one task.

    Attributes:
        task: its name.
        against: PyTorch's forms, of which the fastest is taken; or "peak".
        ratio: the least ratio of times (PyTorch's to jaxnet's), or share of the peak.
    """

    task: str
    against: tuple[str, ...]
    ratio: float


_GRAPHS = ("compile", "graph", "graph of channels_last", "graph of compile")

TARGETS = (
    Target("fast: Net, float32", ("eager",), 5.0),
    Target("fast: Net, float32", _GRAPHS, 1.5),
    Target("fast: MLP 784-128-64-10, float32", ("eager",), 5.0),
    Target("fast: MLP 784-128-64-10, float32", _GRAPHS, 1.5),
    Target("fast: ResNet-18, batch 1024, bfloat16", ("compile",), 1.0),
    Target("fast: GPT, bfloat16", ("peak",), 0.5),
)

# One precision of every workload that no target is set for.
_ONE_EACH = (
    "fast: 3072-512-2, float32",
    "fast: NetResDeep, 10 blocks, float32",
    "fast: LSTM, float32",
    "fast: ResNet-18, batch 128, bfloat16",
    "fast: NetResDeep, 100 blocks, float32",
)

# What they say decides how jaxnet should run its loops, and attention.
_DECIDING = (
    *("loops: Net", "loops: Net, graphs", "loops: MLP 784-128-64-10, graphs"),
    "loops: GPT, attention",
)

_SECONDS = {"right": 60.0, "peaks": 40.0, "fast": 110.0, "loops": 60.0, "lowered": 60.0}
_LEAST = {"right": 5.0, "peaks": 8.0, "fast": 20.0, "loops": 20.0, "document": 40.0}
_SHARE_OF_RIGHT = 1 / 3


def _rank(task: str, right_is_over: bool) -> int:
    part = task.split(":")[0]
    if part == "right":
        return 3 if right_is_over else 0
    if part == "peaks":
        return 1
    if task in [target.task for target in TARGETS]:
        return 2
    if task in _DECIDING:
        return 4
    if task in _ONE_EACH:
        return 5
    return {"loops": 6, "fast": 7, "lowered": 8}.get(part, 9)


def following(tasks: Sequence[str], used_by_right: float, seconds: float) -> str:
    """The task to run now.

    The checks of part right come first, until they have used a third of the time: the
    targets are not to go without.

    Args:
        tasks: that are still to run, in their own order; at least one.
        used_by_right: seconds that part right has taken.
        seconds: of the whole run.
    """
    over = used_by_right > _SHARE_OF_RIGHT * seconds
    return min(tasks, key=lambda task: _rank(task, over))


def limit(task: str, left: float, tiny: bool) -> float | None:
    """Seconds that a task may take of those that are left; None if it is not worth a start."""
    part = task.split(":")[0]
    if left < (1.0 if tiny else _LEAST.get(part, 5.0)):
        return None
    return min(_SECONDS.get(part, float("inf")), left)


def chosen(
    tasks: Iterable[str], only: Iterable[str] | None, precisions: Sequence[str] | None
) -> list[str]:
    """Those whose name has one of the words, in any case of letters, and a precision.

    Args:
        tasks: all, "part: name".
        only: words; None takes all.
        precisions: of the tasks of part fast and of the matrix products; None takes all.

    Raises:
        CommandLineError: a word that no task has, or a choice that leaves no task.
    """
    names = list(tasks)
    parts = ", ".join(dict.fromkeys(name.split(":")[0] for name in names))
    for word in only or ():
        if not any(word.lower() in name.lower() for name in names):
            raise CommandLineError(
                f"--only: no task of the parts {parts} has {word!r} in its name (--parts names "
                f"the parts to look in); there are: {'; '.join(names)}"
            )
    if only is not None:
        words = [word.lower() for word in only]
        names = [name for name in names if any(word in name.lower() for word in words)]
    if precisions is None:
        return names
    kept = tuple(f", {precision}" for precision in precisions)
    has_one = ("fast:", "peaks: matrix")
    left = [name for name in names if not name.startswith(has_one) or name.endswith(kept)]
    if not left:
        raise CommandLineError(
            f"--precision: no task is left in {', '.join(precisions)}; without it there are: "
            f"{'; '.join(names)}"
        )
    return left


FAST_FORMS: Mapping[str, str] = {
    "torch eager": "eager",
    "torch channels_last": "channels_last",
    "torch compile": "compile",
    "torch graph": "CUDA graph",
    "torch graph of channels_last": "CUDA graph, channels_last",
    "torch graph of compile": "CUDA graph of compile",
}
"""PyTorch's forms as the results name them, and as the report does."""
