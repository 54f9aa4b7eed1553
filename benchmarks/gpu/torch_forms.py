"""PyTorch's ways of training a workload. Imports torch: use it inside functions.

eager: the usual loop. channels_last: the same with images in that memory format.
compile: `torch.compile(model)`, images channels_last. graph: a whole step (gather, forward,
backward, optimizer) captured in a CUDA graph by hand, which is what leaves PyTorch the least to
do on the host; "graph of channels_last" and "graph of compile" capture the other two.

In all forms no step waits for the device, and one number is read when an epoch is done.
"""

import copy
import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks import torch_models
from benchmarks.gpu.workloads import Precision, Workload

__all__ = ["Forms", "GraphTrainer", "Trainer", "give_back", "precision_of"]

_MATMUL = {"float32": "highest", "tf32": "high", "bfloat16": "high"}
_WARM = 3  # steps before a capture, as torch's documentation asks for


@contextmanager
def precision_of(precision: Precision) -> Iterator[None]:
    """torch's settings for one precision, and its search for the fastest convolutions.

    The autocast of bfloat16 is the Trainer's, as it belongs around the forward pass only.
    """
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision(_MATMUL[precision])
    cudnn.allow_tf32 = precision != "float32"
    cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


class Trainer:
    """One form: its model, its optimizer, and its rows on the device."""

    def __init__(
        self,
        forms: "Forms",
        model: torch.nn.Module,
        called: Callable[[Any], Any],
        channels_last: bool,
    ) -> None:
        self.work, self.model, self.called = forms.work, model, called
        self.inputs = forms.channels_last_inputs if channels_last else forms.inputs
        self.targets, self.order = forms.targets, forms.order
        self.device, self.precision = forms.device, forms.precision
        self.start = forms.start
        self.optimizer = self._new_optimizer()

    def _new_optimizer(self) -> torch.optim.Optimizer:
        parameters = self.model.parameters()
        if self.work.optimizer == "SGD":
            return torch.optim.SGD(parameters, lr=1e-3)
        on_card = self.device == "cuda"
        return torch.optim.AdamW(
            parameters, lr=3e-4, weight_decay=0.1, fused=on_card, capturable=on_card
        )

    def step(self, picked: torch.Tensor) -> torch.Tensor:
        """A training step on the rows that are picked; the loss before the update."""
        inputs, targets = self.inputs[picked], self.targets[picked]
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bfloat16"):
            outputs = self.called(inputs)
            if self.work.tokens:
                outputs, targets = outputs.flatten(0, 1), targets.flatten()
            loss = F.cross_entropy(outputs, targets)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss

    def run(self) -> float:
        """An epoch; the last loss, which waits for it."""
        for picked in self.order:
            loss = self.step(picked)
        return loss.item()

    def losses(self) -> np.ndarray:
        """Those of an epoch from the initial weights on, one a step."""
        self.reset()
        found = [self.step(picked).detach().clone() for picked in self.order]
        return torch.stack(found).cpu().numpy()

    def reset(self) -> None:
        """The initial weights and a fresh optimizer's state, in the same memory."""
        self.model.load_state_dict(self.start)
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()


class GraphTrainer(Trainer):
    """The same, its step a CUDA graph that is replayed."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.picked = self.order[0].clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM):
                super().step(self.picked)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        # jax's threads may call CUDA meanwhile; only this one's calls belong to the graph.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            # Without its past, which would keep nodes that belong to the graph's stream.
            self.loss = super().step(self.picked).detach()

    def step(self, picked: torch.Tensor) -> torch.Tensor:
        """Replays the captured step on other rows."""
        self.picked.copy_(picked)
        self.graph.replay()
        return self.loss


class Forms:
    """All forms of one workload in one precision, from the same weights and rows.

    Args:
        work: what is trained.
        precision: open `precision_of` it around every use.
        weights: jaxnet's state_dict.
        arrays: inputs, targets and order, as `workloads.rows` gives them.
        device: "cuda" or "cpu".
    """

    def __init__(
        self,
        work: Workload,
        precision: Precision,
        weights: Mapping[str, np.ndarray],
        arrays: tuple[np.ndarray, np.ndarray, np.ndarray],
        device: str,
    ) -> None:
        self.work, self.precision, self.device = work, precision, device
        # Shapes that were seen in an earlier workload would make this one's dynamic.
        torch._dynamo.reset()
        inputs, targets, order = arrays
        self.inputs = torch.tensor(inputs, device=device)
        self.channels_last_inputs = self.inputs
        if self.inputs.ndim == 4:
            self.channels_last_inputs = self.inputs.contiguous(memory_format=torch.channels_last)
        self.targets = torch.tensor(targets, device=device).long()
        self.order = list(torch.tensor(order, device=device).long().split(work.batch))
        self._model = work.theirs(torch_models)
        # torch.tensor copies: what JAX keeps cannot be shared with who might write to it.
        self.start = {name: torch.tensor(a, device=device) for name, a in weights.items()}
        self._model.load_state_dict(self.start)
        self._compiled: tuple[torch.nn.Module, Any] | None = None

    def make(self, form: str) -> Trainer:
        """One of them, ready for its first step (a graph: captured)."""
        graph = form.startswith("graph")
        plain = form.removeprefix("graph").removeprefix(" of ") or "eager"
        kind = GraphTrainer if graph else Trainer
        if plain == "compile":
            if self._compiled is None:
                model = self._copy(channels_last=True)
                self._compiled = model, torch.compile(model)
            return kind(self, *self._compiled, True)
        if plain not in ("eager", "channels_last"):
            raise ValueError(f"form: {form!r} is none of PyTorch's forms")
        model = self._copy(channels_last=plain == "channels_last")
        return kind(self, model, model, plain == "channels_last")

    def _copy(self, channels_last: bool) -> torch.nn.Module:
        model = copy.deepcopy(self._model).to(self.device).train()
        if channels_last and len(self.work.shape) == 3:
            model = model.to(memory_format=torch.channels_last)
        return model


def give_back() -> None:
    """Forgets what was compiled and gives the card's memory back; all forms must be gone."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
