"""How the loop over an epoch's steps is best run on a card: jaxnet's way and other ways.

A small net's step is some microseconds of arithmetic; what lies between two steps decides. XLA
can send a whole step as one CUDA graph ("command buffer"), and the loop around it too; a loop
whose end is known only at run time (`train.fit`'s, which also stops at a loss that is not
finite) otherwise asks the host at every turn. Each way is the same training, and is timed in
turn with the others. So is attention by cuDNN's fused kernel, which a program has to ask for.
The tasks say what to change in jaxnet; no target hangs on them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax

from benchmarks.gpu.compiled import ONE_GRAPH
from benchmarks.gpu.fast import ALLOWED, apart, timed
from benchmarks.gpu.workloads import Precision, Workload, jaxnet_step, make_step, workloads
from jaxnet.nn.attention import SDPBackend, sdpa_kernel
from jaxnet.train._chunk import make_chunk, make_epoch

__all__ = ["tasks"]

_GRAPH = "epoch in a CUDA graph"
_OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "no CUDA graphs": {"xla_gpu_enable_command_buffer": ""},
    # The loop and the convolutions too, which XLA by itself leaves out of its graphs.
    _GRAPH: ONE_GRAPH,
    "two steps a turn": {
        "xla_gpu_enable_while_loop_unrolling": "WHILE_LOOP_UNROLLING_DOUBLE_BUFFER"
    },
}
_Way = tuple[str, str]
_WAYS: tuple[_Way, ...] = (
    *(("epoch", options) for options in ("", "no CUDA graphs", "two steps a turn")),
    *((program, "") for program in ("scan, 8 steps unrolled", "ends at run time", "fit")),
)
_IN_GRAPHS: tuple[_Way, ...] = (
    ("epoch", ""),
    *((program, _GRAPH) for program in ("epoch", "ends at run time", "fit")),
)


_ATTENTIONS: tuple[_Way, ...] = (("epoch", ""), ("epoch, cuDNN's attention", ""))


def tasks(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """In float32: the small nets in all ways, others in one CUDA graph. GPT in bfloat16.

    The ways with the epoch in a CUDA graph are tasks of their own: not every convolution can
    be captured, and a capture that fails may take the process with it.
    """
    found: dict[str, Callable[[], dict[str, Any]]] = {}
    for name in ("Net", "MLP 784-128-64-10"):
        found[name] = partial(ways, name, _WAYS, tiny)
        found[f"{name}, graphs"] = partial(ways, name, _IN_GRAPHS, tiny)
    for name in ("NetResDeep, 10 blocks", "LSTM", "ResNet-18, batch 128"):
        found[f"{name}, graphs"] = partial(ways, name, _IN_GRAPHS[:2], tiny)
    found["GPT, attention"] = partial(ways, "GPT", _ATTENTIONS, tiny, "bfloat16")
    return found


def ways(
    name: str, chosen: tuple[_Way, ...], tiny: bool, precision: Precision = "float32"
) -> dict[str, Any]:
    """Some ways on one workload.

    Args:
        name: of the workload.
        chosen: program and options of the compiler, the first to hold the others against.
        tiny: small sizes.
        precision: of all ways.

    Returns:
        "ok", whether all give the same losses; "ms" a step, "gaps" of the losses from the
        first way's, and "left_out", why, by way.
    """
    work = workloads(tiny)[name]
    state, epoch, (data, order) = jaxnet_step(work, precision)
    ends = np.int32(0), np.int32(work.steps)
    programs = {"epoch": (epoch, ())} | _others(work, precision, ends)
    result: dict[str, Any] = {"ok": True, "workload": name, "precision": precision}
    result |= {"batch": work.batch, "steps": work.steps, "left_out": {}, "gaps": {}, "ms": {}}

    def compiled(program: str, options: str) -> Any:
        function, more = programs[program]
        arguments = data, order, *more
        call = function.lower(state, *arguments).compile(_OPTIONS[options] or None)
        return _runner(call, work.state(), arguments)

    runs: dict[str, Callable[[], np.ndarray]] = {}
    first: np.ndarray | None = None
    pool = ThreadPoolExecutor()
    waiting = {_label(*way): pool.submit(compiled, *way) for way in chosen}
    try:
        wait(waiting.values())  # XLA tries algorithms out while it compiles: no run may disturb it
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for label, call in waiting.items():
        try:
            run = call.result()
            losses = run()
        except Exception as error:  # another version of XLA may not know an option
            why = str(error).splitlines() or [""]
            result["left_out"][label] = f"{type(error).__name__}: {why[0][:200]}"
            continue
        first = losses if first is None else first
        result["gaps"][label] = apart(losses, first)
        result["ok"] &= result["gaps"][label] <= ALLOWED[precision]
        runs[label] = run
    for label, t in timed(runs, tiny).items():
        low, median, high = (x / work.steps * 1e3 for x in (t.low, t.median, t.high))
        result["ms"][label] = {"median": median, "low": low, "high": high, "n": t.samples}
    return result


def _label(program: str, options: str) -> str:
    return f"{program}; {options}" if options else program


def _others(
    work: Workload, precision: Precision, ends: tuple[Any, Any]
) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Programs to replace `make_epoch`'s, and their arguments after data and order."""
    step = make_step(work, precision)

    def attending(state: Any, batch: Any) -> Any:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            return step(state, batch)

    def scan(state: Any, data: Any, order: jax.Array) -> Any:
        def once(state: Any, picked: jax.Array) -> Any:
            return step(state, jax.tree.map(lambda column: column[picked], data))

        return lax.scan(once, state, order.reshape(work.steps, work.batch), unroll=8)

    def chunked(nonfinite: str) -> Callable[..., Any]:
        chunk = make_chunk(step, work.batch, work.steps, nonfinite=nonfinite)
        return lambda *arguments: chunk(*arguments)[:2]

    found = {
        "scan, 8 steps unrolled": (scan, ()),
        "ends at run time": (chunked("go on"), ends),
        "fit": (chunked("stop"), ends),
        "epoch, cuDNN's attention": (make_epoch(attending, work.batch), ()),
    }
    return {
        name: (jax.jit(program, donate_argnums=0), more) for name, (program, more) in found.items()
    }


def _runner(call: Any, state: Any, arguments: tuple[Any, ...]) -> Callable[[], np.ndarray]:
    held = [state]

    def run() -> np.ndarray:
        held[0], metrics = call(held[0], *arguments)
        return np.asarray(metrics["loss"])

    return run
