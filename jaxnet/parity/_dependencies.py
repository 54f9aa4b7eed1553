"""Which outputs of calls a traced program computes an array from."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import Literal

Names = frozenset[str]


def dependencies(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Names]:
    """The names (`jax.ad_checkpoint.checkpoint_name`) that each array of a result depends on.

    An array that has a name itself depends on nothing else, so that the names are those of the
    last named arrays before. Of a function within, as the body of a loop, every result depends on
    every argument.

    Args:
        function: The function.
        *args: What it is traced with.
    """
    names: list[str] = []

    def flat(*args: Any) -> list[Any]:
        found = function(*args)
        names[:] = found
        return [*found.values()]

    jaxpr = jax.make_jaxpr(flat)(*args).jaxpr
    known: dict[Any, Names] = {}

    def of(variable: Any) -> Names:
        return frozenset() if isinstance(variable, Literal) else known.get(variable, frozenset())

    for equation in jaxpr.eqns:
        found: Names = frozenset().union(*map(of, equation.invars))
        parameters: Mapping[str, Any] = equation.params
        if equation.primitive.name == "name":
            found = frozenset((parameters["name"],))
        known.update(dict.fromkeys(equation.outvars, found))
    return {name: of(variable) for name, variable in zip(names, jaxpr.outvars, strict=True)}
