"""Parameter groups and frozen parameters."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp

from jaxnet.optim.optimizer import Optimizer, leaf_names

__all__ = ["frozen", "groups"]

Choice = str | Sequence[str] | Callable[[str, Any], bool]


def frozen() -> Optimizer:
    """The optimizer of parameters that are not trained: no state, updates of zero."""

    def update(
        grads: Any, state: tuple[()], params: Any = None, **extra: Any
    ) -> tuple[Any, tuple[()]]:
        del params, extra
        return jax.tree.map(jnp.zeros_like, grads), state

    return Optimizer(lambda params: (), update, "frozen", None, (), lambda params: [])


def groups(rules: Sequence[tuple[Choice, Optimizer]], default: Optimizer) -> Optimizer:
    """Different optimizers for different parameters: torch's parameter groups.

    Args:
        rules: pairs of a choice and an optimizer; the first choice that fits a parameter
            counts. A choice is a pattern of its dotted name ("*.bias", "head.*"), a
            list of patterns, or a function of (name, parameter).
        default: for the parameters that no choice fits. It is the last group.

    Returns:
        One optimizer, whose groups are the rules' optimizers and the default, in this
        order, without the frozen ones.

    Raises:
        ValueError: (in init) a rule fits no parameter, so that a misspelt pattern does
            not pass in silence.

    Weight decay for matrices only, biases and norms without:

    >>> from jaxnet import optim
    >>> no_decay = optim.AdamW(1e-3, weight_decay=0)
    >>> optimizer = optim.groups([(lambda name, p: p.ndim < 2, no_decay)], optim.AdamW(1e-3))

    A frozen first layer:

    >>> optimizer = optim.groups([("conv1.*", optim.frozen())], optim.SGD(1e-2))
    """
    members = [optimizer for _, optimizer in rules] + [default]
    for i, optimizer in enumerate(members):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"groups: optimizer {i}: {type(optimizer).__name__}; "
                "accepted is an optimizer of jaxnet.optim"
            )
    choices = [choice for choice, _ in rules]

    def init(params: Any) -> tuple[Any, ...]:
        names, leaves = _named(params)
        parts = _assign(choices, names, leaves)
        for choice, part in zip(choices, parts, strict=False):
            if not part:
                raise ValueError(
                    f"groups: {choice!r} fits none of the parameters that are left; all are {names}"
                )
        return tuple(
            optimizer.init({names[i]: leaves[i] for i in part})
            for optimizer, part in zip(members, parts, strict=True)
        )

    def update(
        grads: Any, state: tuple[Any, ...], params: Any = None, **extra: Any
    ) -> tuple[Any, tuple[Any, ...]]:
        if params is None:
            raise ValueError("groups: update(grads, state, params) needs the parameters")
        names, leaves = _named(params)
        treedef: Any = jax.tree.structure(params)
        flat = treedef.flatten_up_to(grads)
        updates: list[Any] = [None] * len(leaves)
        new_state = []
        parts = _assign(choices, names, leaves)
        for optimizer, part, inner in zip(members, parts, state, strict=True):
            own = {names[i]: flat[i] for i in part}
            changes, inner = optimizer.update(
                own, inner, {names[i]: leaves[i] for i in part}, **extra
            )
            new_state.append(inner)
            for i in part:
                updates[i] = changes[names[i]]
        return treedef.unflatten(updates), tuple(new_state)

    def partition(params: Any) -> list[list[str]]:
        names, leaves = _named(params)
        parts = _assign(choices, names, leaves)
        return [
            group
            for optimizer, part in zip(members, parts, strict=True)
            for group in optimizer.partition({names[i]: leaves[i] for i in part})
        ]

    flat_groups = tuple(group for optimizer in members for group in optimizer.groups)
    return Optimizer(init, update, "groups", None, flat_groups, partition)


def _assign(
    choices: Sequence[Choice], names: Sequence[str], leaves: Sequence[Any]
) -> list[list[int]]:
    """Which parameters, by position, belong to each choice; the rest comes last."""
    parts: list[list[int]] = [[] for _ in range(len(choices) + 1)]
    for i, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        for part, choice in zip(parts, choices, strict=False):
            if _fits(choice, name, leaf):
                part.append(i)
                break
        else:
            parts[-1].append(i)
    return parts


def _fits(choice: Choice, name: str, leaf: Any) -> bool:
    if callable(choice):
        return bool(choice(name, leaf))
    patterns = [choice] if isinstance(choice, str) else choice
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _named(params: Any) -> tuple[list[str], list[Any]]:
    return leaf_names(params), jax.tree.leaves(params)
