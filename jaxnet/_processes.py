"""Several processes: how they find one another, and what they have to agree about."""

import builtins
import os
import sys
import threading
import zlib
from types import TracebackType
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxnet._checks import is_number

VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
"""The environment variables that say which process of which run this one is: torchrun's."""

_MOST = 4  # numbers that processes tell one another at once
_AGREED, _SAME = 1, 2  # what for
_HEARTBEAT = 30  # seconds without a sign of life after which a process counts as lost
_COMMUNICATION = ("Gloo", "NCCL", "coordination", "heartbeat")  # in errors of lost connections


def init_processes(*, timeout: float = 300) -> int:
    """Joins this process with the others of a run: torch's `init_process_group`.

    It comes before anything that JAX computes, and the same program then runs in every process:
    `jax.devices()` are those of all of them, and `fit(..., mesh="data=4")` trains on four. Who
    the others are comes from `jaxnet launch`, from its four environment variables (MASTER_ADDR,
    MASTER_PORT, WORLD_SIZE and RANK, as torchrun sets them), or from SLURM, Open MPI, Kubernetes
    or a TPU pod, as `jax.distributed.initialize` finds them. Without any of these there is one
    process, and nothing is done.

    If one process ends by an error or by `sys.exit` with another status than 0, or is killed, the
    others end too, within a minute; what `atexit` would call in it is left out. One that ends well
    waits for the others for up to five minutes: then JAX ends them, whether they compute with it or
    do something of their own. So does one that ends by `raise SystemExit(1)`, which nobody can tell
    from a good end.

    Args:
        timeout: The seconds to wait for the others. If one does not come, the program ends with
            a line that says so, and with status 1.

    Returns:
        The number of processes. This one's number is `jax.process_index()`.

    Raises:
        ValueError: An argument is out of range, or only some of the variables are there.
        RuntimeError: JAX has computed something before.
    """
    if not (is_number(timeout) and 0 < timeout <= threading.TIMEOUT_MAX):
        raise ValueError(f"timeout: {timeout!r}; accepted is a number of seconds")
    if jax.distributed.is_initialized():
        return jax.process_count()
    given = _from_variables()
    if given is not None and given["num_processes"] == 1:
        return 1
    # JAX would end this process with a stack trace of its own, in C++, and not raise an error.
    late = threading.Timer(timeout, _end_since_one_is_missing, (timeout, given))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            **(given or {}),
            initialization_timeout=int(timeout) + 60,
            heartbeat_timeout_seconds=_HEARTBEAT,
        )
    except ValueError as error:
        if given is None and "should be defined" in str(error):
            return 1  # no cluster that JAX knows
        raise
    except RuntimeError as error:
        if "before any JAX" in str(error):
            raise RuntimeError(
                "init_processes: JAX has computed something in this process before; call it first, "
                "before arrays and models are made"
            ) from error
        raise
    finally:
        late.cancel()
    _end_with_the_first_error()
    return jax.process_count()


def _end_since_one_is_missing(timeout: float, given: dict[str, Any] | None) -> None:
    of = "as the cluster's scheduler names them"
    if given is not None:
        of = f"this is {given['process_id']} of {given['num_processes']}, the first of which is at "
        of += given["coordinator_address"]
    print(
        f"init_processes: after {timeout:g} s not all processes of the run are there ({of}); look "
        "at the output of the others, or give a longer timeout",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _from_variables() -> dict[str, Any] | None:
    found = {name: os.environ.get(name) for name in VARIABLES}
    # Other programs set some of them; a run of several processes has these two at least.
    if found["RANK"] is None and found["WORLD_SIZE"] is None:
        return None
    missing = [name for name, value in found.items() if not value]
    if missing:
        raise ValueError(
            f"{', '.join(missing)}: not among the environment variables, where "
            f"{', '.join(name for name in found if name not in missing)} are; accepted are all of "
            "MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK, as `jaxnet launch` sets them, or none"
        )
    numbers: dict[str, int] = {}
    for name in VARIABLES[1:]:
        text = str(found[name])
        if not text.isdecimal():
            raise ValueError(f"{name}: {text!r} in the environment; accepted is a whole number")
        numbers[name] = int(text)
    if not numbers["RANK"] < numbers["WORLD_SIZE"]:
        raise ValueError(
            f"RANK: {numbers['RANK']} in the environment; accepted are 0 to WORLD_SIZE - 1, which "
            f"is {numbers['WORLD_SIZE'] - 1}"
        )
    return {
        "coordinator_address": f"{found['MASTER_ADDR']}:{numbers['MASTER_PORT']}",
        "num_processes": numbers["WORLD_SIZE"],
        "process_id": numbers["RANK"],
    }


def _end_with_the_first_error() -> None:
    """Lets a process that fails end at once.

    JAX's own end waits for the other processes, and these wait in a sum for the one that failed.
    """
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        if any(name in str(error) for name in _COMMUNICATION):
            print(
                f"process {jax.process_index()} lost another process of the run, whose own "
                "output says why it ended",
                file=sys.stderr,
            )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130 if issubclass(kind, KeyboardInterrupt) else 1)

    sys.excepthook = hook
    sys.exit = _exit
    builtins.exit = builtins.quit = _exit  # type: ignore[assignment]


class _Exit(SystemExit):
    """What `sys.exit` raises: its status ends the process when the interpreter itself asks for it.

    It asks after all handlers and `finally`, and before it waits for the other processes.
    """

    @property
    def code(self) -> Any:  # type: ignore[override]
        status = self.args[0] if len(self.args) == 1 else self.args or None
        # A handler in Python that looks at the status has a frame, and the interpreter has none.
        if status not in (None, 0) and sys._getframe(0).f_back is None:
            if not isinstance(status, int):
                print(status, file=sys.stderr)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status & 0xFF if isinstance(status, int) else 1)
        return status


def _exit(status: Any = None, /) -> NoReturn:
    raise _Exit(status)


def is_first() -> bool:
    """Whether this process is the one that prints and writes files."""
    # Asked of a single process, JAX would start its backends, after which nothing may fork.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def several(mesh: Mesh | None) -> bool:
    """Whether a mesh has devices of other processes too."""
    return mesh is not None and mesh.is_multi_process


def _gathered(mesh: Mesh | None, kind: int, numbers: tuple[int, ...]) -> np.ndarray:
    """Some numbers from every process, one row each; each of them has to call it."""
    if not several(mesh):
        return np.array([numbers], np.int32)
    # All meetings have one shape, so that two of different kinds are noticed, and do not end in
    # an error of the network, or in waiting.
    mine = np.zeros(_MOST + 1, np.int32)
    mine[0], mine[1 : 1 + len(numbers)] = kind, numbers
    from jax.experimental import multihost_utils

    every = np.asarray(multihost_utils.process_allgather(mine))
    if not (every[:, 0] == kind).all():
        raise ValueError(
            "the processes of the run are at different places: some have read all their batches, "
            "and others have more; give each the same data"
        )
    return every[:, 1 : 1 + len(numbers)]


def agreed(mesh: Mesh | None, *numbers: int) -> tuple[int, ...]:
    """The largest of each number over the processes of a mesh, each of which has to call it.

    What depends on the clock or on a signal is another number in each process, and a process
    that made other steps than the rest would wait for them forever.
    """
    return tuple(map(int, _gathered(mesh, _AGREED, numbers).max(0)))


def check_same(mesh: Mesh | None, what: str, tree: Any) -> None:
    """Refuses arrays or numbers that are not the same in all processes of a mesh.

    Args:
        mesh: The mesh; each of its processes has to call this.
        what: What the error says, with {} where it names a process.
        tree: A pytree of what this process has.

    Raises:
        ValueError: Another process has others.
    """
    if not several(mesh):
        return
    number = checksum(tree)
    every = _gathered(mesh, _SAME, (number >> 16, number & 0xFFFF))
    if not (every == every[0]).all():
        other = next(i for i, row in enumerate(every) if (row != every[0]).any())
        raise ValueError(what.format(f"process {other} has others than process 0"))


def checksum(tree: Any) -> int:
    """A checksum (CRC-32) of the numbers in a pytree of arrays, random keys among them."""
    found = 0
    for leaf in jax.tree.leaves(tree):
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        found = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, found)
    return found
