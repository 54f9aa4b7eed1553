"""Recording: an unmodified PyTorch program runs, and its steps are written to a trace.

A step is what the program does from one update of its parameters to the next. It begins with
the first forward pass that can be differentiated, and it is over when the program takes its next
batch, or begins its next forward pass, after every optimizer has stepped; what happens in
between, as a validation without gradients, belongs to no step.
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jaxnet._files import flush
from jaxnet.parity._bare import Enough, checksum
from jaxnet.parity._constructed import Constructions
from jaxnet.parity._describe import describe, living
from jaxnet.parity._draws import classify, draws
from jaxnet.parity._functions import caller, lifted, refresh_locals, where
from jaxnet.parity._hooks import CLOSURE, counted, watch_torch
from jaxnet.parity._open_step import OpenStep
from jaxnet.parity._program import Program
from jaxnet.parity._seeded import InitialDraws
from jaxnet.parity._torch import Quiet, tensors_in, torch_of
from jaxnet.parity._trace import TraceError, TraceWriter
from jaxnet.parity._twin import Twins
from jaxnet.parity._wide_optimizer import WideStep

_active: list["Recorder"] = []


@contextmanager
def recording(
    path: str | Path, steps: int = 5, full: Sequence[int] = (0, 1, -1), *, weights: str = "own"
) -> Iterator[Path]:
    """Records what a PyTorch program trains inside the context.

    The program needs no change. It is computed a second time in float64, operation by operation,
    which takes several times its time and memory and changes none of its bits.

    Args:
        path: Folder of the trace, which must not exist or be empty.
        steps: Number of steps to record; what follows them runs unrecorded.
        full: Steps whose activations and their gradients are recorded too; -1 is the last one.
            Of the others the trace has what the step began and ended with.
        weights: "own", or "generic" for a second recording: before the first step all parameters
            and running statistics get random numbers, beside which no mistake hides as it does
            beside a bias of zero. The program then trains something else, from there on.

    Raises:
        ImportError: torch is not installed, or too old.
        FileExistsError: The folder holds something.
        RuntimeError: A recording is open already.
        TraceError: Nothing was trained, or no step was over.
        ValueError: `steps` is less than 1, or `weights` is another word.
    """
    recorder = Recorder(path, steps, full, weights=weights)
    with recorder:
        yield recorder.writer.path
    recorder.require_steps()


class Recorder:
    """A recording; as a context it watches torch, and afterwards torch is as it was.

    Args:
        path: Folder of the trace.
        steps: Number of steps to record.
        full: Steps that are recorded with activations.
        stop: Whether to end the program, by raising `Enough`, once they are recorded.
        about: What trace.json says besides, such as the command.
        weights: "own" or "generic", as in `recording`.
    """

    def __init__(
        self,
        path: str | Path,
        steps: int = 5,
        full: Sequence[int] = (0, 1, -1),
        stop: bool = False,
        about: dict[str, Any] | None = None,
        weights: str = "own",
    ) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps: {steps!r}; accepted is a whole number from 1")
        if weights not in ("own", "generic"):
            raise ValueError(f'weights: {weights!r}; accepted are "own" and "generic"')
        self.torch = torch_of()
        if _active:
            raise RuntimeError(
                f"a recording to {_active[0].writer.path} is open already; close it first, "
                "a program is recorded once at a time"
            )
        self.writer: TraceWriter = TraceWriter(path)
        self.count = steps
        self.full = {each % steps for each in full if -steps <= each < steps}
        self.stop = stop
        self.about: dict[str, Any] = {
            "self_check": {
                "verdict": "not made",
                "words": "the program was recorded where it ran; `jaxnet record` runs it again",
            },
            "weights": weights,
            **(about or {}),
        }
        self.changed: dict[int, Any] = {}  # tensors that have got their generic numbers
        self.twins = Twins()
        self.program = Program(self.torch)
        self.skip = (os.path.dirname(self.torch.__file__) + os.sep, str(contextlib.__file__))
        self.notes: list[str] = []
        self.checks: list[tuple[str, int]] = []
        self.stepped: dict[int, None] = {}  # numbers of optimizers, by their first steps
        self.datasets: dict[int, Any] = {}  # of the batches that steps have used, by their ids
        self.step = OpenStep(self)
        self.initial = InitialDraws(self.torch)
        self.constructions = Constructions(self)
        self.done = False
        self.ignoring = 0  # inside a loader, a validation, or torch's own bookkeeping
        self.backward = 0
        self.optimizing = 0
        self.evaluations = 0  # of the closure that the optimizer was given
        self.makers = {self.torch.tensor, self.torch.as_tensor, self.torch.asarray}
        self.wide: WideStep | None = None  # the optimizer's step that is being run unseen
        self.modes: tuple[Any, ...] = ()  # of torch's, through which what it runs is seen
        self._thread = threading.get_ident()
        self._process = os.getpid()
        self._exits = ExitStack()

    # What torch runs while it is recorded.

    def __enter__(self) -> "Recorder":
        with ExitStack() as exits:
            _active.append(self)
            exits.callback(_active.remove, self)
            exits.callback(self.twins.clear)
            exits.enter_context(watch_torch(self))
            self._exits = exits.pop_all()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._end_wide()
            if not self.done:
                self._finish_if_due(batch=True)
        finally:
            self._exits.close()
            flush(self.writer.path)

    def require_steps(self) -> None:
        """Raises an error that explains why no step was recorded."""
        if self.writer.steps:
            return
        seen = self.step
        if not seen.began:
            why = "no model was called with gradients switched on"
        elif not seen.backwards:
            why = "the program never called backward()"
        else:
            why = (
                "no parameter was updated after backward(): no optimizer stepped, and none was "
                "changed in place (new tensors in place of the parameters are not followed)"
            )
        said = "".join(f" ({note})" for note in self.notes if note.startswith("the program ended"))
        raise TraceError(
            f"{self.writer.path}: nothing was recorded, because {why}{said}. Record the loop that "
            "trains, and at least one whole step of it"
        )

    def watching(self) -> bool:
        """Whether what torch runs now is to be recorded."""
        # Not in a loader's worker, which is a copy of this process, and not in other threads.
        self._end_wide()
        return (
            not self.done and threading.get_ident() == self._thread and os.getpid() == self._process
        )

    def _end_wide(self) -> None:
        """Sees torch again, where the step of an optimizer has raised an error."""
        if self.wide is not None and threading.get_ident() == self._thread:
            self.wide.end(done=False)
            self.wide = None

    @contextmanager
    def ignored(self) -> Iterator[None]:
        # Before the first step the draws count all the same, and within a step what is written.
        modes = self.modes if self.writer.steps and not self.twins.on else ()
        self.ignoring += 1
        try:
            with lifted(*modes):
                yield
        finally:
            self.ignoring -= 1

    def quiet(self) -> Quiet:
        """A context in which torch is used by the recording itself: no mode sees it."""
        return Quiet(self.torch)

    def here(self) -> str:
        return where(self.skip)

    def operation_called(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if self.done or os.getpid() != self._process:
            return func(*args, **kwargs)
        drawn = draws(self.torch, func, args, kwargs)
        result = self.twins(func, args, kwargs, drawn)
        if drawn:
            if not self.writer.steps and not self.step.began:
                found = classify(self.torch, func, args, kwargs, result)
                self.initial.add(found, kwargs.get("generator"))
            if self.repeating:
                self.step.obstacle = CLOSURE
            elif not self.ignoring and not self.backward:
                self.step.draw(func, args, kwargs, result)
        elif self.step.backwards and not self.step.updated:
            self._notice_manual_update(func, args)
        elif (
            self.twins.on
            and not self.step.updated
            and func is self.torch.ops.aten._local_scalar_dense.default
        ):
            self._notice_number(args[0])
        return result

    def _notice_number(self, tensor: Any) -> None:
        # Before backward() a number that Python reads from a tensor can become a part of the
        # loss; as a number of Python's it has no twin.
        quiet = self.ignoring or self.backward or self.optimizing
        if quiet or not tensor.is_floating_point() or tensor.dtype == self.torch.float64:
            return
        note = f"{self.here()}: item() reads a {tensor.dtype} number; what Python computes with "
        note = note.replace("torch.", "") + "it has no float64 of its own"
        self.step.notes[note] = None

    def _notice_manual_update(self, func: Any, args: Any) -> None:
        if self.optimizing or self.backward or self.step.forward.stack:
            return
        if not func._schema.is_mutable:
            return
        targets = args[0] if args and isinstance(args[0], list | tuple) else args[:1]
        for each in targets:
            if isinstance(each, self.torch.Tensor) and self.step.is_parameter(each):
                self.step.before_manual_update(self.here())

    def function_called(self, name: str, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if not self.watching():
            return func(*args, **kwargs)
        if func in self.makers:
            return self._constant(func, args, kwargs)
        if self.ignoring or self.backward or (self.optimizing and not self.evaluations):
            return func(*args, **kwargs)
        if (
            self.repeating
            or self.step.forward.inside_torch()
            or self.torch._C._functorch.maybe_current_level()
        ):
            return func(*args, **kwargs)
        if not self.step.forward.stack and not self._begins(args, kwargs):
            return func(*args, **kwargs)
        return self.step.forward.function(name, func, args, kwargs)

    def _begins(self, args: Any, kwargs: dict[str, Any]) -> bool:
        """Whether a function outside of all modules is a part of a step, which it may begin."""
        smooth = [t for t in tensors_in(self.torch, (*args, *kwargs.values())) if t.requires_grad]
        if not smooth or not self.torch.is_grad_enabled():
            return False
        if not self.step.began or self.step.is_due(self.optimizers()):
            # A sum of the losses so far, or a state that is carried on, begins nothing.
            leaves = [t for t in smooth if t.is_leaf]
            if not leaves:
                return False
            self._finish_if_due(batch=False)
            if not self.done:
                self.program.adopt(iter(leaves), caller(self.skip))
                self.step.begin()
        return not self.done

    def _constant(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        result = func(*args, **kwargs)
        data = args[0] if args else kwargs.get("data")
        if self.twins.on and isinstance(data, float | list | tuple) and result.dim() < 3:
            with self.quiet():
                if result.dtype == self.torch.float32:
                    wide = self.torch.tensor(data, dtype=self.torch.float64)
                    self.twins.put(result, wide)
        return result

    def module_called(self, original: Any, module: Any, *args: Any, **kwargs: Any) -> Any:
        quiet = self.ignoring or self.backward or self.repeating
        if quiet or self.program.transparent(module, self.notes):
            return original(module, *args, **kwargs)
        if not self.step.forward.stack and not self.optimizing:
            if not self.torch.is_grad_enabled():
                if not self.step.began or self.step.is_due(self.optimizers()):
                    self.program.touched.update(id(p) for p in module.parameters())
                    with self.ignored():
                        return original(module, *args, **kwargs)
            else:
                self._finish_if_due(batch=False)
        if self.done:
            return original(module, *args, **kwargs)
        frame = None if self.step.forward.stack else caller(self.skip)
        root = self.program.root_of(module, frame, bool(self.step.forward.stack))
        if self.torch.is_grad_enabled():
            if module.training and not self.step.forward.stack and root is not None:
                self.step.drop_trials()
            if root is not None:
                self.step.begin()
        return self.step.forward.call(original, module, args, kwargs)

    def backward_called(self, original: Any, tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if self.ignoring or self.backward:
            return original(tensors, *args, **kwargs)
        self.step.begin()
        self.step.loss(tensors, self.repeating)
        self.backward += 1
        try:
            result = original(tensors, *args, **kwargs)
        finally:
            self.backward -= 1
        if not self.repeating:
            self.step.after_backward()
        return result

    def zero_grad_called(self, original: Any, owner: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.repeating:
            self.step.zero_grad(self.optimizers())
        result = original(owner, *args, **kwargs)
        if not self.optimizing:
            self.step.drop_left_over()
        return result

    def before_optimizer(self, optimizer: Any, args: Any, kwargs: Any) -> Any:
        if not self.watching() or self.ignoring:
            return None
        if not self.optimizing:
            self._finish_if_due(batch=False)
            if self.done:
                return None
            self.step.begin()
            self.step.before_optimizer(optimizer)
            self.evaluations = 0
            # The first argument is the optimizer itself.
            args = (*args[:1], *(counted(self, optimizer, each) for each in args[1:]))
            kwargs = {name: counted(self, optimizer, each) for name, each in kwargs.items()}
            self.wide = WideStep.of(self, optimizer, args, kwargs)
        self.optimizing += 1
        return args, kwargs

    @property
    def repeating(self) -> bool:
        """Whether a closure is evaluated once more, with parameters that no trace has."""
        return self.optimizing > 0 and self.evaluations > 1

    def after_optimizer(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        if self.wide is not None and self.wide.optimizer is optimizer:
            self.wide.end()
            self.wide = None
        if self.watching() and not self.ignoring and self.optimizing:
            self.optimizing -= 1
            if not self.optimizing:
                self.step.after_optimizer(optimizer)

    def loader_started(self, original: Any, loader: Any) -> Any:
        self.step.drop_left_over(epoch=True)
        with self.ignored():
            return original(loader)

    def batch_taken(self, original: Any, iterator: Any) -> Any:
        if self.repeating:
            self.step.obstacle = CLOSURE
        if self.ignoring or self.repeating:
            return original(iterator)
        self._finish_if_due(batch=True)
        with self.ignored():
            try:
                batch = original(iterator)
            except StopIteration:
                self.step.exhausted(iterator)
                raise
        if not self.done:
            self.step.batch(iterator, batch)
        return batch

    # The end of a step.

    def optimizers(self) -> list[int]:
        """The numbers of the optimizers of the step's parameters that the program still has."""
        if not self.program.looked:
            self.program.looked = True
            for each in living(self.torch.optim.Optimizer):
                self.program.optimizer(each)
        if len(self.program.living()) > 1:
            refresh_locals()
        return [n for n, o in self.program.living() if self.step.concerns(o)]

    def check(self, what: str, value: Any) -> None:
        """Adds a checksum to those that a run without recording is compared with."""
        with self.quiet():
            self.checks.append((what, checksum(self.torch, value)))

    def _finish_if_due(self, batch: bool) -> None:
        if self.optimizing or self.step.forward.stack or self.backward or not self.step.began:
            return
        if not self.step.is_due(self.optimizers(), batch):
            return
        with self.quiet():
            content, arrays, doubles = self.step.finish()
        corrections: dict[str, Any] = {}
        if not self.writer.steps and self.about["weights"] == "own":
            begun = {s: a for s, a in arrays.items() if s.startswith("before:")}
            content["seeded"], corrections = self.initial.of(begun)
        self.writer.write_step(content, arrays, doubles, corrections)
        self.twins.on = False
        self.twins.clear()
        self.writer.write_about(describe(self))
        self.program.step_ended(self.writer.steps == 1)
        self.step = OpenStep(self, after=self.step)
        if self.writer.steps == self.count:
            self.done = True
            if self.stop:
                raise Enough
