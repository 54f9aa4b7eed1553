"""Changes that a model undergoes inside functions that JAX transforms, and `checkpoint`.

JAX computes the derivative of a function, or compiles it, by calling it once with tracers in place
of arrays. A tracer exists only while this call lasts, so what a model outside of the function may
keep is only what does not depend on the function's own tracers. That is so for running
statistics under `jax.grad`, `jax.jvp`, `jax.hessian` and the like: `lax.stop_gradient` gives the
value that the function would have without differentiation. It is not so in functions that JAX
compiles (`jax.jit`, `jax.checkpoint`, `lax.cond`, `lax.scan`), which have no values at all while
they are traced, and under `jax.vmap`, which has several for one.
"""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.errors import TraceContextError
from jax import lax
from jax.extend.core import set_current_trace, take_current_trace

from jaxnet._names import is_module


class _Carried:
    """The variables that the function of one call of `checkpoint` changes.

    Attributes:
        trace: The trace of the function.
        before: The variables that the function has changed, by id, and their values before.
    """

    def __init__(self) -> None:
        self.trace: Any = None
        self.before: dict[int, tuple[nnx.Variable[Any], Any]] = {}


_open: ContextVar[tuple[_Carried, ...]] = ContextVar("jaxnet_checkpoints", default=())


def change(changed: Any, name: str, write: Callable[[], None], value: Any) -> None:
    """Changes a variable or a module, also one from outside of a function that is differentiated.

    Args:
        changed: The variable or module.
        name: The name of the attribute that is written.
        write: The function that writes it, which flax allows only in the trace in which the
            variable or module was made.
        value: The value that is written.

    Raises:
        ValueError: The value exists only inside of a function that JAX transforms, and the
            variable or module outside.
    """
    try:
        return write()
    except TraceContextError:
        pass
    # The result of an operation of constants shows whether the function is compiled: then it, too,
    # exists only inside.
    values = [lax.add(np.float32(0), np.float32(0)), *jax.tree.leaves(value)]
    carried = None
    traces = list(_traces())
    for i, trace in enumerate(traces):
        if carried is None and not all(_exists(value, traces[i:]) for value in values):
            break
        with set_current_trace(trace):
            try:
                return write()
            except TraceContextError:
                pass
        if carried is None and isinstance(changed, nnx.Variable):
            carried = next((c for c in _open.get() if c.trace is trace), None)
            if carried is not None:  # `checkpoint` takes the value out of the function
                carried.before.setdefault(id(changed), (changed, changed.get_raw_value()))
    raise ValueError(_refused(changed, name))


def _refused(changed: Any, name: str) -> str:
    kind = type(changed).__name__
    if not isinstance(changed, nnx.Variable):
        return (
            f"{kind}.{name} cannot change inside a function that JAX compiles (jax.jit, "
            "jax.checkpoint, lax.cond, lax.scan and the like) when the model comes from outside, "
            "because such a function runs in Python once for many calls. Call model.eval() and "
            "model.train() outside of it, or nnx.clone(model) inside, whose changes are forgotten"
        )
    return (
        f"a {kind} from outside cannot keep a value that exists only inside a function that JAX "
        "transforms (jax.jit, jax.vmap, jax.checkpoint, lax.cond, lax.scan and the like). Write "
        "nn.checkpoint(model, x) for jax.checkpoint; or give the model as an argument to flax's "
        "own form, as in nnx.jit(lambda model, x: model(x))(model, x), nnx.cond or nnx.scan; or "
        "call nnx.clone(model) inside, whose changes are forgotten; or call model.eval() outside, "
        "since in training mode BatchNorm changes its running statistics. Inside jax.grad a "
        "buffer takes jax.lax.stop_gradient(value)"
    )


def _traces() -> Iterator[Any]:
    """The traces that are going on, from the innermost to the outermost."""
    with take_current_trace() as trace:
        pass
    while trace is not None:
        yield trace
        trace = getattr(trace, "parent_trace", None)


def _exists(value: Any, traces: list[Any]) -> bool:
    """Whether a value exists outside of all but the given traces."""
    own = getattr(value, "_trace", None)
    return not isinstance(value, jax.core.Tracer) or any(own is trace for trace in traces)


def checkpoint(
    function: Callable[..., Any], *args: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """Calls a function whose intermediate results the backward pass computes again.

    Equivalent of torch.utils.checkpoint.checkpoint: it saves memory and costs time. The function
    may be a module, a method, or any function that uses modules. BatchNorm in it moves its running
    statistics once; in torch they move twice, because torch calls the function again. Random
    layers draw the same numbers both times.

    Args:
        function: The function, such as a block of layers.
        *args: The function's arguments.
        use_reentrant: Accepted for compatibility, without effect.
        **kwargs: The function's arguments by keyword.

    Returns:
        What the function returns.

    >>> import jax.numpy as jnp
    >>> from jaxnet import nn
    >>> block = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh())
    >>> y = nn.checkpoint(block, jnp.array([[1.0, 10.0], [3.0, 30.0]]))
    >>> block[0].running_mean[...]
    Array([0.2, 2. ], dtype=float32)
    """
    del use_reentrant
    if not callable(function):
        raise TypeError(
            f"checkpoint: function: {type(function).__name__}; accepted is a function or a "
            "module, followed by its arguments: nn.checkpoint(block, x)"
        )
    # Only arrays go through JAX; a module has to stay the same object.
    tree: Any
    leaves, tree = jax.tree.flatten((args, kwargs), is_module)
    numbers = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]
    carried = _Carried()

    def run(arrays: list[Any]) -> tuple[Any, list[Any]]:
        carried.trace = next(_traces())
        given = list(leaves)
        for i, array in zip(numbers, arrays, strict=True):
            given[i] = array
        token = _open.set((*_open.get(), carried))
        try:
            inside, by_name = tree.unflatten(given)
            output = function(*inside, **by_name)
            return output, [v.get_raw_value() for v, _ in carried.before.values()]
        finally:
            _open.reset(token)
            for variable, before in carried.before.values():
                _restore(variable, before)

    output, values = jax.checkpoint(run)([leaves[i] for i in numbers])
    for (variable, _), value in zip(carried.before.values(), values, strict=True):
        variable.set_value(value)
    return output


def _restore(variable: nnx.Variable[Any], value: Any) -> None:
    for trace in _traces():
        with set_current_trace(trace):
            try:
                return variable.set_raw_value(value)
            except TraceContextError:
                continue
