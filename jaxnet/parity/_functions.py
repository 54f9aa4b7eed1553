"""What torch calls while a program is recorded: its functions and its operations, as modes."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_OWN = str(Path(__file__).parent)

# Functions that compute nothing, or whose result is the argument.
SILENT = {
    "backward", "register_hook", "requires_grad_", "retain_grad", "size", "dim", "stride", "numel",
    "is_floating_point", "is_complex", "data_ptr", "untyped_storage", "storage_offset", "item",
    "tolist", "numpy", "cpu", "cuda", "is_contiguous", "zero_", "share_memory_", "pin_memory",
    "tensor", "as_tensor", "from_numpy", "zeros", "ones", "empty", "full", "arange", "linspace",
    "zeros_like", "ones_like", "empty_like", "full_like", "new_zeros", "new_ones", "new_full",
    "new_tensor", "manual_seed", "set_", "data", "len", "repr", "format", "bool", "float", "int",
    "index", "hash", "contains", "deepcopy", "reduce_ex", "array", "element_size", "ndimension",
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
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            return handle(func, args, kwargs or {})

    return Operations()


def functions(handle: Callable[[str, Any, Any, dict[str, Any]], Any]) -> Any:
    """A context in which every outermost call of a function of torch's goes through a function.

    Args:
        handle: A function of the function's name ("" for one that computes nothing), the
            function, its arguments and keywords that returns the result.
    """
    overrides: Any = importlib.import_module("torch.overrides")
    names: dict[Any, str] = {}

    class Functions(overrides.TorchFunctionMode):  # type: ignore[misc]
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            name = names.get(func)
            if name is None:
                name = names[func] = _name(func)
            return handle(name, func, args, kwargs or {})

    return Functions()


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
    return "" if plain in SILENT else plain


def where(skip: tuple[str, ...]) -> str:
    """File and line of the innermost line of the user's that is being run, "model.py:88".

    Args:
        skip: Folders whose code is not the user's.
    """
    frame = caller(skip)
    if frame is None:
        return ""
    file = frame.f_code.co_filename
    if not file.startswith("<"):
        nearer = os.path.relpath(file)
        file = file if nearer.startswith("..") else nearer
    return f"{file}:{frame.f_lineno}"


def caller(skip: tuple[str, ...]) -> Any:
    """The innermost frame of the user's code."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_OWN, *skip)):
            return frame
        frame = frame.f_back
    return None
