"""How fast jaxnet trains on a card beside PyTorch: one task for each workload and precision.

jaxnet's epoch is one compiled call over rows that stay on the device, as a user writes it;
against it run PyTorch's forms (benchmarks.gpu.torch_forms) on the same rows in the same
batches from the same weights, in one process, sample by sample in turn. Compilation and
warm-up come before and are reported apart. Before anything is timed, each form's losses are
compared with jaxnet's, so that no figure is of another program.
"""

import gzip
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.gpu import task
from benchmarks.gpu.flops import flops
from benchmarks.gpu.workloads import (
    PRECISIONS,
    Precision,
    Workload,
    jaxnet_step,
    rows,
    workloads,
)
from benchmarks.timing import Timing, sampled
from jaxnet import weights

__all__ = [
    "ALLOWED",
    "Compiled",
    "apart",
    "measure",
    "or_left_out",
    "tasks",
    "timed",
    "torch_device",
]

ALLOWED: dict[Precision, float] = {"float32": 1e-4, "tf32": 1e-2, "bfloat16": 5e-2}
"""How far the losses of an epoch may be from PyTorch's, as a part of them (of 1, if more).

Far above what rounding does to a few steps in that precision, far below what another
initial weight, another batch or a missing layer does to them.
"""

_COMPILE_SECONDS = 75.0  # of torch.compile, at most
_LEAST_COMPILE_SECONDS = 8.0  # with less it is not begun
_TIMING_SECONDS = 20.0  # what the rest of a task needs after it
_SAMPLED_SECONDS = 8.0  # about that much is spent on all samples of a workload
_SAMPLE = 0.05  # seconds of one sample, at least
_FEWEST, _MOST = 5, 15  # samples of a form


def tasks(tiny: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """One for each workload in each precision, by name: "Net, float32"."""
    return {
        f"{name}, {precision}": partial(measure, name, work, precision, tiny)
        for precision in PRECISIONS
        for name, work in workloads(tiny).items()
    }


class Compiled:
    """jaxnet's epoch as an executable, and what is known of it.

    Attributes:
        seconds: of tracing and of compiling.
        flops: of a step's matrix products and convolutions.
        memory: bytes that the program holds at once on the device, by its own plan.
        traffic: bytes that a step moves, as the compiler estimates it; None if it does not.
    """

    def __init__(self, work: Workload, precision: Precision) -> None:
        self.work = work
        self.state, self._epoch, self._arguments = jaxnet_step(work, precision)
        self.weights = weights.state_dict(self.state.model())
        self.seconds: dict[str, float] = {}
        self.flops = math.nan
        self.memory: int | None = None
        self.traffic: float | None = None

    def compile(self, keep_as: str | None = None) -> None:
        """Traces and compiles; may run in a thread.

        Args:
            keep_as: name of a file in the task's folder for the program as it was optimised.
        """
        began = time.perf_counter()
        traced = self._epoch.trace(self.state, *self._arguments)
        lowered = traced.lower()
        ready = time.perf_counter()
        self._call = lowered.compile()
        self.seconds = {"trace": ready - began, "compile": time.perf_counter() - ready}
        if jax.default_backend() == "cpu":  # its own kernels would hide what they compute
            lowered = traced.lower(lowering_platforms=("cuda",))
        self.flops = flops(lowered.compiler_ir("stablehlo")) / self.work.steps
        plan = self._call.memory_analysis()
        if plan is not None:
            held = plan.argument_size_in_bytes + plan.output_size_in_bytes
            self.memory = held + plan.temp_size_in_bytes - plan.alias_size_in_bytes
        # A loop counts once, however often it runs: so this is about one step.
        self.traffic = (self._call.cost_analysis() or {}).get("bytes accessed")
        where = task.folder()
        if keep_as is not None and where is not None:
            (where / "programs").mkdir(exist_ok=True)
            text = gzip.compress(self._call.as_text().encode())
            (where / "programs" / f"{keep_as}.txt.gz").write_bytes(text)

    def run(self) -> np.ndarray:
        """An epoch; its losses on the host, which waits for it."""
        self.state, metrics = self._call(self.state, *self._arguments)
        return np.asarray(metrics["loss"])


def measure(name: str, work: Workload, precision: Precision, tiny: bool) -> dict[str, Any]:
    """jaxnet and PyTorch on one workload.

    Args:
        name: for the result.
        work: what is trained.
        precision: of both.
        tiny: take few samples.

    Returns:
        "ok": whether all losses agree. "ms": by form, median, low and high quartile of
        milliseconds a step, and n; "jaxnet" among them. "compile_seconds" by form, "losses",
        "gaps" (the largest distance of losses from jaxnet's, by form) and what is "allowed",
        "flops" and "traffic" (bytes) a step, "memory" (bytes) of both sides, "left_out": why,
        by form, and "unfinished" if that is for want of time.
    """
    result: dict[str, Any] = {
        "ok": True,
        "workload": name,
        "precision": precision,
        "batch": work.batch,
        "steps": work.steps,
        "compile_seconds": {},
        "gaps": {},
        "allowed": ALLOWED[precision],
        "left_out": dict(work.left_out),
    }
    ours = Compiled(work, precision)
    result["parameters"] = sum(x.size for x in ours.state.params.values())
    device = torch_device(result["left_out"])
    # XLA compiles beside Python: PyTorch's forms are made ready meanwhile.
    pool = ThreadPoolExecutor(1)
    compiling = pool.submit(ours.compile, f"{name}, {precision}")
    try:
        if device is None:
            compiling.result()
            _finish(result, ours, {"jaxnet": ours.run}, ours.run(), tiny)
        else:
            _beside_torch(result, work, precision, ours, device, compiling.result, tiny)
    finally:
        pool.shutdown(wait=False)  # who is cut off does not wait for the compiler
        if device is not None:
            with or_left_out("torch", result["left_out"]):
                from benchmarks.gpu import torch_forms

                torch_forms.give_back()
    return result


def _beside_torch(
    result: dict[str, Any],
    work: Workload,
    precision: Precision,
    ours: Compiled,
    device: str,
    compiled: Callable[[], Any],
    tiny: bool,
) -> None:
    why = result["left_out"]
    trainers: dict[str, Any] = {}
    forms = None
    with ExitStack() as settings:
        with or_left_out("torch", why):
            from benchmarks.gpu import torch_forms

            settings.enter_context(torch_forms.precision_of(precision))
            forms = torch_forms.Forms(work, precision, ours.weights, rows(work), device)
            # Compiled at the first step, beside XLA. No graph is captured until XLA is done.
            _made(forms, "compile", trainers, result, 3.0 if tiny else _TIMING_SECONDS)
        compiled()
        if forms is not None:
            for form in work.forms:
                if form != "compile":
                    _made(forms, form, trainers, result)
        first = ours.run()
        ready = {}
        for form in [form for form in work.forms if form in trainers]:
            trainer = trainers.pop(form)
            with or_left_out(form, why):
                gap = apart(trainer.losses()[: work.judged], first[: work.judged])
                result["gaps"][form] = gap
                result["ok"] &= gap <= ALLOWED[precision]
                ready[form] = trainer
        trainers = ready
        with or_left_out("torch's memory", why):
            result["memory"] = _peaks(trainers, ours, device)
        calls = {f"torch {form}": trainer.run for form, trainer in trainers.items()}
        _finish(result, ours, {"jaxnet": ours.run, **calls}, first, tiny)


@contextmanager
def or_left_out(what: str, left_out: dict[str, str]) -> Iterator[None]:
    """An error of torch inside leaves that out, in words: jaxnet's figures do not hang on it."""
    try:
        yield
    except Exception as error:  # another version of torch may not take it; the rest goes on
        left_out[what] = f"failed: {type(error).__name__}: {str(error)[:300]}"


def torch_device(left_out: dict[str, str]) -> str | None:
    """Where PyTorch's forms run: on jaxnet's kind of device, or nowhere, and then why."""
    try:
        import torch
    except Exception as error:  # a library of CUDA's that is not there is an OSError
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            left_out["torch"] = "PyTorch is not installed: pip install torch"
        else:
            left_out["torch"] = f"torch does not import: {type(error).__name__}: {error}"
        return None
    if jax.default_backend() == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        left_out["torch"] = f"torch {torch.__version__} sees no card; a build for CUDA is needed"
        return None
    return "cuda"


def _made(
    forms: Any, form: str, trainers: dict[str, Any], result: dict[str, Any], margin: float = 0.0
) -> None:
    """Makes one form ready, or says why it is left out. Its first step is its compilation."""
    why = result["left_out"]
    if form not in forms.work.forms:
        return
    if form.startswith("graph") and forms.device == "cpu":
        why[form] = "there are no CUDA graphs on a CPU"
        return
    if form == "graph of compile" and "compile" not in trainers:
        why[form] = "compile is left out"
        return
    began = time.perf_counter()
    limit = math.inf
    if form == "compile":
        limit = min(_COMPILE_SECONDS, task.seconds_left() - margin)
        if limit < _LEAST_COMPILE_SECONDS:
            why[form] = f"the task has {task.seconds_left():.0f} s left"
            result["unfinished"] = True
            return
    try:
        with task.at_most(limit):
            trainer = forms.make(form)
            trainer.step(forms.order[0]).item()
    except task.TooLong:
        why[form] = f"not ready after {limit:.0f} s"
        result["unfinished"] = True
    except Exception as error:  # another version of torch may not take it; the rest goes on
        why[form] = f"failed: {type(error).__name__}: {str(error)[:300]}"
    else:
        trainers[form] = trainer
    result["compile_seconds"][f"torch {form}"] = time.perf_counter() - began


def apart(losses: np.ndarray, reference: np.ndarray) -> float:
    """The largest distance of losses from others, as a part of them (of 1, if more)."""
    distance = np.abs(losses.astype(np.float64) - reference)
    return float(np.max(distance / np.maximum(np.abs(reference), 1.0)))


def _peaks(trainers: Mapping[str, Any], ours: Compiled, device: str) -> dict[str, int | None]:
    """Bytes at once on the device: jaxnet's program, and what an eager step adds in PyTorch."""
    found = {"jaxnet": ours.memory}
    if device == "cuda" and "eager" in trainers:
        import torch

        torch.cuda.reset_peak_memory_stats()
        trainer = trainers["eager"]
        trainer.optimizer.zero_grad(set_to_none=True)
        before = torch.cuda.memory_allocated()
        trainer.step(trainer.order[0]).item()
        held = [*trainer.model.parameters(), *trainer.model.buffers(), trainer.inputs]
        states = [v for s in trainer.optimizer.state.values() for v in s.values()]
        arrays = [x for x in (*held, *states) if isinstance(x, torch.Tensor)]
        own = sum(x.numel() * x.element_size() for x in arrays)
        found["torch eager"] = own + torch.cuda.max_memory_allocated() - before
    return found


def _finish(
    result: dict[str, Any],
    ours: Compiled,
    candidates: Mapping[str, Callable[[], Any]],
    first: np.ndarray,
    tiny: bool,
) -> None:
    """Times the candidates and fills in the rest of the result."""
    result["losses"] = [float(x) for x in first[:5]]
    result["compile_seconds"]["jaxnet"] = ours.seconds["compile"]
    result["trace_seconds"] = ours.seconds["trace"]
    result["flops"], result["traffic"] = ours.flops, ours.traffic
    result.setdefault("memory", {"jaxnet": ours.memory})
    times: Mapping[str, Timing] = {}
    with or_left_out("torch", result["left_out"]):
        times = timed(candidates, tiny)
    if not times:  # an error, which is jaxnet's own if it comes again
        times = timed({"jaxnet": ours.run}, tiny)
    steps = result["steps"]
    result["ms"] = {
        who: {
            "median": t.median / steps * 1e3,
            "low": t.low / steps * 1e3,
            "high": t.high / steps * 1e3,
            "n": t.samples,
        }
        for who, t in times.items()
    }


def timed(candidates: Mapping[str, Callable[[], Any]], tiny: bool) -> dict[str, Timing]:
    """Samples of calls that are warm, in turn: as many as fit into some seconds, 5 to 15.

    Each call ends with a number on the host, so it has waited for the device.
    """
    once = {}
    for name, call in candidates.items():
        began = time.perf_counter()
        call()
        once[name] = time.perf_counter() - began
    sample, rounds = (0.0, 3) if tiny else (_SAMPLE, _MOST)
    repeats = {name: max(1, int(sample / seconds)) for name, seconds in once.items()}
    if not tiny:
        seconds = min(_SAMPLED_SECONDS, task.seconds_left() / 2)
        each = sum(repeats[name] * once[name] for name in candidates)
        rounds = min(_MOST, max(_FEWEST, math.floor(seconds / each)))
    return sampled(candidates, repeats, rounds, once)
