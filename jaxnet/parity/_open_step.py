"""A step of a PyTorch program while it is recorded."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxnet.parity._data import Data
from jaxnet.parity._describe import hyperparameters
from jaxnet.parity._draws import classify
from jaxnet.parity._forward import ForwardPass
from jaxnet.parity._functions import caller
from jaxnet.parity._generic import weight
from jaxnet.parity._tensors import Tensors
from jaxnet.parity._trace import Call, Draw, Function
from jaxnet.parity._tree import leaves

# The phases in the order of the computation; those of the forward pass keep their own order.
_ORDER = ("batch", "draw", "before", "buffer_before", "state_before", "forward", "loss", "grad")
_LAST = ("param_grad", "clipped", "update", "state", "buffer")
# An optimizer that has stepped so often within one step waits for no other.
_PATIENCE = 10


class OpenStep:
    """What is recorded of the step that is being run.

    Attributes:
        began: Whether a forward pass that can be differentiated has begun.
        backwards: The number of backward() so far.
        forward: The calls so far.
        manual: Where a parameter was changed without an optimizer.
        obstacle: Why no other program can be given what this step was given; "" if one can.
        notes: What trace.json says of the step if it is recorded, which a validation is not.
    """

    def __init__(self, recorder: Any, after: "OpenStep | None" = None) -> None:
        self.recorder = recorder
        self.torch = recorder.torch
        self.tensors = Tensors(recorder)
        self.full = recorder.writer.steps in recorder.full
        self.data: Data = Data(self.tensors, None if after is None else after.data)
        self._restart()
        if after is not None:
            self.tensors.origins.update(after.data.late_origins)
            self.events += after._late_events
        self._late_events: list[str] = []

    def _restart(self) -> None:
        self.began = False
        self.backwards = 0
        self.manual = self.obstacle = ""
        self.events: list[str] = []
        self._arrays: dict[str, dict[str, Any]] = {p: {} for p in (*_ORDER, *_LAST)}
        self._losses: list[str] = []
        self._loss_of: list[str] = []  # the site that each loss is
        self.notes: dict[str, None] = {}
        self.forward = ForwardPass(self.data, self._arrays, self.events, self.full)
        self._storages: dict[int, int] = {}
        self._known: list[tuple[str, Any]] = []
        self._addresses: set[int] = set()
        self._stepped: dict[int, int] = {}  # how often each optimizer has, by its number
        self._optimizers: dict[int, Any] = {}  # those, which the program may have dropped since
        self._latest: dict[str, Any] = {}
        self._old: dict[str, tuple[Any, int]] = {}  # gradients of steps before, with versions
        self._new_epoch = False  # since the last backward()

    def _left(self, site: str) -> Any:
        """What the step before left at a site: most of it is what this one begins with."""
        return self.recorder.writer.left.get(self.recorder.program.plain(site))

    def _store(self, phase: str, site: str, value: tuple[Any, Any]) -> None:
        self._arrays[phase][site] = value

    # The beginning.

    def begin(self) -> None:
        """The first forward pass begins; what is there now is the state before the step."""
        recorder = self.recorder
        if not self.began:
            self.began = True
            if not recorder.twins.on:  # or a loader gave the batch
                recorder.twins.clear()
                recorder.twins.on = True
            self.data.begin()
        self._snapshot()

    def _snapshot(self) -> None:
        program = self.recorder.program
        parameters = program.parameters()
        if parameters is not self._known:
            self._known = parameters
            for name, parameter in parameters:
                if id(parameter) not in self._storages:
                    self._generalize(name, parameter)
                    self.recorder.twins.forget(parameter)
                    self._storages[id(parameter)] = self._address(parameter)
                    known = self._left(f"update:{name}")
                    value = self.tensors.copy(parameter, False, known)
                    self._store("before", f"before:{name}", value)
                    self.tensors.note(parameter, f"before:{name}")
            self._addresses = set(self._storages.values())
            for name, buffer in program.buffers():
                site = f"buffer_before:{name}"
                if site not in self._arrays["buffer_before"]:
                    self._generalize(name, buffer)
                    self.recorder.twins.forget(buffer)
                    known = self._left(f"buffer:{name}")
                    self._store("buffer_before", site, self.tensors.copy(buffer, False, known))
                    self.tensors.note(buffer, site)

    def _generalize(self, name: str, tensor: Any) -> None:
        """Gives a parameter or buffer its generic numbers, if that was asked for."""
        if self.recorder.about["weights"] == "own" or id(tensor) in self.recorder.changed:
            return
        self.recorder.changed[id(tensor)] = tensor
        # Other buffers, such as masks and tables of positions, belong to the program.
        parameter = tensor.requires_grad or isinstance(tensor, self.torch.nn.Parameter)
        if parameter or name.endswith(("running_mean", "running_var")):
            with self.recorder.quiet():
                array = weight(tensor.detach().double().cpu().numpy(), name)
                tensor.detach().copy_(self.torch.from_numpy(array))

    def _address(self, tensor: Any) -> int:
        return int(tensor.untyped_storage()._cdata)

    def is_parameter(self, tensor: Any) -> bool:
        return self._address(tensor) in self._addresses

    def concerns(self, optimizer: Any) -> bool:
        """Whether an optimizer updates parameters of this step."""
        touched = self.recorder.program.touched  # such as those of a generator in no_grad
        return any(id(p) in self._storages or id(p) in touched for p in _parameters(optimizer))

    def drop_trials(self) -> None:
        """Forgets forward passes in evaluation mode that nobody differentiated.

        A model that is still in that mode is a part of what trains.
        """
        outermost = [c for c in self.forward.calls if c["parent"] is None and c["state"]]
        tried = outermost and not any(c["training"] for c in outermost)
        if (
            tried
            and all(m.training for m in self.forward.models)
            and self.began
            and not self.backwards
            and not self._stepped
        ):
            zeroed = [event for event in self.events if event == "zero_grad"]
            self._restart()
            self.events += zeroed
            self.data.forget_trials()

    # Batches and draws.

    def batch(self, iterator: Any, batch: Any) -> None:
        """The program takes a batch."""
        self.data.add_batch(iterator, batch)
        twins = self.recorder.twins
        trains = not self.recorder.writer.steps or id(iterator._dataset) in self.recorder.datasets
        if not self.began and not twins.on and trains:
            # What the program computes of it before it calls a model is a part of the step.
            twins.clear()
            twins.on = True

    def exhausted(self, iterator: Any) -> None:
        """A loader has no batch any more."""
        if not self.began:
            self.data.forget(iterator)
            if not self.data.batches:
                self.recorder.twins.on = False
                self.recorder.twins.clear()
                self.notes.clear()

    def draw(self, func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> None:
        """The program draws random numbers."""
        late = self.updated and not self.forward.stack and self.is_due(self.recorder.optimizers())
        if not (self.began and not late) and not self.torch.is_grad_enabled():
            return
        found = classify(self.torch, func, args, kwargs, result)
        if found is None:
            return
        kind, arguments, tensor = found
        draw = Draw(kind, arguments, self.recorder.here())
        mark = self.data.add_draw(draw, tensor, late, late or not self.began)
        if not late:
            self.forward.draw(mark)

    # Backward and the update.

    def event(self, name: str) -> None:
        self.events.append(name)

    def zero_grad(self, optimizers: list[int]) -> None:
        """Gradients are set to zero: after the update it is for the next step."""
        due = self.updated and self.is_due(optimizers)
        (self._late_events if due else self.events).append("zero_grad")

    def loss(self, tensors: Any, again: bool) -> None:
        if not self.backwards:
            for name, parameter in self.recorder.program.parameters():
                if parameter.grad is not None:
                    self._old[name] = parameter.grad, parameter.grad._version
        for each in [tensors] if self.tensors.is_tensor(tensors) else tensors:
            if not again:
                site = f"loss:{len(self._losses)}"
                self._losses.append(site)
                self._loss_of.append(self.tensors.site_of(each))
                self._store("loss", site, self.tensors.copy(each))
            self.recorder.check("loss", each)
        if not again:
            self.event("backward")

    def evaluate_again(self, optimizer: Any) -> None:
        """The optimizer evaluates its closure once more; the first time is what is recorded."""
        self._gradients({id(p): p for p in _parameters(optimizer)})
        self.event("evaluation")

    def drop_left_over(self, epoch: bool = False) -> None:
        """Forgets the batches of an epoch whose gradients no update used, and that are zero now.

        Args:
            epoch: Whether a loader begins a new epoch.
        """
        self._new_epoch |= epoch
        if not (self.backwards and self._new_epoch) or self.updated:
            return
        with self.recorder.quiet():
            gradients = [p.grad for _, p in self.recorder.program.parameters()]
            left = any(g is not None and bool(g.any()) for g in gradients)
        if not left:
            zeroed = self.events[len(self.events) - self.events[::-1].index("backward") :]
            self._restart()
            self.events += zeroed
            self.data.forget_used()

    def after_backward(self) -> None:
        self.backwards += 1
        self._new_epoch = False
        for name, parameter in self.recorder.program.parameters():
            if parameter.grad is not None and parameter.grad.layout == self.torch.strided:
                self._latest[name] = self.tensors.copy(parameter.grad)

    def _gradients(self, parameters: Mapping[int, Any], used: bool = True) -> None:
        """Notes the gradients of parameters as they were after backward(), and as they are.

        Args:
            parameters: The parameters by their ids.
            used: Whether an optimizer uses them now, so that they are clipped no more.
        """
        clipped = False
        for name, parameter in self.recorder.program.parameters():
            if id(parameter) not in parameters or name not in self._latest:
                continue
            latest = self._latest.pop(name) if used else self._latest[name]
            self._store("param_grad", f"param_grad:{name}", latest)
            if parameter.grad is None:
                continue
            if not self.tensors.equal(parameter.grad, latest[0]):
                self._store("clipped", f"clipped:{name}", self.tensors.copy(parameter.grad))
                clipped = True
            else:
                self._arrays["clipped"].pop(f"clipped:{name}", None)
        if clipped:
            self.event("clip")

    def before_manual_update(self, where: str) -> None:
        if not self.manual:
            self.manual = where
            self._gradients({id(p): p for _, p in self.recorder.program.parameters()}, used=False)
            self.event("step")

    def before_optimizer(self, optimizer: Any) -> None:
        program = self.recorder.program
        number = program.optimizer(optimizer)
        if self.backwards:  # a closure has not called the model yet
            program.adopt(_parameters(optimizer), caller(self.recorder.skip))
        self._snapshot()
        if number not in self._stepped:
            self._state(optimizer, "state_before", False)
        groups = [hyperparameters(group) for group in optimizer.param_groups]
        program.last_groups[number] = groups
        program.first_groups.setdefault(number, groups)
        self._gradients({id(p): p for p in _parameters(optimizer)})

    def after_optimizer(self, optimizer: Any) -> None:
        self.recorder.program.adopt(_parameters(optimizer), caller(self.recorder.skip))
        # Where a closure called backward() itself, there was no gradient before.
        self._gradients({id(p): p for p in _parameters(optimizer)})
        number = self.recorder.program.optimizer(optimizer)
        self._stepped[number] = self._stepped.get(number, 0) + 1
        self._optimizers[number] = optimizer
        self.recorder.stepped.setdefault(number)
        self.event("step")
        for parameter in _parameters(optimizer):
            self.recorder.check("parameter", parameter)

    def _state(self, optimizer: Any, phase: str, double: bool) -> None:
        for name, parameter in self.recorder.program.parameters():
            for path, leaf in leaves(optimizer.state.get(parameter, {}), f"{phase}:{name}"):
                if self.tensors.is_tensor(leaf):
                    known = None if double else self._left(path.replace(phase, "state", 1))
                    self._store(phase, path, self.tensors.copy(leaf, double, known, last=double))
                elif isinstance(leaf, bool | int | float):
                    self._store(phase, path, (np.asarray(leaf), None))

    @property
    def updated(self) -> bool:
        return bool(self._stepped or self.manual)

    def is_due(self, optimizers: list[int], batch: bool = False) -> bool:
        """Whether the step is over.

        Args:
            optimizers: The numbers of the optimizers of the program.
            batch: Whether the program takes its next batch; it is enough then that one of the
                optimizers has stepped.
        """
        if not self.began:
            return False
        if self._stepped:
            patience = max(self._stepped.values()) >= _PATIENCE
            return batch or patience or all(number in self._stepped for number in optimizers)
        if optimizers or not self.backwards:
            return False
        if not self.manual and any(
            self._storages.get(id(p)) != self._address(p)
            for _, p in self.recorder.program.parameters()
        ):
            self.before_manual_update("?")
        return bool(self.manual)

    # The end.

    def finish(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """What `TraceWriter.write_step` takes."""
        program = self.recorder.program
        self._named: dict[str, str] = {}  # what `_plain` gave
        self.recorder.notes += [each for each in self.notes if each not in self.recorder.notes]
        # A later backward() adds to gradients that an optimizer has used already, such as those
        # of a discriminator in the update of the generator.
        used = self._arrays["param_grad"]
        for name, parameter in program.parameters():
            old, version = self._old.get(name, (None, 0))
            stale = old is not None and parameter.grad is old and old._version == version
            if f"param_grad:{name}" not in used and not stale:
                self._gradients({id(parameter): parameter})
        for name, parameter in program.parameters():
            self._store("update", f"update:{name}", self.tensors.copy(parameter, last=True))
        for optimizer in self._optimizers.values():
            self._state(optimizer, "state", True)
        for name, buffer in program.buffers():
            self._store("buffer", f"buffer:{name}", self.tensors.copy(buffer, last=True))
        marks, given = self.data.numbered(self.forward.given())
        for phase, found in given.items():
            self._arrays[phase].update(found)
        for iterator in (ref() for ref, _, _ in self.data.batches if ref is not None):
            if iterator is not None:
                self.recorder.datasets[id(iterator._dataset)] = iterator._dataset
        arrays: dict[str, Any] = {}
        doubles: dict[str, Any] = {}
        single: dict[str, str] = {}
        for phase in (*_ORDER, *_LAST):
            for site, (array, double) in self._arrays[phase].items():
                plain = self._plain(site, marks)
                if array.dtype == np.complex128:
                    single[plain] = "arrays of complex128 are not stored"
                    continue
                arrays[plain] = array
                if isinstance(double, str):
                    single[plain] = double
                elif double is not None and array.dtype != double.dtype:
                    doubles[plain] = double
        content = {
            "full": self.full,
            "calls": [self._call(each, marks) for each in self.forward.calls],
            "functions": [self._call(each, marks) for each in self.forward.functions],
            "draws": [draw for _, draw, _, _ in self.data.draws],
            "batches": [self._plain(form, marks) for _, _, (form, _) in self.data.batches],
            "losses": self._losses,
            "loss_of": self._plain(self._loss_of, marks),
            "origins": {
                self._plain(call, marks): self._plain(sites, marks)
                for call, sites in self.forward.origins.items()
            },
            "groups": [program.last_groups[number] for number in self.recorder.stepped],
            "events": self.events,
            "again": [self._plain(name, marks) for name in self._updated_again()],
            "obstacle": self.obstacle,
            "single": single,
        }
        return content, arrays, doubles

    def _updated_again(self) -> list[str]:
        """The parameters that were updated several times in the step."""
        many = {
            id(p)
            for n, o in self._optimizers.items()
            if self._stepped[n] > 1
            for p in _parameters(o)
        }
        if self.manual and self._stepped:
            many = {id(p) for _, p in self.recorder.program.parameters()}
        return [name for name, p in self.recorder.program.parameters() if id(p) in many]

    def _plain(self, value: Any, marks: Mapping[str, str]) -> Any:
        if isinstance(value, str):
            if "⟨" not in value:
                return value
            found = self._named.get(value)
            if found is None:
                found = self._named[value] = self._in_words(value, marks)
            return found
        if isinstance(value, dict):
            return {k: self._plain(v, marks) for k, v in value.items()}
        if isinstance(value, list):
            return [self._plain(each, marks) for each in value]
        return value

    def _in_words(self, text: str, marks: Mapping[str, str]) -> str:
        for kind in ("⟨b", "⟨d"):
            while (start := text.find(kind)) >= 0:
                end = text.index("⟩", start) + 1
                text = text[:start] + marks[text[start:end]] + text[end:]
        return str(self.recorder.program.plain(text))

    def _call(self, record: dict[str, Any], marks: Mapping[str, str]) -> Call | Function:
        draws = tuple(int(marks[mark]) for mark in record["draws"] if mark in marks)
        cls = Call if "module" in record else Function
        fields = {k: v for k, v in record.items() if k not in ("builtin", "state", "draws")}
        return cls(**self._plain(fields, marks), draws=draws)


def _parameters(optimizer: Any) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]
