"""Steps of torch's own optimizers in float64, at once instead of operation by operation.

An update is a hundred small operations, and to see each of them takes several times as long as to
compute it. What torch's own optimizers do is known: the program's step runs unseen, and the same
function then updates the twins.
"""

import contextlib
from collections.abc import Mapping
from typing import Any

from jaxnet.parity._functions import lifted

# Those whose steps, of Python's numbers and of tensors, give in float64 what each of their
# operations gives by itself; a test compares them.
KINDS = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "RAdam")


class WideStep:
    """One step of an optimizer, from its beginning to its end.

    Args:
        recorder: The recording.
        optimizer: The optimizer.
        twins: The twins of parameters, gradients and states before the step.
    """

    def __init__(self, recorder: Any, optimizer: Any, twins: Mapping[int, Any]) -> None:
        self.recorder, self.optimizer = recorder, optimizer
        self._twins = twins
        # By the ids of the parameters, since the step may add to them.
        self._before = {
            id(p): {**optimizer.state.get(p, {})}
            for group in optimizer.param_groups
            for p in group["params"]
        }
        self._modes = contextlib.ExitStack()
        self._modes.enter_context(lifted(*reversed(recorder.modes)))

    @classmethod
    def of(cls, recorder: Any, optimizer: Any, args: Any, kwargs: Any) -> "WideStep | None":
        """The step that an optimizer begins; None for one that has to be seen."""
        torch, twins = recorder.torch, recorder.twins
        kind = type(optimizer)
        own = kind.__name__ in KINDS and kind is getattr(torch.optim, kind.__name__, None)
        hooks = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
        if not own or not twins.on or len(args) > 1 or kwargs or hooks or recorder.backward:
            return None
        if not hasattr(kind.step, "__wrapped__"):
            return None
        found: dict[int, Any] = {}
        with recorder.quiet():
            try:
                for group in optimizer.param_groups:
                    if not _is_plain(torch, twins, group):
                        return None
                    for p in group["params"]:
                        state = optimizer.state.get(p, {})
                        grads = () if p.grad is None else (p.grad,)
                        for each in (p, *grads, *filter(torch.is_tensor, state.values())):
                            if each.dtype != torch.float32 or each.layout != torch.strided:
                                return None
                            found[id(each)] = twins.twin(each)
            except LookupError:
                return None
        return cls(recorder, optimizer, found)

    def end(self, done: bool = True) -> None:
        """The program's step is over.

        Args:
            done: Whether it came to its end.
        """
        self._modes.close()
        if not done:
            return
        twins = self.recorder.twins
        with self.recorder.quiet():
            try:
                self._update()
            except Exception as reason:  # whatever it is, the program itself goes on
                words = str(reason) or repr(reason)
                for group in self.optimizer.param_groups:
                    for p in group["params"]:
                        states = self.optimizer.state.get(p, {}).values()
                        for each in (p, *filter(self.recorder.torch.is_tensor, states)):
                            twins.lose(each, words)

    def _update(self) -> None:
        """Makes the same step with the twins."""
        torch, optimizer = self.recorder.torch, self.optimizer
        wide = object.__new__(type(optimizer))
        wide.__dict__.update(optimizer.__dict__)
        pairs = []
        groups = []
        states: dict[Any, dict[str, Any]] = type(optimizer.state)(dict)
        for group in optimizer.param_groups:
            params = []
            for p in group["params"]:
                own = self._twins[id(p)].detach()
                own.grad = None if p.grad is None else self._twins[id(p.grad)]
                before = self._before.get(id(p), {})
                states[own] = {
                    key: self._twins[id(value)] if torch.is_tensor(value) else value
                    for key, value in before.items()
                }
                params.append(own)
                pairs.append((p, own))
            groups.append({**group, "params": params})
        wide.param_groups, wide.state = groups, states
        type(optimizer).step.__wrapped__(wide)
        given = {id(each) for each in self._twins.values()}
        for p, own in pairs:
            for key, value in optimizer.state.get(p, {}).items():
                if torch.is_tensor(value) and id(made := states[own][key]) not in given:
                    self.recorder.twins.put(value, made.to(torch.float64))


def _is_plain(torch: Any, twins: Any, group: Mapping[str, Any]) -> bool:
    """Whether nothing of a group but its parameters is a tensor, or was one."""
    special = ("differentiable", "capturable", "fused")
    numbers = [v for k, v in group.items() if k != "params"]
    numbers = [x for v in numbers for x in (v if isinstance(v, tuple | list) else (v,))]
    plain = not any(torch.is_tensor(x) or twins.is_item(x) for x in numbers)
    return plain and not any(group.get(name) for name in special)
