"""The calls of a model's modules, watched or changed from outside.

    def print_shapes(call, proceed):
        output = proceed(*call.args, **call.kwargs)
        print(call.name, output.shape)
        return output

    with nn.intercept(model, print_shapes):
        model(x)

Nothing stays registered after the context. The idea and the order are those of
`flax.linen.intercept_methods`. torch's forward hooks and forward pre-hooks stay registered until
they are removed; they go the same way.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Self

from flax import nnx

from jaxnet._names import named_modules


@dataclass(frozen=True)
class Call:
    """One call of one module, before the module runs.

    Attributes:
        name: The module's dotted name in the model, "" for the model itself. A module with
            several names has the first of them, as in `named_modules`.
        module: The module.
        args: The arguments by position.
        kwargs: The arguments by keyword.
    """

    name: str
    module: nnx.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Interceptor = Callable[[Call, Callable[..., Any]], Any]
"""`interceptor(call, proceed)` returns the output that the caller of the module gets.

`proceed(*args, **kwargs)` runs the call with these arguments and returns its output.
"""


@dataclass(frozen=True)
class _Interception:
    interceptor: Interceptor
    names: dict[int, str]  # by the module's id
    modules: list[nnx.Module] = field(repr=False)  # kept alive, so that no id is used again


# The interceptions that are open in this thread; the last one is asked first.
_open: ContextVar[tuple[_Interception, ...]] = ContextVar("jaxnet_interceptions", default=())

# Python looks `__call__` up on the class, so an open interception replaces it on the classes
# of its modules. Interceptions of several threads can share a class: the first one replaces
# `__call__`, the last one puts it back. What a call does depends on `_open` alone, so a thread
# without interceptions, or with another model, runs what it would have run anyway.
_lock = threading.Lock()
_users: dict[type, int] = {}
_originals: dict[type, Any] = {}
_INHERITED = object()


@contextmanager
def intercept(model: nnx.Module, interceptor: Interceptor) -> Iterator[None]:
    """Inside the context, every call of a module of the model goes through a function.

    Contexts nest: the one that was opened last is asked first, and its `proceed` leads to the
    one before. An interceptor that calls a module itself, instead of `proceed`, does not meet
    itself again. A context belongs to its thread. After an error everything is as it was.

    A module that is called several times is seen at each of its calls, and so is one that
    calls itself; `super().__call__` does not count as a call. Only `__call__` is watched, as
    torch's hooks watch only `forward`.

    Args:
        model: The model, a module of jaxnet or of plain flax. Its modules are those that
            belong to it when the context opens.
        interceptor: The function `interceptor(call, proceed)`, which is given a `Call` and
            returns the output: usually that of `proceed(*call.args, **call.kwargs)`,
            inspected or changed.

    Inside `jax.jit` the interceptor runs when the function is traced, and sees tracers; a
    compiled function that is called again runs no module and calls no interceptor. Functions
    that take a model apart and build it again, such as `nnx.jit`, `nnx.remat` and `nnx.scan`,
    run copies of the modules within them, which are not watched.

    Raises:
        TypeError: The model is not a module, or the interceptor is not a function.

    >>> import jax.numpy as jnp
    >>> from jaxnet import nn
    >>> from jaxnet.random import Generator
    >>> model = nn.Sequential(nn.Linear(3, 2, rngs=Generator(0)), nn.Tanh())
    >>> names = []
    >>> def note(call, proceed):
    ...     names.append(call.name)
    ...     return proceed(*call.args, **call.kwargs)
    >>> with nn.intercept(model, note):
    ...     y = model(jnp.ones((1, 3)))
    >>> names
    ['', '0', '1']
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"intercept: model: {type(model).__name__}; accepted is a flax.nnx module")
    if not callable(interceptor):
        raise TypeError(
            f"intercept: interceptor: {interceptor!r}; accepted is a function of (call, proceed)"
        )
    found = list(named_modules(model))
    names = {id(module): name for name, module in found}
    interception = _Interception(interceptor, names, [module for _, module in found])
    classes: set[Any] = {type(module) for module in interception.modules}
    classes = {c for c in classes if any("__call__" in vars(base) for base in c.__mro__)}
    _watch(classes)
    token = _open.set((*_open.get(), interception))
    try:
        yield
    finally:
        _open.reset(token)
        _leave(classes)


def is_intercepted() -> bool:
    """Whether an interception is open in this thread."""
    return bool(_open.get())


def _watch(classes: set[Any]) -> None:
    with _lock:
        for cls in classes:
            _users[cls] = _users.get(cls, 0) + 1
            if _users[cls] == 1:
                _originals[cls] = vars(cls).get("__call__", _INHERITED)
                cls.__call__ = _watched(cls, _originals[cls])


def _leave(classes: set[Any]) -> None:
    with _lock:
        for cls in classes:
            _users[cls] -= 1
            if _users[cls] == 0:
                original = _originals.pop(cls)
                del _users[cls]
                if original is _INHERITED:
                    del cls.__call__
                else:
                    cls.__call__ = original


def _watched(cls: Any, original: Any) -> Callable[..., Any]:
    """The function that replaces `__call__` of a class."""

    def run(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hooks = vars(module).get("_hooks")
        # An object of a subclass meets its hooks in the first of its classes that is watched: a
        # module that nn.utils.weight_norm gave another class keeps those of its former class.
        if hooks and next(base for base in type(module).__mro__ if base in _users) is cls:
            return _hooked(hooks, module, lambda *a, **k: plain(module, a, k), args, kwargs)
        return plain(module, args, kwargs)

    def plain(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if original is _INHERITED:
            return super(cls, module).__call__(*args, **kwargs)
        # `__call__` need not be a plain function: nnx.jit and the like return other objects.
        bound = original.__get__(module, cls) if hasattr(original, "__get__") else original
        return bound(*args, **kwargs)

    def call(module: Any, /, *args: Any, **kwargs: Any) -> Any:
        # An object of a subclass gets here by super().__call__, within its own call, which
        # has been intercepted already.
        asked = _open.get() if type(module) is cls else ()
        if not any(id(module) in one.names for one in asked):
            return run(module, args, kwargs)
        last = len(asked) - 1
        return _ask(asked, (), last, module, lambda *a, **k: run(module, a, k), args, kwargs)

    return call if original is _INHERITED else wraps(original)(call)


def _ask(
    asked: tuple[_Interception, ...],
    opened: tuple[_Interception, ...],
    last: int,
    module: nnx.Module,
    run: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The output of a call, after the interceptors that have not seen it yet.

    Args:
        asked: The interceptions that were open when the module was called, outermost first.
        opened: The interceptions that an interceptor opened around its `proceed`.
        last: The index in `asked` of the next interception to ask; -1 runs the module.
        module: The module.
        run: The function that runs the module: `run(*args, **kwargs)`.
        args: The arguments by position.
        kwargs: The arguments by keyword.
    """
    while last >= 0 and id(module) not in asked[last].names:
        last -= 1
    # While an interceptor runs, only the interceptions further out are open, so that it does
    # not see the calls that it makes itself; inside the module all of them are open again.
    before = asked if last < 0 else asked[:last]
    token = _open.set(before + opened)
    try:
        if last < 0:
            return run(*args, **kwargs)

        def proceed(*args: Any, **kwargs: Any) -> Any:
            now_opened = _open.get()[last:]
            return _ask(asked, now_opened, last - 1, module, run, args, kwargs)

        one = asked[last]
        return one.interceptor(Call(one.names[id(module)], module, args, kwargs), proceed)
    finally:
        _open.reset(token)


@dataclass(frozen=True, eq=False)
class _Hook:
    """A function that `Module.register_forward_hook` or `register_forward_pre_hook` was given.

    It is a static attribute of its module, so that a training step, which takes the model apart
    and builds it again, keeps it. Two hooks are equal only if they are the same.
    """

    function: Callable[..., Any]
    before: bool  # the call, and not after it
    with_kwargs: bool
    kind: type  # of the module

    def __deepcopy__(self, memo: Any) -> Self:
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _watch({self.kind})  # in a process that unpickles the model


class RemovableHandle:
    """What a registration of a hook returns: torch.utils.hooks.RemovableHandle.

    As a context manager it removes the hook at the end.
    """

    def __init__(self, module: Any, hook: _Hook) -> None:
        self._module = module
        self._hook = hook

    def remove(self) -> None:
        """Removes the hook from its module; copies of the module keep theirs."""
        left = tuple(hook for hook in self._module._hooks if hook is not self._hook)
        object.__setattr__(self._module, "_hooks", left)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()


def add_hook(
    module: Any, function: Callable[..., Any], before: bool, prepend: bool, with_kwargs: bool
) -> RemovableHandle:
    """Registers a hook; the arguments are those of `Module.register_forward_hook`."""
    if not callable(function):
        raise TypeError(f"hook: {function!r}; accepted is a function")
    cls = type(module)
    hook = _Hook(function, before, with_kwargs, cls)
    _watch({cls})  # for ever: a copy of the module may have the hook when this one has not
    hooks = module._hooks
    object.__setattr__(module, "_hooks", (hook, *hooks) if prepend else (*hooks, hook))
    return RemovableHandle(module, hook)


def _hooked(
    hooks: tuple[_Hook, ...],
    module: Any,
    run: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """The output of a call, after the hooks of its module."""
    for hook in hooks:
        if not hook.before:
            continue
        changed = hook.function(module, args, *((kwargs,) if hook.with_kwargs else ()))
        if changed is None:
            continue
        if not hook.with_kwargs:
            args = changed if isinstance(changed, tuple) else (changed,)
        elif isinstance(changed, tuple) and len(changed) == 2:
            args, kwargs = changed
        else:
            raise TypeError(
                f"forward pre-hook: it returned {type(changed).__name__}; with_kwargs=True "
                "accepts None or the pair (args, kwargs)"
            )
    output = run(*args, **kwargs)
    for hook in hooks:
        if not hook.before:
            given = (args, kwargs) if hook.with_kwargs else (args,)
            changed = hook.function(module, *given, output)
            output = output if changed is None else changed
    return output
