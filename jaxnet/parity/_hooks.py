"""What is replaced in torch while a program is recorded, and put back afterwards."""

import functools
import importlib
from collections.abc import Callable
from contextlib import ExitStack
from types import FunctionType
from typing import Any

from jaxnet.parity._functions import functions, operations

CLOSURE = (
    "the closure of its optimizer draws random numbers, or takes another batch, each time that it "
    "is evaluated, and the evaluations of a JAX program are one function of the parameters"
)


def counted(recorder: Any, optimizer: Any, closure: Any) -> Any:
    """The closure of a step, which an optimizer such as LBFGS evaluates several times."""
    if not callable(closure):
        return closure

    def evaluate() -> Any:
        recorder.evaluations += 1
        if recorder.repeating:
            recorder.step.evaluate_again(optimizer)
        return closure()

    return evaluate


def watch_torch(recorder: Any) -> ExitStack:
    """Lets a recording see what torch runs.

    Returns:
        What closes it.
    """
    torch = recorder.torch
    loader: Any = importlib.import_module("torch.utils.data.dataloader")
    optimizer: Any = importlib.import_module("torch.optim.optimizer")
    with ExitStack() as exits:

        def patch(owner: Any, name: str, method: Callable[..., Any]) -> None:
            original = vars(owner)[name]

            def replaced(*args: Any, **kwargs: Any) -> Any:
                if not recorder.watching():
                    return original(*args, **kwargs)
                return method(original, *args, **kwargs)

            replaced.__name__, replaced.__doc__ = name, original.__doc__
            setattr(owner, name, replaced)
            exits.callback(setattr, owner, name, original)

        patch(torch.nn.Module, "__call__", recorder.module_called)
        patch(torch.autograd, "backward", recorder.backward_called)
        patch(torch.optim.Optimizer, "zero_grad", recorder.zero_grad_called)
        patch(torch.nn.Module, "zero_grad", recorder.zero_grad_called)
        patch(loader.DataLoader, "__iter__", recorder.loader_started)
        patch(loader._BaseDataLoaderIter, "__next__", recorder.batch_taken)
        _watch_classes(recorder, exits)
        pre = optimizer.register_optimizer_step_pre_hook(recorder.before_optimizer)
        exits.callback(pre.remove)
        post = optimizer.register_optimizer_step_post_hook(recorder.after_optimizer)
        exits.callback(post.remove)
        recorder.modes = (
            functions(recorder.function_called, recorder.makers),
            operations(recorder.operation_called),
        )
        for mode in recorder.modes:
            exits.enter_context(mode)
        return exits.pop_all()


def _watch_classes(recorder: Any, exits: ExitStack) -> None:
    """Lets `model.forward(x)` be recorded too, which does not go through `model(x)`.

    And how modules are built.
    """
    base = recorder.torch.nn.Module

    def watch(cls: Any) -> None:
        forward, init = vars(cls).get("forward"), vars(cls).get("__init__")
        if isinstance(forward, FunctionType):
            watch_forward(cls, forward)
        if isinstance(init, FunctionType):
            watch_init(cls, init)

    def watch_forward(cls: Any, forward: FunctionType) -> None:
        @functools.wraps(forward)
        def replaced(module: Any, *args: Any, **kwargs: Any) -> Any:
            # Within the module's own call it is what the call runs, or super().forward(x).
            if not recorder.watching() or recorder.step.forward.innermost is module:
                return forward(module, *args, **kwargs)
            return recorder.module_called(forward, module, *args, **kwargs)

        cls.forward = replaced
        exits.callback(setattr, cls, "forward", forward)

    def watch_init(cls: Any, init: FunctionType) -> None:
        @functools.wraps(init)
        def replaced(module: Any, *args: Any, **kwargs: Any) -> None:
            # A class may have got another constructor since, as that of a dataclass, which calls
            # this one with arguments of its own.
            whole = type(module).__init__ is replaced
            if not whole or not recorder.watching() or recorder.writer.steps:
                init(module, *args, **kwargs)
            else:
                recorder.constructions.run(init, module, args, kwargs)

        cls.__init__ = replaced
        exits.callback(setattr, cls, "__init__", init)

    def subclass_made(cls: Any, /, **kwargs: Any) -> None:
        super(base, cls).__init_subclass__(**kwargs)
        watch(cls)

    watch_init(base, vars(base)["__init__"])
    seen: set[Any] = set()
    left = type.__subclasses__(base)
    while left:
        if (cls := left.pop()) not in seen:
            seen.add(cls)
            watch(cls)
            left += type.__subclasses__(cls)
    base.__init_subclass__ = classmethod(subclass_made)
    exits.callback(delattr, base, "__init_subclass__")
