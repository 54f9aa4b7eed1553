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

from flax import nnx

from jaxnet.parity._model_forms import is_model
from jaxnet.train._state import TrainState


class SubjectError(ValueError):
    """A program that cannot be compared with the trace."""


# What a port's function may return, by name; a tuple has some of them in these orders.
FORMS = (
    ("model", "loss"),
    ("model", "loss", "optimizer"),
    ("model", "loss", "optimizer", "batches"),
    ("step", "state"),
    ("step", "state", "batches"),
)


def load_port(name: str) -> dict[str, Any]:
    """What a port's function returns, by the names of the arguments of `check`.

    Args:
        name: The text as `load` takes it.

    Raises:
        SubjectError: There is no such function, or it returns something else.
    """
    made = load(name)
    if isinstance(made, Mapping):
        found = {str(key): value for key, value in made.items()}
    elif isinstance(made, tuple):
        states = (TrainState, Mapping, tuple, list, nnx.Module)
        known = len(made) == 3 and (isinstance(made[1], states) or hasattr(made[1], "apply_fn"))
        stepped = len(made) == 2 or known
        is_first = len(made) > 1 and (isinstance(made[0], nnx.Module) or is_model(made[0]))
        if is_first and callable(made[1]):
            stepped = False  # a model and its loss, which may be a module too
        if stepped and not callable(made[0]):  # (state, step)
            made = (made[1], made[0], *made[2:])
        names = next((f for f in FORMS if len(f) == len(made) and ("step" in f) == stepped), ())
        found = dict(zip(names, made, strict=bool(names)))
    else:
        found = {}
    if not any(found.keys() == {*form} for form in FORMS):
        raise SubjectError(
            f"{name}: it returned {_described(made)}; accepted are (model, loss, optimizer), with "
            "the batches of its loader as a fourth, to compare them too, (step, state), or (model, "
            "loss), of which no updates are compared"
        )
    return found


def _described(made: Any) -> str:
    if isinstance(made, tuple):
        return f"a tuple of {', '.join(type(part).__name__ for part in made) or 'nothing'}"
    if isinstance(made, Mapping):
        return f"a dictionary with the keys {', '.join(map(str, made)) or 'none'}"
    return "nothing (is a `return` missing?)" if made is None else f"a {type(made).__name__}"


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
