"""The tensors of a step that is recorded: their arrays, and the sites that they are."""

import weakref
from typing import Any

import numpy as np

from jaxnet.parity._stored import same_bits
from jaxnet.parity._torch import array_of


class Tensors:
    """The tensors of a step.

    Args:
        recorder: The recording.

    Attributes:
        origins: For each tensor, by its id: a weak reference, its version and its site.
    """

    def __init__(self, recorder: Any) -> None:
        self.recorder, self.torch = recorder, recorder.torch
        self.origins: dict[int, tuple[Any, int, str]] = {}
        self._wrapped = self.torch._C._functorch.is_functorch_wrapped_tensor

    def copy(
        self,
        tensor: Any,
        double: bool = True,
        known: np.ndarray | None = None,
        last: bool = False,
    ) -> tuple[Any, Any]:
        """An array, and its float64 value (None where it has none) or why it is missing.

        Args:
            tensor: The tensor.
            double: Whether the float64 value is wanted.
            known: An array that the tensor had: it is the result where it has the same bits.
            last: Whether the step is over, so that nothing changes the float64 value, which is
                then no copy.
        """
        with self.recorder.quiet():
            array = None if known is None else self._unchanged(tensor, known)
            if array is None:
                array = array_of(self.torch, tensor)
            if not double or not (tensor.is_floating_point() or tensor.is_complex()):
                return array, None
            try:
                twin = self.recorder.twins.twin(tensor)
            except LookupError as reason:
                return array, str(reason)
            return array, array_of(self.torch, twin, shared=last)

    def _unchanged(self, tensor: Any, known: np.ndarray) -> np.ndarray | None:
        """An array, if a tensor has its bits; None if not, or if that is not known."""
        tensor = tensor.detach()
        # Elsewhere, and of bfloat16, the bits are not to be had without a copy.
        plain = tensor.is_cpu and tensor.layout == self.torch.strided and known.dtype.kind != "V"
        if not plain or tensor.is_conj() or tensor.is_neg():
            return None
        return known if same_bits(tensor.numpy(), known) else None

    def equal(self, tensor: Any, array: np.ndarray) -> bool:
        """Whether a tensor has the numbers of an array that `copy` gave, nan among them."""
        with self.recorder.quiet():
            plain = tensor.is_cpu and tensor.layout == self.torch.strided
            if plain and array.dtype.kind == "f":
                other = self.torch.from_numpy(array)
                if tensor.dtype == other.dtype and self.torch.equal(tensor, other):
                    return True
            given = array_of(self.torch, tensor)
            return np.array_equal(given, array, equal_nan=array.dtype.kind == "f")

    def note(self, tensor: Any, site: str) -> None:
        """Notes which site a tensor is, for the functions that it becomes an argument of."""
        try:
            self.origins[id(tensor)] = weakref.ref(tensor), tensor._version, site
        except RuntimeError:  # tensors of inference mode have no version
            return

    def site_of(self, tensor: Any) -> str:
        """The site that a tensor is, unchanged; "" for none."""
        known = self.origins.get(id(tensor))
        if known is None or known[0]() is not tensor or known[1] != tensor._version:
            return ""
        return known[2]

    def is_tensor(self, value: Any) -> bool:
        """Whether a value is a tensor that has an array."""
        if not isinstance(value, self.torch.Tensor) or self._wrapped(value):
            return False
        return not (value.is_meta or value.is_nested or value.is_quantized)
