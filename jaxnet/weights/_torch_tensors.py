"""The tensors of a torch file as numpy arrays: their storages, and views into the storages."""

import math
from typing import Any, Never

import numpy as np

from jaxnet._arrays import DTYPES
from jaxnet.weights._errors import FileError
from jaxnet.weights._torch_types import STORAGES, Global, kind
from jaxnet.weights._torch_unpickler import PLAIN_GLOBALS

_UNTYPED = "torch.storage.UntypedStorage"
_MOST_AXES = 64  # numpy's limit


class Tensors:
    """The storages and tensors of one file; tensors of one storage are views of one array.

    Args:
        swap: Whether the byte order of the file differs from this machine's.
        copy_bytes: The number of bytes that may be copied, for conjugate and negative views.
    """

    def __init__(self, swap: bool, copy_bytes: int) -> None:
        self._swap = swap
        self._copy_bytes = copy_bytes
        # By the id of the array that represents a storage: the array and its raw bytes. The
        # arrays are kept alive here, so that no id is used again.
        self._storages: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        # By the id of raw bytes: the bytes with the width of their numbers, those that are
        # bools, and the copies that `finish` fills. In the older format the content of the
        # storages is read last, so nothing may look at it before `finish`.
        self._widths: dict[int, tuple[np.ndarray, int]] = {}
        self._truths: dict[int, np.ndarray] = {}
        self._late: list[tuple[np.ndarray, np.ndarray, Any]] = []

    def known(self) -> dict[str, Global | np.dtype]:
        """Every name that a file may give, with the function or dtype that it means."""
        table = dict(PLAIN_GLOBALS)
        table |= {f"torch.{name}": dtype for name, dtype in DTYPES.items()}
        for name, dtype in STORAGES.items():
            for module in ("torch", "torch.cuda"):  # the latter until torch 1.9
                table[f"{module}.{name}"] = Global(f"{module}.{name}", dtype=dtype)
        table[_UNTYPED] = Global(_UNTYPED, dtype=np.dtype(np.uint8))
        for name in ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"):
            table[name] = Global(name)
        builders = {
            "torch._utils._rebuild_tensor": self._rebuild_v2,
            "torch._utils._rebuild_tensor_v2": self._rebuild_v2,
            "torch._utils._rebuild_tensor_v3": self._rebuild_v3,
            "torch._utils._rebuild_parameter": self._rebuild_parameter,
            "torch._utils._rebuild_parameter_with_state": self._rebuild_parameter,
            "torch._tensor._rebuild_from_type_v2": self._rebuild_from_type,
        }
        return table | {name: Global(name, call) for name, call in builders.items()}

    def storage(self, raw: np.ndarray, of: Global, numel: int, start: int = 0) -> np.ndarray:
        """The array that represents a storage.

        Args:
            raw: The bytes of the storage, uint8.
            of: The class of the storage, which has the dtype.
            numel: The number of elements.
            start: The first byte of `raw` that belongs to the array.

        Raises:
            FileError: `raw` has fewer bytes.
        """
        if of.dtype is None:
            raise FileError(f"it has a storage of kind {of.name}")
        end = start + numel * of.dtype.itemsize
        if not 0 <= start <= end <= raw.nbytes:
            raise FileError(
                f"it has {raw.nbytes} bytes for a storage of {numel} {of.dtype.name} numbers"
            )
        array = raw[start:end].view(of.dtype)
        self._storages[id(array)] = array, raw
        if of.name != _UNTYPED:
            self._note(raw, of.dtype)
        return array

    def _note(self, raw: np.ndarray, dtype: np.dtype) -> None:
        width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
        if self._widths.setdefault(id(raw), (raw, width))[1] != width and self._swap:
            raise FileError("one storage has numbers of several widths, in foreign byte order")
        if dtype == np.bool_:
            self._truths[id(raw)] = raw

    def finish(self) -> None:
        """Swaps bytes, checks bools and fills copies, once the storages' content is read."""
        for raw, width in self._widths.values():
            if self._swap and width > 1:
                raw[: raw.size - raw.size % width].view(f"u{width}").byteswap(inplace=True)
        for raw in self._truths.values():
            if raw.size and raw.max() > 1:
                raise FileError("a bool tensor holds bytes other than 0 and 1")
        for target, view, change in self._late:
            change(view, out=target)

    # what the names call

    def _rebuild_v2(self, arguments: tuple[Any, ...]) -> np.ndarray:
        # storage, offset, size, stride[, requires_grad, hooks[, metadata]]
        if len(arguments) not in (4, 6, 7):
            _refuse("a tensor", arguments)
        return self._view(arguments[:4], None, arguments[6:])

    def _rebuild_v3(self, arguments: tuple[Any, ...]) -> np.ndarray:
        # storage, offset, size, stride, requires_grad, hooks, dtype[, metadata]
        if len(arguments) not in (7, 8) or not isinstance(arguments[6], np.dtype):
            _refuse("a tensor", arguments)
        return self._view(arguments[:4], arguments[6], arguments[7:])

    def _rebuild_parameter(self, arguments: tuple[Any, ...]) -> np.ndarray:
        # data, requires_grad, hooks[, state]
        if len(arguments) not in (3, 4) or not isinstance(arguments[0], np.ndarray):
            _refuse("a parameter", arguments)
        return arguments[0]

    def _rebuild_from_type(self, arguments: tuple[Any, ...]) -> np.ndarray:
        # function, type, its arguments, the attributes (which numpy arrays cannot keep)
        match arguments:
            case (Global(call=call), Global(), tuple(inner), _) if call in (
                self._rebuild_v2,
                self._rebuild_v3,
                self._rebuild_parameter,
            ):
                return call(inner)
        _refuse("a tensor", arguments)

    def _view(
        self, location: tuple[Any, ...], dtype: np.dtype | None, metadata: tuple[Any, ...]
    ) -> np.ndarray:
        storage, offset, size, stride = location
        if id(storage) not in self._storages:
            raise FileError(f"it has a tensor over {kind(storage)}, which is no storage")
        _, raw = self._storages[id(storage)]
        if dtype is None:
            dtype = storage.dtype
        else:
            self._note(raw, dtype)
        size, stride = _integers(size, "size"), _integers(stride, "stride")
        (offset,) = _integers((offset,), "offset")
        if len(size) != len(stride) or len(size) > _MOST_AXES:
            raise FileError(
                f"it has a tensor of {len(size)} axes with {len(stride)} strides; both are to be "
                f"as many, and at most {_MOST_AXES}"
            )
        items = math.prod(size)
        if math.prod(n for n in size if n) * dtype.itemsize >= 2**63:
            raise FileError("it has a tensor of more than 2**63 bytes")
        if items == 0:
            return np.empty(size, dtype)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        most = storage.nbytes // dtype.itemsize
        if last >= most:
            raise FileError(f"it has a tensor that reaches element {last} of a storage with {most}")
        steps = [step if n > 1 else 1 for n, step in zip(size, stride, strict=True)]
        view = np.ndarray(
            size, dtype, storage, offset * dtype.itemsize, [s * dtype.itemsize for s in steps]
        )
        return self._changed(view, metadata[0]) if metadata and metadata[0] else view

    def _changed(self, view: np.ndarray, metadata: Any) -> np.ndarray:
        """A conjugate or negative view, which numpy does not have: a copy that `finish` fills."""
        flags = metadata if type(metadata) is dict else {None: None}
        if any(key not in ("conj", "neg") or type(on) is not bool for key, on in flags.items()):
            raise FileError("it has a tensor with properties other than conj and neg")
        accepted = {"c": ("conj", "neg"), "f": ("neg",)}.get(view.dtype.kind, ())
        if any(on and key not in accepted for key, on in flags.items()):
            raise FileError(f"it has a conjugate or negative tensor of {view.dtype.name}")
        self._copy_bytes -= view.nbytes
        if self._copy_bytes < 0:
            raise FileError("its tensors unfold into far more than its size")
        for key, change in (("conj", np.conjugate), ("neg", np.negative)):
            if flags.get(key):
                target = np.empty(view.shape, view.dtype)
                self._late.append((target, view, change))
                view = target
        return view


def _integers(values: Any, what: str) -> tuple[int, ...]:
    if type(values) is not tuple or any(type(n) is not int or not 0 <= n < 2**63 for n in values):
        raise FileError(f"it has a tensor whose {what} is not made of counts")
    return values


def _refuse(what: str, arguments: tuple[Any, ...]) -> Never:
    given = ", ".join(kind(argument) for argument in arguments[:8])
    raise FileError(f"its pickle builds {what} from ({given}), which is not accepted")
