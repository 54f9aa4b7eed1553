"""Float64 twins: an unmodified PyTorch program computes every step a second time, in float64.

A `TorchDispatchMode` sees each of torch's operations, forward, backward and in the optimizer, and
executes it again on twins of its tensors. Twins belong to storages and not to tensors, so that
what shares memory in the program (views, in-place results, a parameter and its `.data`) shares it
in float64 too. A tensor without a twin is converted when it is first needed; random results are
converted and never drawn again.

Integers and booleans get a twin where float64 decides otherwise than float32, as the index of a
maximum or the mask of a comparison; what Python decides (`if`, `.item()`) is the program's.
"""

import dataclasses
import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxnet.parity._torch import NESTED, tensors_in
from jaxnet.parity._wide_kernels import kernels
from jaxnet.parity._wide_lstm import WideLstm

# Their results are undefined until something is written into them.
_EMPTY = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
# Made from Python's numbers, which have more digits than float32 keeps.
_FACTORIES = {"full", "arange", "linspace", "logspace", "scalar_tensor"}
# Of integers these give the same numbers in float32 as in float64.
_EXACT = {"zeros_like", "ones_like", "new_zeros", "new_ones"}
# These change which memory a tensor has, and twins follow the memory.
_POINTERS = {"set_", "set_data", "resize_", "resize_as_"}
# What these write is not in their schemas: the running mean and variance.
_HIDDEN_WRITES = {
    "native_batch_norm": (3, 4),
    "cudnn_batch_norm": (3, 4),
    "miopen_batch_norm": (3, 4),
    "batch_norm_update_stats": (1, 2),
}
# Operations that draw and compute with what they drew, which they also return.
_DRAWING_LAYERS = {"native_dropout", "rrelu_with_noise", "rrelu_with_noise_"}


# After so many results in float64, or so many bytes of them, what is in use no more is dropped.
_SWEEP, _BYTES = 256, 2**22


class _LostError(Exception):
    """An operation on twins is not possible; the text says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Operation:
    """What is to be known of one of torch's operations.

    Attributes:
        name: Its name, "convolution".
        alone: Whether it is executed for the program alone.
        writes: The numbers and names of the arguments that it writes to.
    """

    name: str
    alone: bool
    writes: tuple[tuple[int, str], ...]


class Twins:
    """The twins of a program's tensors.

    Attributes:
        on: Whether operations are executed on twins as well.
    """

    def __init__(self) -> None:
        torch: Any = importlib.import_module("torch")
        self.torch = torch
        self._tensor = torch.Tensor
        self.on = False
        self._wide = {
            torch.float32: torch.float64,
            torch.float16: torch.float64,
            torch.bfloat16: torch.float64,
            torch.complex64: torch.complex128,
        }
        # By the address of a storage: a weak reference to it, which keeps the address from being
        # used again, and a flat tensor; or, in place of that, why there is none.
        self._twins: dict[int, tuple[int, Any]] = {}
        self._operations: dict[Any, _Operation] = {}
        self._items: dict[float, float] = {}
        self._sweep_at = _SWEEP
        self._bytes = 0  # of the twins that were made since those in use no more were dropped
        self._lstm = WideLstm(torch)
        self._special = kernels(torch, self._lstm)

    def clear(self) -> None:
        """Drops all twins: the float64 computation goes on from the program's own numbers."""
        for weak, _ in self._twins.values():
            self.torch.UntypedStorage._free_weak_ref(weak)
        self._twins.clear()
        self._items.clear()
        self._lstm.clear()
        self._sweep_at, self._bytes = _SWEEP, 0

    def forget(self, tensor: Any) -> None:
        """Drops the twin of a tensor: its float64 is its own numbers from now on."""
        found = self._twins.pop(self._key(tensor), None)
        if found is not None:
            self.torch.UntypedStorage._free_weak_ref(found[0])

    def __call__(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any], drawn: bool) -> Any:
        """The result of an operation, which is executed on the twins too, unless it draws."""
        if not self.on:
            return func(*args, **kwargs)
        about = self._operations.get(func) or self._operation(func)
        if about.alone:
            return func(*args, **kwargs)
        name = about.name
        if name in _EMPTY:
            result = func(*args, **kwargs)
            for each in tensors_in(self.torch, [result]):
                self.forget(each)
            return result
        targets = [args[i] if i < len(args) else kwargs.get(n) for i, n in about.writes]
        written = [*tensors_in(self.torch, targets)] if targets else targets
        if drawn:
            return self._random(func, name, args, kwargs, written)
        given: dict[int, int] = {}  # the addresses of the arguments, by their ids
        twinned = self._look(args, given)
        if kwargs:
            twinned = self._look(kwargs.values(), given) or twinned
        if not twinned:
            result = func(*args, **kwargs)
            if name in _FACTORIES:
                self._factory(func, args, kwargs, result)
            elif given and name not in _EXACT and isinstance(result, self._tensor):
                self._of_integers(func, args, kwargs, result)
            return result
        addresses = {*given.values()}
        known = {given[id(t)] for t in written}
        lost = ""
        try:
            wide_args = [self._convert(each, given, known) for each in args]
            wide_kwargs = {k: self._convert(v, given, known) for k, v in kwargs.items()}
        except Exception as reason:
            lost = str(reason)
        result = func(*args, **kwargs)
        if name == "_local_scalar_dense":
            if not lost:
                self._note_item(result, wide_args[0])
            return result
        results = [*tensors_in(self.torch, (result,))]
        outputs = [(t, k) for t in results if (k := self._key(t)) not in addresses]
        try:
            if lost:
                raise _LostError(lost)
            wide = self._execute(func, name, wide_args, wide_kwargs)
            if outputs:
                self._pair(name, results, wide, addresses)
        except Exception as reason:  # whatever it is, the program itself goes on
            for each in (*(t for t, _ in outputs), *written):
                self._lose(each, str(reason) or repr(reason))
        return result

    def _pair(self, name: str, results: list[Any], wide: Any, addresses: set[int]) -> None:
        """Sets the twins of an operation's results.

        Args:
            name: The name of the operation.
            results: Its results.
            wide: Those in float64.
            addresses: The addresses of its arguments; a result that is one of them was written to.
        """
        pairs = [*tensors_in(self.torch, (wide,))]
        if name in self._special:  # without gradients it keeps nothing for the way back
            pairs = pairs[: len(results)]
        if len(results) != len(pairs):
            raise _LostError(f"{name} gives another number of results in float64")
        # Two results are never one in memory where the program's own are two.
        taken = set(addresses)
        for key in addresses & self._twins.keys():
            flat = self._twins[key][1]
            taken.add(0 if isinstance(flat, str) else self._key(flat))
        for real, twin in zip(results, pairs, strict=True):
            if self._key(real) not in addresses:
                own = self._key(twin)
                self._set(real, twin.clone() if own in taken else twin, name)
                taken.add(own)

    def _look(self, values: Iterable[Any], given: dict[int, int]) -> bool:
        """Notes the addresses of tensors; whether one of them has or needs a twin."""
        found = False
        for each in values:
            if isinstance(each, self._tensor):
                key = given[id(each)] = self._key(each)
                found = found or each.dtype in self._wide or key in self._twins
            elif isinstance(each, NESTED):
                found = self._look(each, given) or found
        return found

    def twin(self, tensor: Any) -> Any:
        """The float64 twin of a tensor; the tensor itself where it has none and needs none.

        Raises:
            LookupError: The tensor was computed by something that has no float64; the text says
                by what.
        """
        try:
            return self._twin(tensor, False, self._key(tensor))
        except _LostError as reason:
            raise LookupError(str(reason)) from None

    def put(self, tensor: Any, wide: Any) -> None:
        """Sets the twin of a tensor that was made out of sight."""
        if self.on and tensor.dtype in self._wide:
            self._set(tensor, wide, "tensor")

    def lose(self, tensor: Any, reason: str) -> None:
        """Notes why a tensor has no float64."""
        self._lose(tensor, reason)

    def is_item(self, value: Any) -> bool:
        """Whether a number of Python's was read from a tensor, and has a float64 of its own."""
        return type(value) is float and value in self._items

    def _operation(self, func: Any) -> _Operation:
        name = func.overloadpacket.__name__
        arguments = func._schema.arguments
        found = self._operations[func] = _Operation(
            name,
            func.is_view or name in _POINTERS or func.namespace == "profiler",
            tuple(
                (len(arguments) if a.kwarg_only else i, a.name)
                for i, a in enumerate(arguments)
                if (a.alias_info is not None and a.alias_info.is_write)
                or i in _HIDDEN_WRITES.get(name, ())
            ),
        )
        return found

    def _convert(self, value: Any, given: Mapping[int, int], written: set[int]) -> Any:
        """An argument in float64."""
        if isinstance(value, self._tensor):
            # What the operation writes must not be written twice.
            key = given[id(value)]
            return self._twin(value, key in written, key)
        if isinstance(value, NESTED):
            return [self._convert(each, given, written) for each in value]
        if isinstance(value, self.torch.dtype):
            return self._wide.get(value, value)
        if type(value) is float and value in self._items:
            return self._items[value]
        return value

    def _execute(self, func: Any, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if name in ("_softmax", "_log_softmax"):
            args[2] = False  # half_to_float, which float64 knows nothing of
        try:
            return self._special.get(name, func)(*args, **kwargs)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
            text = str(error).strip().splitlines()
            raise _LostError(f"{func} has no float64: {text[0] if text else error!r}") from None

    def _factory(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        if result.dtype in self._wide:
            wide = func(*args, **{**kwargs, "dtype": self._wide[result.dtype]})
            self._set(result, wide, func.__name__)

    def _of_integers(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        """Sets the twin of what is computed of integers alone, such as `torch.arange(4) / 3`."""
        if result.dtype not in self._wide or self._key(result) == 0:
            return
        try:
            wide_args = [self._doubled(each) for each in args]
            wide = func(*wide_args, **{k: self._doubled(v) for k, v in kwargs.items()})
        except Exception:  # its own numbers are its float64 then, as those of a batch
            return
        if wide.dtype == self._wide[result.dtype]:
            self._set(result, wide, func.__name__)

    def _doubled(self, value: Any) -> Any:
        """An argument with float64 numbers in place of integers."""
        if isinstance(value, self._tensor):
            return value.double()
        if isinstance(value, NESTED):
            return [self._doubled(each) for each in value]
        return self._wide.get(value, value) if isinstance(value, self.torch.dtype) else value

    def _random(self, func: Any, name: str, args: Any, kwargs: Any, written: list[Any]) -> Any:
        inputs = {self._key(t) for t in tensors_in(self.torch, (*args, *kwargs.values()))}
        twin: Any = None
        lost = ""
        if name in _DRAWING_LAYERS:
            try:
                twin = self._twin(args[0], True, self._key(args[0])).clone()
            except _LostError as reason:
                lost = str(reason)
        result = func(*args, **kwargs)
        output = result[0] if name == "native_dropout" else result
        if lost:
            self._lose(output, lost)
            return result
        if name == "native_dropout":
            self._set(output, twin * result[1] * (1 / (1 - args[1]) if args[1] < 1 else 0.0), name)
            return result
        if name in _DRAWING_LAYERS:
            noise = args[1].to(twin.dtype)
            self._set(output, self.torch.where(twin > 0, twin, twin * noise), name)
            return result
        for each in written:
            key = self._key(each)
            if key in self._twins and each.dtype in self._wide:
                self._set(each, each.to(self._wide[each.dtype]), name)
        used = [a for a in args if isinstance(a, self.torch.Tensor) and a.is_floating_point()]
        for each in tensors_in(self.torch, [result]):
            # The arguments of a drawing, as a mean, are not: its result would be another one.
            smooth = used and each.is_floating_point() and self._key(each) not in inputs
            if smooth and ("attention" in name or "rnn" in name or "dropout" in name):
                self._lose(each, f"{func} draws inside, where no recording reaches")
        return result

    def _note_item(self, value: Any, wide: Any) -> None:
        # The program goes on with a float32 number as Python's; where that comes back as an
        # argument, it is the float64 number's. A short one, as 0.5, may be one of the program's.
        if isinstance(value, float) and math.isfinite(value) and len(repr(value)) > 10:
            self._items[value] = float(wide)

    def _key(self, tensor: Any) -> int:
        try:
            return int(tensor.untyped_storage()._cdata)
        except (NotImplementedError, RuntimeError):  # sparse ones have none
            return 0

    def _twin(self, tensor: Any, force: bool, key: int) -> Any:
        narrow = tensor.dtype in self._wide
        if key == 0:
            if narrow:
                raise _LostError(f"a tensor of layout {tensor.layout} has no twin")
            return tensor
        size = tensor.untyped_storage().nbytes() // tensor.element_size()
        if key in self._twins:
            flat = self._twins[key][1]
            if isinstance(flat, str):
                raise _LostError(flat)
            wide_type = self._wide.get(tensor.dtype, tensor.dtype)
            if flat.dtype != wide_type:
                if flat.is_floating_point() == flat.is_complex() or not narrow:
                    return tensor if not force else self._new(tensor, key, size, wide_type)
                flat = flat.view(wide_type)
            if flat.numel() == size:
                return self._view(flat, tensor)
        elif not narrow and not force:
            return tensor
        return self._new(tensor, key, size, self._wide.get(tensor.dtype, tensor.dtype))

    def _new(self, tensor: Any, key: int, size: int, dtype: Any) -> Any:
        whole = self._lazily(tensor.detach(), tensor).as_strided((size,), (1,), 0)
        self._keep(tensor, key, whole.to(dtype, copy=True))
        return self._view(self._twins[key][1], tensor)

    def _view(self, flat: Any, tensor: Any) -> Any:
        view = flat.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset())
        return self._lazily(view, tensor)

    def _lazily(self, view: Any, tensor: Any) -> Any:
        # The memory of x.conj() and of its .imag is that of x: a flag says what is to be done.
        view = view.conj() if tensor.is_conj() else view
        return self.torch._neg_view(view) if tensor.is_neg() else view

    def _keep(self, tensor: Any, key: int, flat: Any) -> None:
        if key in self._twins:
            self._twins[key] = (self._twins[key][0], flat)
            return
        if not isinstance(flat, str):
            self._bytes += flat.nbytes
        if len(self._twins) >= self._sweep_at or self._bytes >= _BYTES:
            self._sweep()
        self._twins[key] = (tensor.untyped_storage()._weak_ref(), flat)

    def _sweep(self) -> None:
        """Drops the twins of tensors that are no more."""
        storage = self.torch.UntypedStorage
        for key in [k for k, (weak, _) in self._twins.items() if storage._expired(weak)]:
            storage._free_weak_ref(self._twins.pop(key)[0])
        self._sweep_at = len(self._twins) + max(64, len(self._twins) // 4)
        self._bytes = 0

    def _set(self, real: Any, wide: Any, name: str) -> None:
        if real.numel() == 0:
            return
        if wide.shape != real.shape:
            self._lose(real, f"{name} has another shape in float64: {tuple(wide.shape)}")
            return
        expected = self._wide.get(real.dtype, real.dtype)
        if wide.dtype != expected:
            if wide.dtype in self._wide or wide.dtype.is_complex != expected.is_complex:
                self._lose(real, f"{name} gives {wide.dtype} for float64")
                return
            wide = wide.to(expected)
        key = self._key(real)
        if key == 0:
            return
        exact = real.dtype not in self._wide and key not in self._twins
        if exact and self.torch.equal(real, wide):
            return
        size = real.untyped_storage().nbytes() // real.element_size()
        same = wide.stride() == real.stride() and real.numel() == size
        if same and wide.storage_offset() == 0 and real.storage_offset() == 0:
            self._keep(real, key, wide.as_strided((size,), (1,), 0))
            return
        self._twin(real, True, key).copy_(wide)

    def _lose(self, tensor: Any, reason: str) -> None:
        key = self._key(tensor)
        if key and (tensor.dtype in self._wide or key in self._twins):
            self._keep(tensor, key, reason)
