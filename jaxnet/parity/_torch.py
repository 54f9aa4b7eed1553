"""PyTorch: imported when it is needed, used unseen, and its tensors as arrays."""

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

_LEAST = (2, 11)
NESTED = (tuple, list)  # `tuple | list` would be made anew for each value


def torch_of(least: tuple[int, int] = _LEAST) -> Any:
    """torch.

    Raises:
        ImportError: It is not installed, or too old.
    """
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise ImportError(
            "recording runs a PyTorch program and torch is not installed here; install it "
            "(pip install torch), or record where it is and copy the trace: "
            "`jaxnet check` needs no torch"
        ) from error
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < least:
        raise ImportError(
            f"recording needs torch {least[0]}.{least[1]} or newer, and this is "
            f"{torch.__version__}; upgrade it (pip install -U torch)"
        )
    return torch


class Quiet:
    """A context in which no mode of torch's sees what is computed, and without gradients."""

    def __init__(self, torch: Any) -> None:
        self._core = core = torch._C
        self._inner = core.DisableTorchFunction(), core._DisableTorchDispatch()

    def __enter__(self) -> None:
        for each in self._inner:
            each.__enter__()
        self._before = self._core.is_grad_enabled()
        self._core._set_grad_enabled(False)

    def __exit__(self, *error: object) -> None:
        self._core._set_grad_enabled(self._before)
        for each in reversed(self._inner):
            each.__exit__(None, None, None)


def tensors_in(torch: Any, values: Any) -> Iterator[Any]:
    """The tensors of nested tuples and lists."""
    tensor = torch.Tensor
    for each in values:
        if isinstance(each, tensor):
            yield each
        elif isinstance(each, NESTED):
            yield from tensors_in(torch, each)


def array_of(torch: Any, tensor: Any, shared: bool = False) -> Any:
    """A copy of a tensor as a NumPy array; one that may share its memory if that is enough."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        bits = tensor.contiguous().view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16).copy()
    return tensor.numpy() if shared else np.array(tensor.numpy())
