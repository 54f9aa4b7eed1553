"""The outputs of inner modules, as values that a call returns."""

from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxnet._intercept import Call, intercept
from jaxnet._names import Where, named_modules, select


def activations(
    model: nnx.Module, where: Where, /, *args: Any, **kwargs: Any
) -> tuple[Any, dict[str, Any]]:
    """Calls a model and returns its output and the outputs of modules inside.

    They are values like the output itself, so the call may stand in a compiled function, in a
    loss and under jax.grad. A penalty on activations is a sum over the dictionary. In torch this
    takes a forward hook for each module.

    Args:
        model: The model, a module of jaxnet or of plain flax.
        where: Which modules: a pattern of their dotted names such as "layer1.*", a list of
            patterns, or a function of (name, module). The model's own name is "".
        *args: The arguments of the model.
        **kwargs: The keyword arguments of the model.

    Returns:
        The pair of the model's output, and the outputs by module name, in the order of the calls.
        A module that is called again has "name#2", "name#3" and so on; one that is not called has
        none.

    Raises:
        ValueError: A pattern fits no module.
        TypeError: The model is not a module, or where is none of these.

    >>> import jax.numpy as jnp
    >>> from jaxnet import nn
    >>> model = nn.Sequential(nn.ReLU(), nn.Tanh())
    >>> output, inner = nn.activations(model, "0", jnp.array([-1.0, 2.0]))
    >>> inner["0"].tolist()
    [0.0, 2.0]
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"activations: model: {type(model).__name__}; accepted is a flax.nnx module"
        )
    chosen = select("activations: where", where, dict(named_modules(model)))
    found: dict[str, Any] = {}
    calls: dict[str, int] = {}

    def note(call: Call, proceed: Callable[..., Any]) -> Any:
        output = proceed(*call.args, **call.kwargs)
        if call.name in chosen:
            calls[call.name] = count = calls.get(call.name, 0) + 1
            found[call.name if count == 1 else f"{call.name}#{count}"] = output
        return output

    with intercept(model, note):
        output = model(*args, **kwargs)
    return output, found
