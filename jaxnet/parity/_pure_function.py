"""Models that are plain functions of their parameters and inputs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from jaxnet.parity._foreign_model import Arrays, ForeignModel, Library, arrays_in, filled
from jaxnet.parity._port import SubjectError


class PureFunction(Library):
    """A model that is a function of (params, inputs), or of (params, state, inputs).

    Args:
        function: The function. With a state it returns its output and the new state.
        params: Its parameters, any pytree of arrays.
        state: Its state, any pytree of arrays; None for a function that has none.
    """

    title = "function"

    def __init__(self, function: Callable[..., Any], params: Any, state: Any = None) -> None:
        self.function, self.params, self.state = function, params, state

    def trees(self) -> tuple[Any, Any]:
        return self.params, self.state

    def _given(self) -> tuple[Arrays, Arrays]:
        return arrays_in(self.params, nnx.Param), arrays_in(self.state, nnx.Variable)

    def run(self, model: ForeignModel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        arrays = model.arrays()
        first = [self.trained.tree(arrays)]
        if self.state is not None:
            first.append(self.states.tree(arrays))
        keys = dict.fromkeys(("key", "rng", "dropout_key", "dropout_rng"), jax.random.key(0))
        # A criterion gives the inputs, and the parameter after them may be the key.
        given = filled(self.title, self.function, len(first) + len(args), kwargs, keys)
        found = self.function(*first, *args, **given)
        if self.state is None:
            return found
        if not isinstance(found, tuple) or len(found) != 2:
            raise SubjectError(
                f"check: model: a state was given, and the function returned "
                f"{type(found).__name__}; accepted is the pair of its output and the new state"
            )
        output, state = found
        model.put(self.states.named(state))
        return output

    def unseen(self) -> str:
        name = getattr(self.function, "__name__", "the model")
        return (
            f"{name} is a function without layers: outputs, losses, gradients and updates were "
            "compared, and not what it computes in between"
        )
