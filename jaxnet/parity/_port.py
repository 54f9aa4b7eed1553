"""The program that is checked, found by its name on the command line."""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


class SubjectError(ValueError):
    """A program that cannot be compared with the trace."""


def load_port(name: str) -> tuple[Any, Any, Any, Any, Any]:
    """What a port's function returns: (model, loss, optimizer, step, state), some of them None.

    Args:
        name: The text as `load` takes it.

    Raises:
        SubjectError: There is no such function, or it returns something else.
    """
    made = load(name)
    if isinstance(made, Mapping):
        made = tuple(made[k] for k in ("model", "loss", "optimizer", "step", "state") if k in made)
    if isinstance(made, tuple) and len(made) == 3:
        return (*made, None, None)
    if isinstance(made, tuple) and len(made) == 2 and all(map(callable, made)):
        return (*made, None, None, None)  # a model and its loss
    if isinstance(made, tuple) and len(made) == 2:
        step, state = made if callable(made[0]) else made[::-1]
        return (None, None, None, step, state)
    raise SubjectError(
        f"{name}: it returned {type(made).__name__}; accepted is (model, loss, optimizer), "
        "(step, state), or (model, loss) to compare no updates"
    )


def module_of(name: str) -> ModuleType:
    """The module of "file.py:function" or "module:function"."""
    where = name.rpartition(":")[0]
    return _from_file(Path(where)) if where.endswith(".py") else _module(where)


def load(name: str) -> Any:
    """What a function without arguments returns.

    Args:
        name: "file.py:function", or "module:function", whose module is looked for in the current
            folder first.

    Raises:
        SubjectError: There is no such function, or it needs arguments.
    """
    where, _, function = name.rpartition(":")
    if not where or not function:
        raise SubjectError(
            f"{name}: accepted is FILE.py:FUNCTION or MODULE:FUNCTION, such as port.py:make"
        )
    module = module_of(name)
    make = getattr(module, function, None)
    if make is None:
        names = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        near = difflib.get_close_matches(function, names, n=1) or names[:5]
        raise SubjectError(
            f"{name}: {where} has no {function}; its functions are {', '.join(near) or 'none'}. "
            "Write one that returns (model, loss, optimizer)"
        )
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise SubjectError(
            f"{name}: {error}; accepted is a function that needs no arguments"
        ) from error
    return make()


def _module(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:  # the module is there, and what it imports is not
            raise
        raise SubjectError(
            f"{name}: there is no such module in {folder} or where Python finds modules; a file "
            f"is given as {name}.py:make"
        ) from error


def _from_file(path: Path) -> ModuleType:
    """The module of a file, which finds its neighbours as a script does."""
    path = path.resolve()
    if not path.exists():
        raise SubjectError(f"{path}: there is no such file")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # Another module may have the name of the file: `train.py`, `types.py`.
    for name in (path.stem, str(path)):
        known = sys.modules.get(name)
        if known is None:
            break
        if getattr(known, "__file__", None) == str(path):
            return known
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
