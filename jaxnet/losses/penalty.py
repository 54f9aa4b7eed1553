"""Penalties on parameters, to be added to a loss."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxnet.losses.kinks import absolute

__all__ = ["l1_penalty", "l2_penalty"]

Where = Callable[[str], bool] | str | None


def l1_penalty(params: Any, where: Where = None) -> jax.Array:
    """sum_p sum |p|: `sum(p.abs().sum() for p in model.parameters())` in torch.

    Args:
        params: a model, or a dictionary or other pytree of arrays. A model's parameters
            are added in torch's order, a pytree's in JAX's (dictionaries by sorted key).
        where: which of them: a function of the dotted name ("fc1.weight"), or a
            regular expression that is searched for in it. None takes all.

    Returns:
        One number. The slope at 0 is 0, as in torch.

    Raises:
        ValueError: if no parameter is left.
        TypeError: for an array that is not floating.

    >>> l1_penalty({"w": jnp.array([1.0, -2.0]), "b": jnp.array([5.0])}, where="w").item()
    3.0
    """
    return _penalty("l1_penalty", absolute, params, where)


def l2_penalty(params: Any, where: Where = None) -> jax.Array:
    """sum_p sum p^2: `sum(p.pow(2.0).sum() for p in model.parameters())` in torch.

    Arguments, order and errors are those of `l1_penalty`.

    >>> l2_penalty({"w": jnp.array([1.0, -2.0]), "b": jnp.array([5.0])}).item()
    30.0
    """
    return _penalty("l2_penalty", jnp.square, params, where)


def _penalty(
    penalty: str, f: Callable[[jax.Array], jax.Array], params: Any, where: Where
) -> jax.Array:
    accepts = where if callable(where) else re.compile(where or "").search
    arrays = dict(_named(params))
    terms = []
    for name, array in arrays.items():
        if accepts(name):
            if not jnp.issubdtype(array.dtype, jnp.floating):
                raise TypeError(f"{penalty}: {name!r} is {array.dtype}; parameters are floating")
            terms.append(f(array).sum())
    if not terms:
        raise ValueError(f"{penalty}: where={where!r} leaves none of {list(arrays)}")
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _named(params: Any) -> Iterator[tuple[str, jax.Array]]:
    """Arrays by dotted name, shared ones once, in a definite order."""
    if hasattr(params, "named_parameters"):
        for name, parameter in params.named_parameters():
            yield name, parameter[...]
    elif isinstance(params, nnx.Module):
        for path, variable in nnx.to_flat_state(nnx.state(params, nnx.Param)):
            yield ".".join(map(str, path)), variable[...]
    else:
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
            yield jax.tree_util.keystr(path, simple=True, separator="."), jnp.asarray(leaf)
