"""What torch calls while a program is recorded: its functions and its operations, as modes."""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_OWN = str(Path(__file__).parent)

# Functions that compute nothing, or whose result is the argument.
SILENT = {
    "allclose", "arange", "array", "as_tensor", "backward", "bool", "broadcast_shapes",
    "can_cast", "contains", "cpu", "cuda", "data", "data_ptr", "deepcopy", "dim",
    "element_size", "empty", "empty_like", "equal", "float", "format", "from_numpy", "full",
    "full_like", "get_device", "hash", "index", "int", "is_complex", "is_contiguous",
    "is_floating_point", "is_inference", "is_nonzero", "is_same_size", "is_signed",
    "is_storage", "is_tensor", "item", "len", "linspace", "manual_seed", "ndimension",
    "new_full", "new_ones", "new_tensor", "new_zeros", "numel", "numpy", "ones", "ones_like",
    "pin_memory", "reduce_ex", "register_hook", "repr", "requires_grad_", "result_type",
    "retain_grad", "set_", "share_memory_", "size", "storage_offset", "stride", "tensor",
    "tolist", "untyped_storage", "zero_", "zeros", "zeros_like",
}  # fmt: skip
# Attributes that are functions: x.T and the like.
_ATTRIBUTES = {"T", "mT", "H", "mH", "real", "imag"}


def operations(handle: Callable[[Any, Any, dict[str, Any]], Any]) -> Any:
    """A context in which every operation of torch's goes through a function.

    Args:
        handle: A function of the operation, its arguments and keywords that returns the result.
    """
    dispatch: Any = importlib.import_module("torch.utils._python_dispatch")

    class Operations(dispatch.TorchDispatchMode):  # type: ignore[misc]
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # torch wraps the method otherwise, which every operation would pay for

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            return handle(func, args, kwargs or {})

    return Operations()


def functions(
    handle: Callable[[str, Any, Any, dict[str, Any]], Any], makers: Container[Any] = ()
) -> Any:
    """A context in which outermost calls of torch's functions go through a function.

    Args:
        handle: A function of the function's name ("" for one that computes nothing), the
            function, its arguments and keywords that returns the result.
        makers: The functions that make arrays of Python's numbers, which go through it too.
    """
    overrides: Any = importlib.import_module("torch.overrides")
    names: dict[Any, str] = {}

    class Functions(overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            name = names.get(func)
            if name is None:
                name = names[func] = _name(func)
            if not name and func not in makers:  # most calls are of attributes
                return func(*args, **kwargs) if kwargs else func(*args)
            return handle(name, func, args, kwargs or {})

    return Functions()


@contextmanager
def lifted(*modes: Any) -> Iterator[None]:
    """A context in which modes of torch's do not see what is called, nor cost anything.

    Args:
        *modes: What `functions` and `operations` gave. One that another mode lies over stays.
    """
    core: Any = importlib.import_module("torch._C")
    overrides: Any = importlib.import_module("torch.overrides")
    dispatch: Any = importlib.import_module("torch.utils._python_dispatch")
    off = []
    for mode in modes:
        of_functions = isinstance(mode, overrides.TorchFunctionMode)
        stack = overrides if of_functions else dispatch
        size = core._len_torch_function_stack if of_functions else core._len_torch_dispatch_stack
        at = core._get_function_stack_at if of_functions else core._get_dispatch_stack_at
        if size() and at(size() - 1) is mode:
            stack._pop_mode()
            off.append((mode, stack, size, size()))
    try:
        yield
    finally:
        for mode, stack, size, below in reversed(off):
            # A generator may have left a mode of its own open, whose place is over this one.
            over = [stack._pop_mode() for _ in range(size() - below)]
            for each in (mode, *reversed(over)):
                stack._push_mode(each)


def _name(func: Any) -> str:
    """The name of a function: "gelu", "add" for `x + y`, "T" for `x.T`; "" for a silent one."""
    name = str(getattr(func, "__name__", ""))
    if name == "__get__":
        name = str(getattr(getattr(func, "__self__", None), "__name__", ""))
        return name if name in _ATTRIBUTES else ""
    if name in ("__set__", "__delete__"):
        return ""
    if getattr(func, "__module__", "") == "torch.nn.init":
        return ""
    plain = name.strip("_") if name.startswith("__") else name
    return "" if plain in SILENT or plain.startswith("_") else plain


def where(skip: tuple[str, ...]) -> str:
    """File and line of the innermost line of the user's that is being run, "model.py:88".

    Args:
        skip: Folders whose code is not the user's.
    """
    frame = caller(skip)
    if frame is None:
        return ""
    return f"{nearer(frame.f_code.co_filename, os.getcwd())}:{frame.f_lineno}"


@functools.lru_cache(1000)
def nearer(file: str, folder: str) -> str:
    """The way to a file from the current folder, if it leads into it."""
    way = file if not file or file.startswith("<") else os.path.relpath(file, folder)
    return file if way.startswith("..") else way


def refresh_locals() -> None:
    """Lets the frames forget what their variables were.

    Before Python 3.13 a frame keeps the values that were there when it was last looked at, so
    that an optimizer that the program has replaced would live on.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        getattr(frame, "f_locals", None)
        frame = frame.f_back


def caller(skip: tuple[str, ...]) -> Any:
    """The innermost frame of the user's code."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_OWN, *skip)):
            return frame
        frame = frame.f_back
    return None
