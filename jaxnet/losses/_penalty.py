"""Penalties on parameters, which a program adds to its loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet._names import Where, named_leaves, named_variables, select
from jaxnet.losses._kinks import absolute


def l1_penalty(params: Any, where: Where | None = None) -> jax.Array:
    """The sum of the absolute values of parameters.

    In torch it is `sum(p.abs().sum() for p in model.parameters())`.

    Args:
        params: The model, or a dictionary or other pytree of arrays. The parameters of a
            model are added in torch's order, those of a pytree in JAX's (dictionaries by
            sorted key).
        where: The choice of parameters, as everywhere in jaxnet: a pattern of the dotted
            name such as "*.weight", a list of patterns, or a function of (name, array). A
            pattern has to fit the whole name; it is no regular expression. None is all
            parameters.

    Returns:
        The penalty, one number. The derivative at 0 is 0, as in torch.

    Raises:
        ValueError: A pattern fits no name, or there are no parameters.
        TypeError: A parameter is not floating.

    >>> l1_penalty({"w": jnp.array([1.0, -2.0]), "b": jnp.array([5.0])}, where="w").item()
    3.0
    """
    return _penalty("l1_penalty", absolute, params, where)


def l2_penalty(params: Any, where: Where | None = None) -> jax.Array:
    """The sum of the squares of parameters.

    In torch it is `sum(p.pow(2.0).sum() for p in model.parameters())`.

    The arguments, the order and the errors are those of `l1_penalty`.

    >>> l2_penalty({"w": jnp.array([1.0, -2.0]), "b": jnp.array([5.0])}).item()
    30.0
    """
    return _penalty("l2_penalty", jnp.square, params, where)


def _penalty(
    penalty: str, f: Callable[[jax.Array], jax.Array], params: Any, where: Where | None
) -> jax.Array:
    named: dict[str, Any]
    if isinstance(params, nnx.Module):
        # A shared parameter is counted once, as in model.parameters().
        named = {name: p[...] for name, p in named_variables(params, nnx.Param)}
    else:
        named = {name: jnp.asarray(leaf) for name, leaf in named_leaves(params).items()}
    terms = []
    for name, array in select(f"{penalty}: where", where, named).items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{penalty}: {name!r} is {array.dtype}; parameters are floating")
        terms.append(f(array).sum())
    if not terms:
        raise ValueError(f"{penalty}: params: there are no parameters")
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
